//! Calls that are refused as a whole. After each of them, experiments, the audit log and the event log are unchanged.
//! Each module has the calls of one subject, in the order of the table in docs/errors.md.

mod clients;
mod clock_and_policy;
mod declarations;
mod funnels;
mod growth;
mod life_cycle;
mod lookups;
mod request_limits;

use std::fmt::Debug;

use inroad_wire::v1;
use inroad_wire::v1::grow_variation_request::Amount;
use tonic::{Response, Status};

use super::{StoredState, document};
use crate::harness::{Api, Refusal, Server, flag, with_conversion_metrics, with_manual_clock, with_thompson_policy};

/// The start of the manual clock, in seconds since the Unix epoch: 2026-01-01.
const START: i64 = 1_767_225_600;

/// A server with three experiments (`button` runs, `draft` is a draft, `clock` runs on a manual clock) and the table of
/// refused calls so far.
struct RefusedCalls {
    server: Server,
    api: Api,
    /// The etag of `button` before its last change.
    stale_etag: String,
    rows: Vec<Vec<String>>,
}

impl RefusedCalls {
    async fn start() -> Self {
        let server = Server::start().await;
        let api = server.api();
        api.launch(with_conversion_metrics(flag("button", &[("a", 0.2), ("b", 0.2), ("dead", 0.1)]))).await;
        let stale_etag = api.get("button").await.etag;
        api.kill("button", "dead").await;
        api.launch(flag("killed", &[("a", 0.1)])).await;
        api.kill("killed", "").await;
        api.create(flag("draft", &[("a", 0.1)])).await;
        let clock = with_thompson_policy(with_conversion_metrics(flag("clock", &[("a", 0.1)])), 86_400);
        api.launch(with_manual_clock(clock, START)).await;
        Self { server, api, stale_etag, rows: Vec::new() }
    }

    /// Makes a call, checks that it is refused with this code and changes nothing, and adds a row to the table.
    async fn check<T: Debug>(
        &mut self,
        case: &str,
        calls: &str,
        code: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) {
        let before = StoredState::read(&self.server, &self.api).await;
        let refusal = Refusal::from_result(call.await);
        assert_eq!(StoredState::read(&self.server, &self.api).await, before, "{case}: {refusal:?}");
        assert_eq!(refusal.code, code, "{case}: {refusal:?}");
        assert!(!refusal.message.is_empty(), "{case}: {refusal:?}");
        let reason = if refusal.reason.is_empty() { "–".to_owned() } else { format!("`{}`", refusal.reason) };
        self.rows.push(vec![case.to_owned(), calls.to_owned(), format!("`{}`", refusal.code), reason, refusal.message]);
    }
}

fn create_request(experiment: v1::Experiment) -> v1::CreateExperimentRequest {
    v1::CreateExperimentRequest { experiment: Some(experiment), validate_only: false }
}

/// A request to grow a variation of `button`.
fn grow_request(variation: &str, amount: Option<Amount>, etag: &str) -> v1::GrowVariationRequest {
    v1::GrowVariationRequest {
        key: "button".to_owned(),
        variation: variation.to_owned(),
        amount,
        etag: etag.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_call_is_refused_with_a_remedy_and_changes_nothing() {
    let mut calls = RefusedCalls::start().await;
    lookups::check(&mut calls).await;
    funnels::check(&mut calls).await;
    declarations::check(&mut calls).await;
    growth::check(&mut calls).await;
    life_cycle::check(&mut calls).await;
    clock_and_policy::check(&mut calls).await;
    request_limits::check(&mut calls).await;
    clients::check(&mut calls).await;
    document::check("Calls", &["case", "call", "code", "reason", "message"], &calls.rows);
}
