//! The page that concludes an experiment: it shows who sees what before and after, nothing is chosen beforehand, and each
//! choice does what it says.

use inroad_wire::v1::{self, ExposureMode};
use prost_types::value::Kind;

use crate::fixtures::{KEY, start_server};
use crate::harness::{Api, Server, context, flag, with_conversion_metrics};
use crate::webdriver::Browser;

/// The variation of a unit in a country, with its exposure if it takes part.
async fn assign(api: &Api, unit: &str, country: &str) -> String {
    let mut context = context(unit);
    let kind = Some(Kind::StringValue(country.to_owned()));
    context.fields.insert("country".to_owned(), prost_types::Value { kind });
    api.assign(KEY, context, ExposureMode::Durable).await.variation
}

/// An experiment for France with 60 exposed units, and 30 units of another country. Returns the number of exposed units
/// in control.
async fn launch(server: &Server) -> usize {
    let api = server.api();
    let mut experiment = with_conversion_metrics(flag(KEY, &[("green", 0.4)]));
    experiment.audience = "country == \"fr\"".to_owned();
    api.launch(experiment).await;
    let mut control = 0;
    for n in 0..60 {
        control += usize::from(assign(&api, &format!("unit-{n}"), "fr").await == "control");
    }
    for n in 0..30 {
        assert_eq!(assign(&api, &format!("other-{n}"), "us").await, "control");
    }
    api.results(KEY).await;
    control
}

async fn state(api: &Api) -> v1::State {
    api.get(KEY).await.state()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_choice_is_refused_and_changes_nothing() {
    let server = start_server().await;
    launch(&server).await;
    let api = server.api();
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
    let checked = "return document.querySelectorAll('main input:checked').length";
    assert_eq!(browser.evaluate(checked, vec![]).await, 0, "nothing is chosen beforehand");
    // A browser refuses to send the form. Another program could.
    let send_anyway = "document.querySelectorAll('main [required]').forEach(input => { input.required = false })";
    browser.press_button("Conclude experiment").await;
    assert_eq!(browser.path().await, format!("/experiments/{KEY}/ask/conclude"));
    browser.evaluate(send_anyway, vec![]).await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Choose the variation that units get from now on.").await;
    browser.expect_console_error("422").await;
    browser.click("radio", "green").await;
    browser.evaluate(send_anyway, vec![]).await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Choose which units get the variation: those in the audience, or all units.").await;
    browser.expect_console_error("422").await;
    let chosen = "return document.querySelector('main [name=ship]:checked').value";
    assert_eq!(browser.evaluate(chosen, vec![]).await, "green", "what was chosen stays chosen");
    assert_eq!(state(&api).await, v1::State::Running, "nothing was done");
    assert_eq!(api.audit(KEY).await.len(), 2, "created and started");
}

#[tokio::test(flavor = "multi_thread")]
async fn table_has_the_units_before_and_after_each_choice() {
    let server = start_server().await;
    let control = launch(&server).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
    let table = browser.text_of("table.before-after").await;
    let green = 60 - control;
    assert!(
        table.contains(&format!("control 60.00% {control} 60 {green} green 40.00% {green} 60 {control}")),
        "{table}"
    );
    browser.wait_for("Units in the audience: up to 60 exposed units. All other units keep control.").await;
    browser.wait_for("Of 90 units seen lately and checked, 30 are outside.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_has_bounds_after_a_growth_without_new_exposures() {
    let server = start_server().await;
    let control = launch(&server).await;
    server.api().grow(KEY, "green", 0.8).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
    let table = browser.text_of("table.before-after").await;
    let green = 60 - control;
    assert!(table.contains(&format!("60 at least {green} green")), "{table}");
    assert!(table.contains(&format!("60 at most {control}")), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_decides_what_units_outside_the_audience_get() {
    for (scope, outside, verdict) in [
        ("audience", "control", "Concluded: units in the audience get green, all others control"),
        ("everyone", "green", "Concluded: all units get green"),
    ] {
        let server = start_server().await;
        launch(&server).await;
        let browser = Browser::open(&server, &format!("/experiments/{KEY}/ask/conclude")).await;
        browser.click("radio", "green").await;
        browser.click_css(&format!("main input[value={scope}]")).await;
        browser.press_button("Conclude experiment").await;
        browser.wait_for(verdict).await;
        let api = server.api();
        assert_eq!(assign(&api, "unit-1", "fr").await, "green");
        assert_eq!(assign(&api, "other-1", "us").await, outside, "{scope}");
    }
}
