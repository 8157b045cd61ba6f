//! Questions that cannot be answered by the line are answered all the same: the caller always has something to act on.

use inroad_wire::v1::{self, ExposureMode};
use prost_types::Struct;

use super::document;
use crate::harness::{Server, context, flag, gauge};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_always_gets_something_to_act_on() {
    let server = Server::start().await;
    let api = server.api();
    api.create(flag("draft", &[("a", 0.1)])).await;
    let mut limited = flag("limited", &[("a", 0.1)]);
    limited.audience = "plan == \"pro\"".to_owned();
    api.launch(limited).await;
    api.launch(flag("button", &[("a", 0.9)])).await;
    api.launch(flag("gone", &[("a", 0.1)])).await;
    api.kill("gone", "").await;
    let mut rows = Vec::new();
    for (case, key, asked) in [
        ("no such experiment", "nothing", context("alice")),
        ("the context names no unit", "button", Struct::default()),
        ("the unit key is empty", "button", context("")),
        ("the unit key has over 1,024 bytes", "button", context(&"x".repeat(1_025))),
        ("not in the audience", "limited", context("alice")),
        ("not started", "draft", context("alice")),
        ("killed", "gone", context("alice")),
        ("the key is no key", "No Key!", context("alice")),
    ] {
        let answer = api.assign(key, asked, ExposureMode::Durable).await;
        let known = !matches!(answer.reason(), v1::Reason::UnknownExperiment);
        assert_eq!(answer.variation, if known { "control" } else { "" }, "{case}: {answer:?}");
        assert!(!answer.exposure_recorded, "{case}");
        let gets = if known { "control" } else { "nothing: the caller's own default stands" };
        rows.push(vec![case.to_owned(), gets.to_owned(), format!("`{}`", answer.reason().as_str_name())]);
    }
    assert_eq!(gauge(server.address, "inroad_log_head").await, 0.0, "none of them is an exposure");
    document::check("Questions", &["case", "the unit gets", "reason"], &rows);

    let longest = api.assign("button", context(&"x".repeat(1_024)), ExposureMode::Durable).await;
    assert!(longest.exposure_recorded, "1,024 bytes are fine");
}
