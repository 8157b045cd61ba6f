//! A product manager runs an experiment from the first page to the archive, with connected clients.

use inroad_sdk::{Context, Outcome};

use crate::fixtures::{connect_clients, record_traffic, start_server, unit_in, wait_until_updated};
use crate::harness::{Api, eventually};
use crate::webdriver::Browser;

const KEY: &str = "shop.button";
/// Longest time for a kill to reach every client, on a machine that runs other tests.
const MAX_KILL_MS: f64 = 1_000.0;

/// The traffic share of a variation, from the API.
async fn share(api: &Api, variation: &str) -> f64 {
    let arms = api.results(KEY).await.arms;
    arms.iter().find(|arm| arm.variation == variation).expect("the variation").share
}

/// Follows a link of the page to an action and confirms it.
async fn confirm(browser: &Browser, link: &str, button: &str) {
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", link).await;
    browser.press_button(button).await;
}

/// The number of milliseconds that follows a text in a notice.
fn milliseconds_after(notice: &str, text: &str) -> f64 {
    let rest = notice.split_once(text).unwrap_or_else(|| panic!("no {text:?} in {notice:?}")).1;
    let number = rest.split_once(" ms").expect("milliseconds").0;
    number.trim().replace(',', "").parse().unwrap_or_else(|e| panic!("{number:?} in {notice:?}: {e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn product_manager_runs_an_experiment_from_creation_to_archive() {
    let server = start_server().await;
    let api = server.api();
    let browser = Browser::open(&server, "/").await;
    browser.wait_for("No experiments yet").await;
    browser.set_name("Grace Hopper").await;
    browser.click_css("main .empty a.button").await;
    browser.wait_for_path("/new").await;
    browser.type_into("key", KEY).await;
    browser.type_into("description", "Which colour sells").await;
    browser.choose_value("policy.kind", "manual").await;
    browser.type_into("policy.floor", "20").await;
    browser.choose_value("payload_kind", "string").await;
    browser.type_into("variations.0.payload", "#00f").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "#0f0").await;
    browser.type_into("variations.1.share", "25").await;
    browser.type_into("metrics.0.key", "bought").await;
    browser.type_into("metrics.0.event", "purchase").await;

    // The preview shows the changes before anything is saved.
    browser.press_first_button("Preview changes").await;
    browser.wait_for("Preview of changes").await;
    assert!(browser.text_of("section.preview").await.contains("Moves from control into a variation 25.00% of traffic"));
    browser.press_first_button("Create draft").await;
    browser.wait_for("Draft created.").await;
    browser.click_css(".verdict a.primary").await;
    browser.wait_for("Exposures are recorded from now on.").await;
    browser.press_button("Start experiment").await;
    browser.wait_for("Experiment started.").await;
    let health = browser.text_of("#health").await;
    for early in ["Sample ratio mismatch", "Maximum remaining gain", "at the current rate"] {
        assert!(!health.contains(early), "no units were exposed, so this must not be shown: {health}");
    }

    // Three clients with local evaluation; one of them sends the traffic.
    let connected = connect_clients(&server, &["till-1", "till-2", "till-3"]).await;
    wait_until_updated(&api, 3).await;
    for n in 0..100 {
        let context = Context::new(format!("customer-{n}"));
        connected[0].assign(KEY, &context);
        connected[0].track(connected[0].outcome(if n % 2 == 0 { "cart" } else { "purchase" }, &context));
    }
    connected[0].track(Outcome::new("purchase").targeting_key("customer-0"));
    eventually("the page shows all exposed units", async || {
        let shown = browser.text_of("#results").await;
        let numbers: Vec<u32> = ["control", "green"].iter().filter_map(|arm| units(&shown, arm)).collect();
        (numbers.iter().sum::<u32>() == 100).then_some(())
    })
    .await;

    grow(&browser, &api).await;
    let unit = unit_in(&api, KEY, "green").await;
    let before_the_kill = browser.evaluate("return new Date().toISOString()", vec![]).await;
    kill_and_restore(&browser, &api, &connected, &unit).await;
    check_playground(&browser, &unit, before_the_kill.as_str().expect("a time")).await;
    add_a_variation(&browser, &api).await;
    check_other_pages(&browser).await;
    conclude_and_archive(&browser, &api).await;
}

/// The units of a variation in the first table of results.
fn units(results: &str, arm: &str) -> Option<u32> {
    let rest = results.split_once("Expected loss").or_else(|| results.split_once("better than control"))?.1;
    rest.split_once(&format!("{arm} "))?.1.split(' ').next()?.replace(',', "").parse().ok()
}

async fn grow(browser: &Browser, api: &Api) {
    let before = share(api, "green").await;
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", "Grow green").await;
    assert!(browser.all("button", "Grow green").await.is_empty(), "growing needs a preview first");
    browser.type_into("amount", "2").await;
    browser.press_button("Preview changes").await;
    browser.wait_for("Units moved between variations 0").await;
    assert!(browser.text_of(".preview").await.contains("Moves from control into a variation 25.00% of traffic"));
    assert_eq!(share(api, "green").await, before, "a preview changes nothing");
    browser.press_button("Grow green").await;
    browser.wait_for("green grows").await;
    assert_eq!(share(api, "green").await, 0.5);

    // Beyond the minimum control share, and not a number: the error is shown at the field, and nothing happens.
    browser.click("link", "Grow green").await;
    for (typed, error) in
        [("2", "Enter a smaller amount"), ("plenty", "This is not a number. Enter a number such as 2 or 12.5.")]
    {
        browser.type_into("amount", typed).await;
        browser.press_button("Preview changes").await;
        browser.wait_for(error).await;
        let field_state = "const it = document.querySelector('main [name=amount]:not([type=hidden])');
            return [it.value, it.getAttribute('aria-invalid'), it.getAttribute('aria-describedby')]";
        assert_eq!(browser.evaluate(field_state, vec![]).await, serde_json::json!([typed, "true", "error"]));
        assert!(browser.all("button", "Grow green").await.is_empty());
    }
    assert_eq!(share(api, "green").await, 0.5);
}

async fn kill_and_restore(browser: &Browser, api: &Api, clients: &[inroad_sdk::Client], unit: &str) {
    let seen = |client: &inroad_sdk::Client| {
        client.evaluate(KEY, &Context::new(unit)).variation().map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(seen(&clients[0]), "green");
    confirm(browser, "Kill green", "Kill green").await;
    browser.wait_for("green is killed: its units get control. All 3 connected clients have it").await;
    let notice = browser.text_of("#done").await;
    let (median, slowest) = (milliseconds_after(&notice, "median "), milliseconds_after(&notice, "slowest "));
    println!("the kill reached the clients in {median} ms (median), {slowest} ms (slowest)");
    assert!(median <= slowest && slowest < MAX_KILL_MS, "{notice}");
    for client in clients {
        assert_eq!(seen(client), "control", "the clients reported the kill");
    }
    assert_eq!(share(api, "green").await, 0.5, "its buckets are kept");
    confirm(browser, "Restore green", "Restore green").await;
    browser.wait_for("green is restored: the same units see it again. All 3 connected clients have it").await;
    assert_eq!(seen(&clients[0]), "green");
    confirm(browser, "Kill experiment", "Kill experiment").await;
    browser.wait_for("All 3 connected clients have it").await;
    let verdict = browser.text_of("#verdict").await;
    assert!(verdict.starts_with("Killed: all units get control until it is restored"), "{verdict}");
    let controls = browser.text_of("#controls").await;
    assert!(controls.contains("green 50.00% serves control: the experiment is killed"), "{controls}");
    let over_time = browser.text_of("#line").await;
    assert_eq!(over_time.matches(", restored ").count(), 1, "only green was restored: {over_time}");
    assert!(over_time.contains("The whole experiment: killed ") && over_time.contains(", still killed"), "{over_time}");
    assert_eq!(seen(&clients[2]), "control");
    let killed = browser.evaluate("return new Date().toISOString()", vec![]).await;
    open_playground(browser, unit, killed.as_str().expect("a time")).await;
    browser.wait_for("which is killed, so the unit gets control").await;
    confirm(browser, "Restore experiment", "Restore experiment").await;
    browser.wait_for("All 3 connected clients have it").await;
}

async fn open_playground(browser: &Browser, unit: &str, at: &str) {
    browser.go("/playground").await;
    browser.type_into("experiment", KEY).await;
    browser.type_into("unit", unit).await;
    browser.type_into("at", at).await;
    browser.press_button("Show assignment").await;
}

async fn check_playground(browser: &Browser, unit: &str, before_the_kill: &str) {
    for at in ["", before_the_kill] {
        open_playground(browser, unit, at).await;
        browser.wait_for("point is in a bucket of green").await;
        assert!(browser.text_of(".verdict").await.starts_with("green"), "{at:?}");
        assert!(browser.text_of(".declared").await.contains("#0f0"));
    }
    open_playground(browser, unit, "2020-01-31T09:00").await;
    browser.wait_for("The experiment did not exist at this time.").await;
    open_playground(browser, unit, "yesterday").await;
    browser.wait_for("Write it like 2026-01-31T09:00").await;
    assert_eq!(browser.value_of("at").await, "yesterday");
}

async fn add_a_variation(browser: &Browser, api: &Api) {
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", "Edit or add variation").await;
    browser.type_into("variations.2.key", "blue").await;
    browser.type_into("variations.2.payload", "#00c").await;
    browser.type_into("variations.2.share", "10").await;
    browser.press_first_button("Preview changes").await;
    browser.wait_for("Units moved between variations 0").await;
    assert!(browser.text_of(".preview").await.contains("Moves from control into a variation 10.00% of traffic"));
    browser.press_first_button("Save").await;
    browser.wait_for("Saved.").await;
    assert_eq!(share(api, "blue").await, 0.1);
    assert_eq!(share(api, "green").await, 0.5);
    assert!(browser.text_of("#controls").await.contains("blue 10.00% served"));
}

async fn check_other_pages(browser: &Browser) {
    // 50 units have a cart event; only customer-0 has a purchase after it.
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click_css("#contents a[href$='/funnel']").await;
    let suggested = "return [...document.querySelector('main [name=step]').list.options].map(o => o.value)";
    let both_events = serde_json::json!(["cart", "purchase"]);
    assert_eq!(browser.evaluate(suggested, vec![]).await, both_events, "events of metrics and recent events");
    let steps =
        "const all = document.querySelectorAll('main [name=step]'); all[0].value = 'cart'; all[1].value = 'purchase'";
    browser.evaluate(steps, vec![]).await;
    browser.press_button("Show funnel").await;
    eventually("the funnel has both steps", async || {
        let shown = browser.text_of("#funnel table.results").await;
        let reached = |step: &str| {
            let rows: Vec<&str> = shown.split_once(&format!(" {step} control "))?.1.split(' ').collect();
            let green = rows.iter().position(|word| *word == "green")?;
            Some(rows[0].parse::<u32>().ok()? + rows[green + 1].parse::<u32>().ok()?)
        };
        (reached("cart") == Some(50) && reached("purchase") == Some(1)).then_some(())
    })
    .await;

    browser.go("/feed").await;
    browser.choose_value("kind", "exposure").await;
    browser.type_into("experiment", KEY).await;
    browser.type_into("unit", "customer-7").await;
    browser.press_button("Filter").await;
    browser.wait_for("customer-77").await;
    let shown = browser.text_of("table.feed tbody").await;
    assert_eq!(shown.matches("customer-7").count(), 11, "7 and 70 to 79: {shown}");
    assert!(!shown.contains("outcome") && !shown.contains("customer-8"), "{shown}");

    browser.go("/clients").await;
    for client in ["till-1", "till-2", "till-3"] {
        browser.wait_for(client).await;
    }
    assert!(browser.text_of("#clients").await.contains("rust/"));
}

async fn conclude_and_archive(browser: &Browser, api: &Api) {
    record_traffic(api, KEY, "late", 20).await;
    confirm(browser, "Pause experiment", "Pause experiment").await;
    browser.wait_for("Experiment paused.").await;
    browser.wait_for("Paused: all units keep their variation").await;
    confirm(browser, "Resume experiment", "Resume experiment").await;
    browser.wait_for("Experiment resumed.").await;
    browser.click("link", "Conclude experiment").await;
    browser.click("radio", "green").await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Concluded: all units get green until it is restarted").await;
    let controls = browser.text_of("#controls").await;
    assert!(controls.contains("served to all units") && controls.contains("not served"), "{controls}");
    confirm(browser, "Restart experiment", "Restart experiment").await;
    browser.wait_for("Experiment restarted under a new salt.").await;
    assert!(browser.text_of("#head").await.contains("Run 2 of 2"));
    // The results of the first run are still available.
    browser.click_css("#results a[href$='generation=1']").await;
    browser.wait_for("Run 1 of 2").await;
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", "Conclude experiment").await;
    browser.click("radio", "control (roll back)").await;
    browser.press_button("Conclude experiment").await;
    browser.wait_for("Rolled back: all units get control until it is restarted").await;
    confirm(browser, "Archive experiment", "Archive experiment").await;
    browser.wait_for("Experiment archived.").await;
    assert!(browser.all("link", "Edit or add variation").await.is_empty());

    let audit = api.audit(KEY).await;
    let actors: Vec<&str> = audit.iter().map(|entry| entry.actor.as_str()).collect();
    assert_eq!(actors, vec!["Grace Hopper"; audit.len()]);
    let shown = browser.text_of("#history").await;
    // The results kept with a kill name who killed as well.
    let entries = shown.matches("Grace Hopper").count() - shown.matches("by Grace Hopper:").count();
    assert_eq!(entries, audit.len(), "{shown}");
    browser.follow("Inroad").await;
    browser.wait_for("0 of 1 experiment").await;
}
