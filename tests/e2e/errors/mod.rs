//! Invalid input of every kind. Each error has a code, a reason for programs and a message that says what to do, and
//! changes nothing. docs/errors.md lists the same errors; these tests compare it with the answers of the binary.

mod assignments;
mod calls;
mod document;
mod events;
mod processes;
mod server_limits;

use inroad_wire::v1;

use crate::harness::{Api, Server, metric_value};

/// Everything that an invalid call might have changed.
#[derive(Debug, PartialEq)]
struct StoredState {
    experiments: Vec<v1::Experiment>,
    audit_entries: usize,
    log_head: f64,
}

impl StoredState {
    async fn read(server: &Server, api: &Api) -> Self {
        let list = v1::ListExperimentsRequest { page_size: 1_000, ..v1::ListExperimentsRequest::default() };
        let mut experiments = api.experiments().list_experiments(list).await.expect("a list").into_inner().experiments;
        for experiment in &mut experiments {
            // The wall clock advances by itself.
            if experiment.clock.is_none_or(|clock| !clock.manual) {
                experiment.now = None;
            }
        }
        let log_head = metric_value(server.address, "inroad_log_head").await;
        Self { experiments, audit_entries: api.audit("").await.len(), log_head }
    }
}
