//! Wrong input of every kind: each is answered with a code, a reason that programs can tell, and words that say what to
//! do; nothing is changed by it. docs/errors.md lists the same, and is held to what the binary really says.

mod calls;
mod document;
mod events;
mod limits;
mod processes;
mod questions;

use inroad_wire::v1;

use crate::harness::{Api, Server, gauge};

/// Everything that a wrong call could have changed.
#[derive(Debug, PartialEq)]
struct Standing {
    experiments: Vec<v1::Experiment>,
    audit: usize,
    log_head: f64,
}

async fn standing(server: &Server, api: &Api) -> Standing {
    let list = v1::ListExperimentsRequest { page_size: 1_000, ..v1::ListExperimentsRequest::default() };
    let mut experiments = api.experiments().list_experiments(list).await.expect("a list").into_inner().experiments;
    for experiment in &mut experiments {
        if experiment.clock.is_none_or(|clock| !clock.manual) {
            experiment.now = None;
        }
    }
    Standing { experiments, audit: api.audit("").await.len(), log_head: gauge(server.address, "inroad_log_head").await }
}
