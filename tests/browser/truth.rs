//! What a page says is what is, whatever its address says and whatever it said before.

use inroad_wire::v1;

use crate::harness::{Api, conversions, metric, outcome};
use crate::request::send;
use crate::stage::{KEY, button, server, traffic};

#[tokio::test(flavor = "multi_thread")]
async fn an_address_does_not_make_a_page_say_what_was_not_done() {
    let server = server().await;
    let api = server.api();
    let started = api.launch(button()).await.etag;
    let says = async |query: String, words: &str| {
        send(server.address, &format!("GET /experiments/{KEY}?{query}"), &[], "").await.body.contains(words)
    };
    let green = "green is killed: it serves control.";
    assert!(says(format!("did=start&version={started}"), "It has started.").await);
    assert!(!says(format!("did=kill&variation=green&version={started}"), green).await, "that version started it");
    let killed = api.kill(KEY, "green").await.etag;
    assert!(says(format!("did=kill&variation=green&version={killed}"), green).await);
    assert!(!says(format!("did=kill&variation=blue&version={killed}"), "blue is killed").await);
    assert!(!says(format!("did=kill&variation=anybody&version={killed}"), "anybody is killed").await);
    assert!(!says(format!("did=start&version={killed}"), "It has started.").await);
    api.restore(KEY, "green").await;
    assert!(!says(format!("did=kill&variation=green&version={killed}"), green).await, "it is so no longer");
}

/// The lift of green by one metric, as pages write it.
async fn lift(api: &Api, key: &str) -> String {
    let lift = metric(&api.results(KEY).await, "green", key).lift.expect("a lift").credible.expect("an estimate");
    format!("{:+.1}%", 100.0 * lift.estimate).replace('-', "−")
}

#[tokio::test(flavor = "multi_thread")]
async fn lifts_over_time_are_of_the_metric_that_decides_now() {
    let server = server().await;
    let api = server.api();
    let mut experiment = conversions(button());
    let bought = experiment.metrics[0].clone();
    let seen = v1::Metric { key: "seen".to_owned(), event: "view".to_owned(), decision: false, ..bought };
    experiment.metrics.push(seen);
    api.launch(experiment.clone()).await;
    traffic(&api, KEY, "unit", 300).await;
    let views = (0..300).step_by(2).map(|n| {
        let unit = format!("unit-{n}");
        v1::Outcome { event: "view".to_owned(), ..outcome(&unit, 1.0, &format!("view-{n}")) }
    });
    api.record(vec![], views.collect()).await;
    let (by_bought, by_seen) = (lift(&api, "bought").await, lift(&api, "seen").await);
    assert_ne!(by_bought, by_seen);
    let course = async || {
        let body = send(server.address, &format!("GET /experiments/{KEY}"), &[], "").await.body;
        let (_, rest) = body.split_once("Lift over time").expect("the section");
        rest.split_once("id=\"health\"").map_or(rest, |(section, _)| section).to_owned()
    };
    let before = course().await;
    assert!(before.contains(&by_bought) && !before.contains(&by_seen), "{by_bought} and not {by_seen}: {before}");
    for metric in &mut experiment.metrics {
        metric.decision = metric.key == "seen";
    }
    let request = v1::UpdateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    api.experiments().update_experiment(request).await.expect("updated");
    let after = course().await;
    assert!(after.contains(&by_seen) && !after.contains(&by_bought), "{by_seen} and not {by_bought}: {after}");
}
