//! `inroad counterfactual`: the real binary evaluates policies on the log of a trial, without a server.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{FinishedProcess, Process, inroad_binary, write_trial};

async fn counterfactual(args: &[&str]) -> FinishedProcess {
    Process::start(Command::new(inroad_binary()).arg("counterfactual").args(args)).finish(Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_evaluated_on_a_logged_trial() {
    let folder = TempDir::new().expect("a folder");
    let trial = write_trial(folder.path(), 24_000, 42);
    let to = folder.path().join("policies.csv");
    let args = [
        trial.to_str().expect("a path in UTF-8"),
        "--control",
        "No E-Mail",
        "--outcome",
        "visit",
        "--propensity",
        "uniform",
        "--salt",
        "seed42",
        "--csv",
        to.to_str().expect("a path in UTF-8"),
    ];
    let as_json = [&args[..], &["--json"]].concat();
    let first = counterfactual(&as_json).await.ok();
    let found = first.json();
    assert_eq!(found["rows"], 24_000);
    assert_eq!(found["warnings"].as_array().map(Vec::len), Some(0), "{found}");
    let policies = found["policies"].as_array().expect("policies");
    assert_eq!(
        policies.iter().map(|p| p["policy"].as_str()).collect::<Vec<_>>(),
        [Some("growth"), Some("equal"), Some("unconstrained")]
    );
    let number = |value: &serde_json::Value| value.as_f64().expect("the value is a number");
    for policy in policies {
        assert_eq!(policy["leader"], "mens-e-mail", "{policy}");
        // A third of the rows have the arm that the policy chooses.
        assert!((number(&policy["matched"]) / 24_000.0 - 1.0 / 3.0).abs() < 0.02, "{policy}");
        for estimate in ["replay", "ips", "snips", "dr"] {
            let estimate = &policy[estimate];
            assert!(number(&estimate["low"]) < number(&estimate["value"]), "{policy}");
        }
    }
    let moved = |policy: usize| number(&policies[policy]["moves"]["between_variations"]);
    assert_eq!([moved(0), moved(1)], [0.0, 0.0], "variations take traffic from control only");
    assert!(moved(2) > 0.0);
    let value = |policy: usize| number(&policies[policy]["dr"]["value"]);
    assert!(value(2) > value(1) && (value(1) - number(&found["mean"]["value"])).abs() < 0.002, "{found}");

    assert_eq!(counterfactual(&as_json).await.ok().stdout, first.stdout, "the same salt gives the same output");
    let table = counterfactual(&args).await.ok().stdout;
    assert!(table.contains("lift over the log") && table.contains("mens-e-mail"), "{table}");
    assert_eq!(std::fs::read_to_string(&to).expect("the CSV").lines().count(), 4);

    let wrong = counterfactual(&[args[0], "--control", "No E-Mail", "--outcome", "visits", "--json"]).await;
    assert_eq!(wrong.code(), Some(2));
    let wrong: serde_json::Value = serde_json::from_str(&wrong.stderr).expect("JSON");
    let message = wrong["error"]["message"].as_str().expect("a message");
    assert!(message.contains("there is no column \"visits\". Did you mean \"visit\"?"), "{message}");
    assert!(message.contains("The file has recency, history, segment"), "{message}");
}
