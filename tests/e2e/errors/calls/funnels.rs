//! Funnels with invalid steps or an invalid time range.

use inroad_wire::v1;
use prost_types::Timestamp;

use super::{RefusedCalls, START};
use crate::harness::at_second;

pub(super) fn funnel_request(key: &str, steps: &[&str]) -> v1::GetFunnelRequest {
    let steps = steps.iter().map(|step| (*step).to_owned()).collect();
    v1::GetFunnelRequest { key: key.to_owned(), steps, ..v1::GetFunnelRequest::default() }
}

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut results = t.api.result_service();
    t.check(
        "a funnel without steps",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(funnel_request("button", &[])),
    )
    .await;
    t.check(
        "a funnel with more than 8 steps",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(funnel_request("button", &["cart"; 9])),
    )
    .await;
    t.check(
        "a step without a name",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(funnel_request("button", &["cart", ""])),
    )
    .await;
    t.check(
        "a step name of more than 128 bytes",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(funnel_request("button", &[&"x".repeat(129)])),
    )
    .await;
    let time = Some(at_second(START));
    t.check(
        "a time range that ends at or before its start",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(v1::GetFunnelRequest { from: time, to: time, ..funnel_request("button", &["cart"]) }),
    )
    .await;
    let invalid_time = Some(Timestamp { seconds: i64::MAX, nanos: 7 });
    t.check(
        "a time range with an invalid start",
        "GetFunnel",
        "INVALID_ARGUMENT",
        results.get_funnel(v1::GetFunnelRequest { from: invalid_time, ..funnel_request("button", &["cart"]) }),
    )
    .await;
}
