//! Verifies that an assignment does not allocate heap memory, for unit keys of any length.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::sync::Arc;

use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{
    Arm, Context, Definition, Experiment, KillTarget, Reason, Salt, ServedExperiment, Snapshot, Timestamp, Width,
};

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn definition(overrides: serde_json::Value) -> Definition {
    serde_json::from_value(serde_json::json!({
        "key": "checkout.button",
        "unit": "account.id",
        "policy": {"kind": "manual"},
        "variations": [
            {"key": "control", "payload": {"color": "grey"}},
            {"key": "red", "payload": {"color": "red"}, "share": 0.3},
            {"key": "blue", "payload": {"color": "blue"}, "share": 0.3},
        ],
        "overrides": overrides,
    }))
    .unwrap()
}

/// The number of heap allocations while every context is assigned 100 times.
fn count_allocations(snapshot: &Snapshot, contexts: &[Context], reason: Reason) -> u64 {
    let measured = allocation_counter::measure(|| {
        for now in 0..100 {
            for context in contexts {
                let got = snapshot.assign("checkout.button", context, at(now));
                assert!(got.variation.is_some());
                assert_eq!(got.reason, reason);
            }
        }
    });
    measured.count_total
}

#[test]
fn audience_without_new_text_does_not_allocate() {
    let audience: inroad_assignment::audience::Audience = r#"
        country in ["fr", "de"] && !(plan == "free") && semver(app) >= semver("10.4.0")
            && timestamp(signup) + duration("36h") >= timestamp("2026-09-29T00:00:00Z")
            && email.lowerAscii().matches("@example[.]com$") && missing == null"#
        .parse()
        .unwrap();
    let context = Context::new("u1")
        .with("country", "fr")
        .with("plan", "pro")
        .with("app", "10.10.0-beta")
        .with("signup", "2026-09-29T02:00:00+02:00")
        .with("email", "ann@example.com");
    // The first search with a pattern allocates its memory, which later ones use again.
    assert!(audience.contains(&context));
    let measured = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert!(audience.contains(&context));
        }
    });
    assert_eq!(measured.count_total, 0);
}

#[test]
fn assignment_does_not_allocate() {
    let account = |id: String| {
        let account = std::collections::BTreeMap::from([("id".to_owned(), id.into())]);
        Context::new("user").with("account", inroad_assignment::Value::Object(account))
    };
    let contexts: Vec<Context> = (1..=1024).step_by(7).map(|n| account("x".repeat(n))).collect();
    assert!(allocation_counter::measure(|| drop(contexts.clone())).count_total > 0, "the counter works");

    let overrides = serde_json::json!([{"units": ["qa-1", "qa-2"], "variation": "red"}]);
    let mut experiment = Experiment::create(definition(overrides), at(0));
    let snapshot = |experiment: &Experiment| {
        let mut snapshot = Snapshot::default();
        snapshot.insert(Arc::new(ServedExperiment::from_experiment(experiment, 1, at(0)).unwrap()));
        snapshot
    };
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::NotStarted), 0);
    experiment.start(at(0), Salt::parse("s1").unwrap()).unwrap();
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::Split), 0);
    // The same with a revision that is not yet in effect, many buckets, paused, killed and concluded.
    for i in 0..40 {
        let step = Width::from_share(0.009).unwrap();
        experiment.grow(&[(Arm::new(1 + i % 2).unwrap(), step)], RevisionCause::Policy, at(0), at(50)).unwrap();
    }
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::Split), 0);
    experiment.pause().unwrap();
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::Paused), 0);
    experiment.set_killed(KillTarget::Everything, true, at(1)).unwrap();
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::Killed), 0);
    experiment.set_killed(KillTarget::Everything, false, at(1)).unwrap();
    experiment.conclude(Arm::new(1).unwrap(), ShippingScope::Audience, Timestamp::default()).unwrap();
    assert_eq!(count_allocations(&snapshot(&experiment), &contexts, Reason::Concluded), 0);
}
