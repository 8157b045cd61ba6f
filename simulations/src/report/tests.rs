//! What every report keeps to: it names all that was run, is text where a name is text, and needs nothing from outside.

use super::html;
use crate::{Options, Scenario, Simulation, simulate};

/// Two variations, three policies, names that would break a page, a year in miniature.
const HOSTILE: &str = r#"
    name = "tiny"
    title = "<script>alert('1')</script> & \"sons\""
    days = 3
    base = 0.2
    per_day = 400.0
    diurnal = 0.2
    replications = 2
    arms = [{ lift = 0.0 }, { lift = 0.5 }, { lift = -0.2, novelty = { to = 0.1, half_life_days = 2.0 } }]
    policies = [
        { name = "growth & <b>", kind = "growth", settings = { floor = 0.1 } },
        { name = "equal", kind = "equal", ship = "clearly_best" },
        { name = "halves", kind = "fixed", shares = [0.5, 0.5, 0.0] },
        { name = "thompson", kind = "thompson" },
    ]
    [delay]
    mean_hours = 3.0
    window_hours = 24.0
    [loss]
    arm = 1
    probability = 0.01
    [stale]
    fraction = 0.1
    ticks = 1
"#;

fn run(text: &str) -> Simulation {
    simulate(&Scenario::from_toml(text).unwrap(), Options::default()).unwrap()
}

/// The least that a scenario says, in every kind of metric, and alike in all arms.
fn plain(name: &str, metric: &str) -> Simulation {
    run(&format!(
        "name = {name:?}\ndays = 2\nbase = 0.3\nper_day = 200.0\nreplications = 1\narms = [{{ lift = 0.0 }}, {{ lift = \
         0.0 }}]\n{metric}"
    ))
}

/// The values of an attribute, wherever it stands.
fn attribute<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

fn check(html: &str) {
    assert!(!html.contains("<script"), "a script");
    assert!(!html.contains("://") && !html.contains("url(") && !html.contains("@import"), "something from outside");
    assert!(attribute(html, "src").is_empty());
    assert!(attribute(html, "href").iter().all(|href| href.starts_with('#')), "a link that leads out");
    assert!(!html.contains("NaN") && !html.contains(">inf"), "a number that is none");
    for svg in html.split("<svg").skip(1) {
        let inside = svg.split_once('>').unwrap().1;
        assert!(inside.starts_with("<title>") && !inside.starts_with("<title></title>"), "a plot without a title");
    }
    for tag in ["svg", "table", "details", "section", "article", "div", "g", "text", "tr", "td", "th", "ul", "li"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "<{tag}> is not closed");
    }
    let mut ids = attribute(html, "id");
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id twice");
}

#[test]
fn a_report_names_every_policy_and_scenario_and_stands_alone() {
    let simulations = [run(HOSTILE), plain("alike", "")];
    let html = html(&simulations, Some("inroad simulate 'a & b.toml'"));
    check(&html);
    for text in [
        "tiny",
        "alike",
        "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;sons&quot;",
        "growth &amp; &lt;b&gt;",
        "halves",
        "thompson",
        "floor = 0.1",
        "inroad simulate &#39;a &amp; b.toml&#39;",
        "Seed",
        "Stale clients",
    ] {
        assert!(html.contains(text), "{text} is missing");
    }
}

#[test]
fn the_same_simulation_gives_the_same_bytes() {
    let one = || html(&[run(HOSTILE)], Some("again"));
    assert!(one() == one());
}

#[test]
fn every_kind_of_world_has_a_report() {
    let mean = "metric = { kind = \"mean\", value = 10.0, sigma = 0.5, cap = 50.0 }";
    let ratio = "metric = { kind = \"ratio\", denominator = 2.0 }";
    for metric in ["", mean, "metric = { kind = \"count\" }", ratio] {
        check(&html(&[plain("w", metric)], None));
    }
    let empty = html(&[], None);
    check(&empty);
    let many: String = (0..14).map(|i| format!("{{ lift = 0.0{i:02} }},")).collect();
    let wide = format!(
        "name = \"wide\"\ndays = 300\nticks_per_day = 1\nbase = 0.1\nper_day = 50.0\nreplications = 1\narms = [{many}]\n\
         policies = [{{ name = \"equal\", kind = \"equal\" }}]"
    );
    let wide = html(&[run(&wide)], None);
    check(&wide);
    assert!(wide.len() < 300_000, "{} bytes", wide.len());
}

#[test]
fn the_multiple_of_the_references_regret_is_of_the_pairs() {
    let simulation = run(HOSTILE);
    assert_eq!(super::over_reference(&simulation, "thompson"), None);
    let own = simulation.summaries.iter().find(|s| s.policy == "halves").unwrap().regret.mean;
    let reference = simulation.summaries.iter().find(|s| s.policy == "thompson").unwrap().regret.mean;
    let ratio = super::over_reference(&simulation, "halves").unwrap();
    assert!((ratio.mean - own / reference).abs() < 1e-12 && ratio.se >= 0.0);
}
