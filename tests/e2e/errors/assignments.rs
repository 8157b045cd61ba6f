//! Assignments that cannot use the allocation still return an answer, so that the caller can always go on.

use inroad_wire::v1::{self, ExposureMode};
use prost_types::Struct;

use super::document;
use crate::harness::{Server, context, flag, metric_value};

#[tokio::test(flavor = "multi_thread")]
async fn assignment_always_returns_an_answer_and_a_reason() {
    let server = Server::start().await;
    let api = server.api();
    api.create(flag("draft", &[("a", 0.1)])).await;
    let mut limited = flag("limited", &[("a", 0.1)]);
    limited.audience = "plan == \"pro\"".to_owned();
    api.launch(limited).await;
    api.launch(flag("button", &[("a", 0.9)])).await;
    api.launch(flag("killed", &[("a", 0.1)])).await;
    api.kill("killed", "").await;
    let mut rows = Vec::new();
    for (case, key, context) in [
        ("the experiment does not exist", "nothing", context("alice")),
        ("the context has no unit key", "button", Struct::default()),
        ("the unit key is empty", "button", context("")),
        ("the unit key has more than 1,024 bytes", "button", context(&"x".repeat(1_025))),
        ("the unit is not in the audience", "limited", context("alice")),
        ("the experiment is not started", "draft", context("alice")),
        ("the experiment is killed", "killed", context("alice")),
        ("the experiment key is malformed", "No Key!", context("alice")),
    ] {
        let answer = api.assign(key, context, ExposureMode::Durable).await;
        let known = !matches!(answer.reason(), v1::Reason::UnknownExperiment);
        assert_eq!(answer.variation, if known { "control" } else { "" }, "{case}: {answer:?}");
        assert!(!answer.exposure_recorded, "{case}");
        let variation = if known { "control" } else { "none: the caller uses its default" };
        rows.push(vec![case.to_owned(), variation.to_owned(), format!("`{}`", answer.reason().as_str_name())]);
    }
    assert_eq!(metric_value(server.address, "inroad_log_head").await, 0.0, "none of these is an exposure");
    document::check("Questions", &["case", "variation", "reason"], &rows);

    let longest = api.assign("button", context(&"x".repeat(1_024)), ExposureMode::Durable).await;
    assert!(longest.exposure_recorded, "1,024 bytes are allowed");
}
