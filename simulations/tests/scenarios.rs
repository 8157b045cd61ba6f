//! Tests of scenario files: built-in scenarios are valid and have the published rates, and errors name the wrong field.

#![allow(clippy::expect_used, reason = "a test reports by panicking")]

use inroad_assignment::ThompsonSettings;
use inroad_simulations::{PolicyKind, Scenario, builtin};

const MINIMAL: &str = r#"
name = "plain"
base = 0.1
per_day = 100.0
arms = [{ lift = 0.0 }, { lift = 0.1 }]
"#;

fn error(text: &str) -> String {
    Scenario::from_toml(text).expect_err("an error").to_string()
}

#[test]
fn errors_name_the_wrong_field() {
    let before = |more: &str| error(&format!("{more}\n{MINIMAL}"));
    let after = |more: &str| error(&format!("{MINIMAL}\n{more}"));
    let cases = [
        (before("dayz = 3"), "dayz"),
        (before("days = 0"), "days"),
        (before("ticks_per_day = 5"), "ticks_per_day"),
        (before("replications = 0"), "replications"),
        (before("diurnal = 1.5"), "diurnal"),
        (before("trend = nan"), "trend"),
        (before("trend = 10.0"), "base"),
        (before("heterogeneity = 9.0"), "heterogeneity"),
        (after("[delay]\nmean_hours = 0.0\nwindow_hours = 3.0"), "delay.mean_hours"),
        (after("[delay]\nmean_hours = 1.0"), "window_hours"),
        (after("[loss]\narm = 2\nprobability = 0.1"), "loss.arm"),
        (after("[stale]\nfraction = 1.1\nticks = 1"), "stale.fraction"),
        (after("[metric]\nkind = \"mean\"\nvalue = 0.0\nsigma = 1.0"), "metric.value"),
        (after("[metric]\nkind = \"median\""), "median"),
        (after("[[policies]]\nname = \"x\"\nkind = \"fixed\""), "policies[0].shares"),
        (after("[[policies]]\nname = \"x\"\nkind = \"fixed\"\nshares = [0.5, 0.4]"), "policies[0].shares"),
        (after("[[policies]]\nname = \"x\"\nkind = \"growth\"\nsettings = { flor = 0.1 }"), "flor"),
        (after("[[policies]]\nname = \"x\"\nkind = \"growth\"\nsettings = { floor = \"x\" }"), "settings: floor: "),
        (
            after("[[policies]]\nname = \"x\"\nkind = \"growth\"\nsettings = { tick = \"7h\" }"),
            "policies[0].settings.tick",
        ),
        (
            after("[[policies]]\nname = \"x\"\nkind = \"equal\"\n[[policies]]\nname = \"x\"\nkind = \"equal\""),
            "policies[1].name",
        ),
        (error(&MINIMAL.replace("plain", "Plain!")), "name"),
        (error(&MINIMAL.replace(", { lift = 0.1 }", "")), "arms"),
        (error(&MINIMAL.replace("lift = 0.1", "lift = -1.1")), "arms[1].lift"),
    ];
    for (message, field) in cases {
        assert!(message.contains(field), "{field} is not named in: {message}");
    }
    assert!(builtin::scenario("s9").expect_err("unknown").to_string().contains("s8"));
}

#[test]
fn built_in_scenarios_are_valid_and_have_their_name() {
    for name in builtin::names() {
        let scenario = builtin::scenario(name).expect(name);
        assert_eq!(scenario.doc().name, name);
        assert!(!scenario.doc().title.is_empty());
        let again = toml::to_string(&scenario).expect("TOML");
        assert_eq!(Scenario::from_toml(&again).expect("valid TOML"), scenario);
    }
}

#[test]
fn true_rates_are_those_of_the_published_results() {
    let rate = |name: &str, arm: usize, tick: u32| builtin::scenario(name).expect(name).world().rates(tick)[arm];
    assert!((rate("s1", 1, 40) - 0.11).abs() < 1e-15);
    // S5, arm 1 at day 5: lift −0.15 + 0.45·½^(5/5). The daily cycle is at 0.
    assert!((rate("s5", 1, 20) - 0.05 * (1.0 - 0.15 + 0.45 * 0.5)).abs() < 1e-12);
    // S2 at 06:00 of day 0: the maximum of the daily cycle, 1/28 of a week.
    let week = 1.0 + 0.25 * (std::f64::consts::TAU / 28.0).sin();
    assert!((rate("s2", 3, 1) - 0.05 * 1.4 * week * 1.2).abs() < 1e-12);
    // S4: the base rate doubles over the run.
    assert!((rate("s4", 0, 56) - 0.015).abs() < 1e-12);
    let arrivals = builtin::scenario("s7").expect("s7").world().arrivals(1);
    assert!((arrivals - 1500.0 * 1.2).abs() < 1e-9);
}

#[test]
fn settings_have_the_keys_of_an_experiment_policy() {
    let text = format!(
        "{MINIMAL}\n[[policies]]\nname = \"slow\"\nkind = \"growth\"\nsettings = {{ tick = \"1day\", floor = 0.2 }}"
    );
    let scenario = Scenario::from_toml(&text).expect("a scenario");
    let policy = &scenario.policies()[0];
    assert_eq!((policy.kind, policy.stride, policy.settings.floor), (PolicyKind::Growth, 4, 0.2));
    assert_eq!(policy.settings.kill_probability, ThompsonSettings::default().kill_probability);
}
