//! Invalid changes of an experiment's clock, and reallocation without an automatic policy.

use inroad_wire::v1;
use prost_types::Timestamp;

use super::{RefusedCalls, START};
use crate::harness::at_second;

fn advance_request(key: &str, to: Option<Timestamp>) -> v1::AdvanceClockRequest {
    v1::AdvanceClockRequest { key: key.to_owned(), to }
}

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    let invalid_time = Timestamp { seconds: i64::MAX, nanos: 7 };
    let too_far = at_second(START + 1_001 * 86_400);
    for (case, code, key, to) in [
        ("setting a manual clock back", "FAILED_PRECONDITION", "clock", Some(at_second(START - 1))),
        ("advancing the wall clock", "FAILED_PRECONDITION", "button", Some(at_second(START * 2))),
        ("advancing a clock without a time", "INVALID_ARGUMENT", "clock", None),
        ("advancing a clock to an invalid time", "INVALID_ARGUMENT", "clock", Some(invalid_time)),
        ("advancing a clock over more than 1,000 updates", "INVALID_ARGUMENT", "clock", Some(too_far)),
    ] {
        t.check(case, "AdvanceClock", code, experiments.advance_clock(advance_request(key, to))).await;
    }
    t.check(
        "reallocating with a manual policy",
        "Reallocate",
        "INVALID_ARGUMENT",
        experiments.reallocate(v1::ReallocateRequest { key: "button".to_owned() }),
    )
    .await;
}
