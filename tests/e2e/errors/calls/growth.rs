//! Growth by an amount that is not valid, of a variation that cannot grow, or with a wrong etag.

use inroad_wire::v1::grow_variation_request::Amount;

use super::{RefusedCalls, grow_request};

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    for (case, code, variation, amount) in [
        ("growth below the minimum control share", "OUT_OF_RANGE", "a", Some(Amount::ToShare(0.9))),
        ("a share outside 0 to 1", "INVALID_ARGUMENT", "a", Some(Amount::ByShare(-0.1))),
        ("a share that is NaN", "INVALID_ARGUMENT", "a", Some(Amount::ToShare(f64::NAN))),
        ("a factor that gives no valid share", "INVALID_ARGUMENT", "a", Some(Amount::Times(f64::INFINITY))),
        ("a share smaller than the current one", "INVALID_ARGUMENT", "a", Some(Amount::ToShare(0.1))),
        ("no amount", "INVALID_ARGUMENT", "a", None),
        ("growing control", "INVALID_ARGUMENT", "control", Some(Amount::ByShare(0.1))),
        ("growing a killed variation", "FAILED_PRECONDITION", "dead", Some(Amount::ToShare(0.2))),
    ] {
        let call = experiments.grow_variation(grow_request(variation, amount, ""));
        t.check(case, "GrowVariation", code, call).await;
    }
    let stale_etag = t.stale_etag.clone();
    t.check(
        "an etag from before another change",
        "every change that accepts an etag",
        "ABORTED",
        experiments.grow_variation(grow_request("a", Some(Amount::ToShare(0.3)), &stale_etag)),
    )
    .await;
    t.check(
        "a malformed etag",
        "every change that accepts an etag",
        "INVALID_ARGUMENT",
        experiments.grow_variation(grow_request("a", Some(Amount::ToShare(0.3)), "W/x")),
    )
    .await;
}
