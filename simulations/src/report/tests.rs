//! Tests of the report: it names all scenarios and policies, escapes names, and needs nothing from other servers.

use super::html;
use crate::{Options, Scenario, Simulation, simulate};

/// A small scenario with every feature, and with names that contain markup.
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
        { name = "unconstrained", kind = "unconstrained" },
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

/// A minimal scenario with two equal arms and the given metric.
fn equal_arms(name: &str, metric: &str) -> Simulation {
    run(&format!(
        "name = {name:?}\ndays = 2\nbase = 0.3\nper_day = 200.0\nreplications = 1\narms = [{{ lift = 0.0 }}, {{ lift = \
         0.0 }}]\n{metric}"
    ))
}

/// All values of an attribute.
fn attribute_values<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Checks that the page is well formed, loads nothing and has no invalid number.
fn check_page(html: &str) {
    assert!(!html.contains("<script"), "the page has a script");
    assert!(!html.contains("://") && !html.contains("url(") && !html.contains("@import"), "the page loads something");
    assert!(attribute_values(html, "src").is_empty());
    assert!(attribute_values(html, "href").iter().all(|href| href.starts_with('#')), "a link leads to another page");
    assert!(!html.contains("NaN") && !html.contains(">inf"), "a number is not finite");
    for svg in html.split("<svg").skip(1) {
        let inside = svg.split_once('>').unwrap().1;
        assert!(inside.starts_with("<title>") && !inside.starts_with("<title></title>"), "a chart has no title");
    }
    for tag in ["svg", "table", "details", "section", "article", "div", "g", "text", "tr", "td", "th", "ul", "li"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "<{tag}> is not closed");
    }
    let mut ids = attribute_values(html, "id");
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id is used twice");
}

#[test]
fn report_names_every_policy_and_scenario_and_loads_nothing() {
    let simulations = [run(HOSTILE), equal_arms("alike", "")];
    let html = html(&simulations, Some("inroad simulate 'a & b.toml'"));
    check_page(&html);
    for text in [
        "tiny",
        "alike",
        "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;sons&quot;",
        "growth &amp; &lt;b&gt;",
        "halves",
        "unconstrained",
        "floor = 0.1",
        "inroad simulate &#39;a &amp; b.toml&#39;",
        "Seed",
        "Outdated clients",
    ] {
        assert!(html.contains(text), "{text} is missing");
    }
}

#[test]
fn same_simulation_gives_the_same_bytes() {
    let page = || html(&[run(HOSTILE)], Some("again"));
    assert!(page() == page());
}

#[test]
fn every_kind_of_metric_has_a_report() {
    let mean = "metric = { kind = \"mean\", value = 10.0, sigma = 0.5, cap = 50.0 }";
    let ratio = "metric = { kind = \"ratio\", denominator = 2.0 }";
    for metric in ["", mean, "metric = { kind = \"count\" }", ratio] {
        check_page(&html(&[equal_arms("w", metric)], None));
    }
    let empty = html(&[], None);
    check_page(&empty);
    let many: String = (0..14).map(|i| format!("{{ lift = 0.0{i:02} }},")).collect();
    let wide = format!(
        "name = \"wide\"\ndays = 300\nticks_per_day = 1\nbase = 0.1\nper_day = 50.0\nreplications = 1\narms = \
         [{many}]\n\
         policies = [{{ name = \"equal\", kind = \"equal\" }}]"
    );
    let wide = html(&[run(&wide)], None);
    check_page(&wide);
    assert!(wide.len() < 300_000, "{} bytes", wide.len());
}

#[test]
fn relative_regret_is_the_ratio_of_means() {
    let simulation = run(HOSTILE);
    assert_eq!(super::regret_relative_to_unconstrained(&simulation, "unconstrained"), None);
    let own = simulation.summaries.iter().find(|s| s.policy == "halves").unwrap().regret.mean;
    let reference = simulation.summaries.iter().find(|s| s.policy == "unconstrained").unwrap().regret.mean;
    let ratio = super::regret_relative_to_unconstrained(&simulation, "halves").unwrap();
    assert!((ratio.mean - own / reference).abs() < 1e-12 && ratio.se >= 0.0);
}
