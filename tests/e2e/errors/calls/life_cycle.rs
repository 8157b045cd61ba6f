//! Changes that are not possible in the current state of the experiment.

use inroad_wire::v1;
use inroad_wire::v1::conclude_experiment_request::Outcome;
use inroad_wire::v1::grow_variation_request::Amount;

use super::{RefusedCalls, grow_request};

pub(super) async fn check(t: &mut RefusedCalls) {
    let mut experiments = t.api.experiments();
    let (running, draft, etag) = (|| "button".to_owned(), || "draft".to_owned(), String::new);
    t.check(
        "killing control",
        "Kill",
        "INVALID_ARGUMENT",
        experiments.kill(v1::KillRequest { key: running(), variation: "control".to_owned() }),
    )
    .await;
    t.check(
        "starting a running experiment",
        "StartExperiment",
        "FAILED_PRECONDITION",
        experiments.start_experiment(v1::StartExperimentRequest { key: running(), etag: etag() }),
    )
    .await;
    t.check(
        "restarting a draft",
        "RestartExperiment",
        "FAILED_PRECONDITION",
        experiments.restart_experiment(v1::RestartExperimentRequest { key: draft(), etag: etag() }),
    )
    .await;
    t.check(
        "pausing a draft",
        "PauseExperiment",
        "FAILED_PRECONDITION",
        experiments.pause_experiment(v1::PauseExperimentRequest { key: draft(), etag: etag() }),
    )
    .await;
    t.check(
        "resuming a running experiment",
        "ResumeExperiment",
        "FAILED_PRECONDITION",
        experiments.resume_experiment(v1::ResumeExperimentRequest { key: running(), etag: etag() }),
    )
    .await;
    t.check(
        "concluding a draft",
        "ConcludeExperiment",
        "FAILED_PRECONDITION",
        experiments.conclude_experiment(v1::ConcludeExperimentRequest {
            key: draft(),
            outcome: Some(Outcome::RollBack(true)),
            etag: etag(),
            to_everyone: false,
        }),
    )
    .await;
    t.check(
        "concluding without saying what units get",
        "ConcludeExperiment",
        "INVALID_ARGUMENT",
        experiments.conclude_experiment(v1::ConcludeExperimentRequest { key: running(), ..Default::default() }),
    )
    .await;
    t.check(
        "concluding with an empty variation",
        "ConcludeExperiment",
        "INVALID_ARGUMENT",
        experiments.conclude_experiment(v1::ConcludeExperimentRequest {
            key: running(),
            outcome: Some(Outcome::Ship(String::new())),
            ..Default::default()
        }),
    )
    .await;
    t.check(
        "shipping a killed variation",
        "ConcludeExperiment",
        "FAILED_PRECONDITION",
        experiments.conclude_experiment(v1::ConcludeExperimentRequest {
            key: running(),
            outcome: Some(Outcome::Ship("dead".to_owned())),
            etag: etag(),
            to_everyone: false,
        }),
    )
    .await;
    t.check(
        "shipping a variation of a killed experiment",
        "ConcludeExperiment",
        "FAILED_PRECONDITION",
        experiments.conclude_experiment(v1::ConcludeExperimentRequest {
            key: "killed".to_owned(),
            outcome: Some(Outcome::Ship("a".to_owned())),
            etag: etag(),
            to_everyone: false,
        }),
    )
    .await;
    t.check(
        "archiving a running experiment",
        "ArchiveExperiment",
        "FAILED_PRECONDITION",
        experiments.archive_experiment(v1::ArchiveExperimentRequest { key: running(), etag: etag() }),
    )
    .await;
    t.check(
        "growing a variation of a draft",
        "GrowVariation",
        "FAILED_PRECONDITION",
        experiments.grow_variation(v1::GrowVariationRequest {
            key: draft(),
            ..grow_request("a", Some(Amount::ToShare(0.3)), "")
        }),
    )
    .await;
}
