//! Pages show the current state, whatever their address claims and whatever they showed before.

use inroad_wire::v1;

use crate::fixtures::{KEY, button_experiment, record_traffic, start_server};
use crate::harness::{Api, flag, metric, outcome, with_conversion_metrics};
use crate::raw_request::send;
use crate::webdriver::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn forged_address_does_not_show_an_action_that_did_not_happen() {
    let server = start_server().await;
    let api = server.api();
    let started = api.launch(button_experiment()).await.etag;
    let shows = async |query: String, text: &str| {
        send(server.address, &format!("GET /experiments/{KEY}?{query}"), &[], "").await.body.contains(text)
    };
    let green = "green is killed: its units get control.";
    assert!(shows(format!("did=start&version={started}"), "Experiment started.").await);
    assert!(!shows(format!("did=kill&variation=green&version={started}"), green).await, "that version is the start");
    let killed = api.kill(KEY, "green").await.etag;
    assert!(shows(format!("did=kill&variation=green&version={killed}"), green).await);
    assert!(!shows(format!("did=kill&variation=blue&version={killed}"), "blue is killed").await);
    assert!(!shows(format!("did=kill&variation=anybody&version={killed}"), "anybody is killed").await);
    assert!(!shows(format!("did=start&version={killed}"), "Experiment started.").await);
    api.restore(KEY, "green").await;
    assert!(!shows(format!("did=kill&variation=green&version={killed}"), green).await, "green is restored since");
}

/// The lift of green for one metric, as pages write it.
async fn lift(api: &Api, key: &str) -> String {
    let lift = metric(&api.results(KEY).await, "green", key).lift.expect("a lift").credible.expect("an estimate");
    format!("{:+.1}%", 100.0 * lift.estimate).replace('-', "−")
}

#[tokio::test(flavor = "multi_thread")]
async fn lift_over_time_follows_a_change_of_the_primary_metric() {
    let server = start_server().await;
    let api = server.api();
    let mut experiment = with_conversion_metrics(button_experiment());
    let bought = experiment.metrics[0].clone();
    let seen = v1::Metric { key: "seen".to_owned(), event: "view".to_owned(), decision: false, ..bought };
    experiment.metrics.push(seen);
    api.launch(experiment.clone()).await;
    record_traffic(&api, KEY, "unit", 300).await;
    let views = (0..300).step_by(2).map(|n| {
        let unit = format!("unit-{n}");
        v1::Outcome { event: "view".to_owned(), ..outcome(&unit, 1.0, &format!("view-{n}")) }
    });
    api.record(vec![], views.collect()).await;
    let (by_bought, by_seen) = (lift(&api, "bought").await, lift(&api, "seen").await);
    assert_ne!(by_bought, by_seen);
    let lift_over_time = async || {
        let body = send(server.address, &format!("GET /experiments/{KEY}"), &[], "").await.body;
        let (_, rest) = body.split_once("Lift over time").expect("the section");
        rest.split_once("id=\"health\"").map_or(rest, |(section, _)| section).to_owned()
    };
    let before = lift_over_time().await;
    assert!(before.contains(&by_bought) && !before.contains(&by_seen), "{by_bought} and not {by_seen}: {before}");
    for metric in &mut experiment.metrics {
        metric.decision = metric.key == "seen";
    }
    let request = v1::UpdateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    api.experiments().update_experiment(request).await.expect("updated");
    let after = lift_over_time().await;
    assert!(after.contains(&by_seen) && !after.contains(&by_bought), "{by_seen} and not {by_bought}: {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_in_the_viewers_language_have_their_time_zone() {
    let server = start_server().await;
    server.api().launch(button_experiment()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    // The command line, and charts and sentences of the server, are in UTC.
    let have_zone = "const zone = new Intl.DateTimeFormat(navigator.languages, { timeZoneName: 'short' });
        const name = (time) => zone.formatToParts(new Date(time.dateTime)).find((p) => p.type === 'timeZoneName').value;
        const times = [...document.querySelectorAll('time[datetime]')];
        return times.length > 0 && times.every((time) => time.textContent.includes(name(time)));";
    assert_eq!(browser.evaluate(have_zone, vec![]).await, true);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_or_restore_without_effect_is_not_offered() {
    let server = start_server().await;
    let api = server.api();
    api.launch(flag(KEY, &[("green", 0.4)])).await;
    let buttons = "return [...document.querySelectorAll('form.confirm button')].length";
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/restore?variation=green")).await;
    browser.wait_for("Nothing to do: green is not killed.").await;
    assert_eq!(browser.evaluate(buttons, vec![]).await, 0);
    api.kill(KEY, "green").await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/kill?variation=green")).await;
    browser.wait_for("Nothing to do: green is killed already.").await;
    assert_eq!(browser.evaluate(buttons, vec![]).await, 0);
}
