//! A product manager's way through an experiment, from the first page to the archive, with callers connected.

use inroad_sdk::{Context, Outcome};

use crate::driving::Browser;
use crate::harness::{Api, eventually};
use crate::stage::{caught_up, clients, server, traffic, unit_of};

const KEY: &str = "shop.button";
/// How long a kill may take to be at every client on a machine that is busy with other tests.
const LATE_MS: f64 = 1_000.0;

/// The share of the line that a variation has, as the server says.
async fn share(api: &Api, variation: &str) -> f64 {
    let arms = api.results(KEY).await.arms;
    arms.iter().find(|arm| arm.variation == variation).expect("the variation").share
}

/// Does what a link of the page asks about, having seen what it would do.
async fn confirm(browser: &Browser, link: &str, button: &str) {
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", link).await;
    browser.press_button(button).await;
}

/// In milliseconds: the number that stands before ` ms` after some words of a notice.
fn told_ms(notice: &str, words: &str) -> f64 {
    let rest = notice.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {notice:?}")).1;
    let number = rest.split_once(" ms").expect("milliseconds").0;
    number.trim().replace(',', "").parse().unwrap_or_else(|e| panic!("{number:?} in {notice:?}: {e}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_manager_runs_an_experiment_from_the_first_page_to_the_archive() {
    let server = server().await;
    let api = server.api();
    let browser = Browser::open(&server, "/").await;
    browser.wait_for("No experiment yet").await;
    browser.say_who("Grace Hopper").await;
    browser.click_css("main .empty a.button").await;
    browser.wait_for_path("/new").await;
    browser.type_into("key", KEY).await;
    browser.type_into("description", "Which colour sells").await;
    browser.pick("policy.kind", "manual").await;
    browser.type_into("policy.floor", "20").await;
    browser.pick("payload_kind", "string").await;
    browser.type_into("variations.0.payload", "#00f").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "#0f0").await;
    browser.type_into("variations.1.share", "25").await;
    browser.type_into("metrics.0.key", "bought").await;
    browser.type_into("metrics.0.event", "purchase").await;

    // What would come of it, before anything does.
    browser.press_first("Show what would change").await;
    browser.wait_for("What would change").await;
    assert!(
        browser.text_of("section.preview").await.contains("Moves from control into a variation 25.00% of the line")
    );
    browser.press_first("Create as a draft").await;
    browser.wait_for("Created, as a draft.").await;
    browser.click_css(".verdict a.primary").await;
    browser.wait_for("Exposures are recorded from now on.").await;
    browser.press_button("Start the experiment").await;
    browser.wait_for("It has started.").await;
    let health = browser.text_of("#health").await;
    for early in ["Sample ratio", "left to gain", "at this pace"] {
        assert!(!health.contains(early), "nobody was exposed, nothing was measured: {health}");
    }

    // Callers: three that decide by themselves, and much traffic through one of them.
    let callers = clients(&server, &["till-1", "till-2", "till-3"]).await;
    caught_up(&api, 3).await;
    for n in 0..100 {
        let context = Context::new(format!("customer-{n}"));
        callers[0].assign(KEY, &context);
        callers[0].track(callers[0].outcome(if n % 2 == 0 { "cart" } else { "purchase" }, &context));
    }
    callers[0].track(Outcome::new("purchase").by("customer-0"));
    eventually("all of it is counted on the page", async || {
        let shown = browser.text_of("#results").await;
        let numbers: Vec<u32> = ["control", "green"].iter().filter_map(|arm| units(&shown, arm)).collect();
        (numbers.iter().sum::<u32>() == 100).then_some(())
    })
    .await;

    grow(&browser, &api).await;
    let mine = unit_of(&api, KEY, "green").await;
    let before_the_kill = browser.evaluate("return new Date().toISOString()", vec![]).await;
    kill_and_restore(&browser, &api, &callers, &mine).await;
    look_back(&browser, &mine, before_the_kill.as_str().expect("an instant")).await;
    add_a_variation(&browser, &api).await;
    look_around(&browser).await;
    to_the_end(&browser, &api).await;
}

/// The units of a variation in the first table of results.
fn units(results: &str, arm: &str) -> Option<u32> {
    let rest = results.split_once("Expected loss").or_else(|| results.split_once("Better than control"))?.1;
    rest.split_once(&format!("{arm} "))?.1.split(' ').next()?.replace(',', "").parse().ok()
}

async fn grow(browser: &Browser, api: &Api) {
    let before = share(api, "green").await;
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", "Grow green").await;
    assert!(browser.all("button", "Grow green").await.is_empty(), "nothing can be done before it is shown");
    browser.type_into("amount", "2").await;
    browser.press_button("Show what would change").await;
    browser.wait_for("Units that leave a variation for another 0").await;
    assert!(browser.text_of(".preview").await.contains("Moves from control into a variation 25.00% of the line"));
    assert_eq!(share(api, "green").await, before, "a question changes nothing");
    browser.press_button("Grow green").await;
    browser.wait_for("green grows").await;
    assert_eq!(share(api, "green").await, 0.5);

    // Past the floor, and not a number: said at the field, with what to do, and nothing happens.
    browser.click("link", "Grow green").await;
    for (typed, said) in [("2", "ask for less"), ("plenty", "write a number, such as 2 or 12.5")] {
        browser.type_into("amount", typed).await;
        browser.press_button("Show what would change").await;
        browser.wait_for(said).await;
        let refused = "const it = document.querySelector('main [name=amount]:not([type=hidden])');
            return [it.value, it.getAttribute('aria-invalid'), it.getAttribute('aria-describedby')]";
        assert_eq!(browser.evaluate(refused, vec![]).await, serde_json::json!([typed, "true", "error"]));
        assert!(browser.all("button", "Grow green").await.is_empty());
    }
    assert_eq!(share(api, "green").await, 0.5);
}

async fn kill_and_restore(browser: &Browser, api: &Api, callers: &[inroad_sdk::Client], mine: &str) {
    let seen = |client: &inroad_sdk::Client| {
        client.evaluate(KEY, &Context::new(mine)).variation().map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(seen(&callers[0]), "green");
    confirm(browser, "Kill green", "Kill green").await;
    browser.wait_for("green is killed: it serves control. All 3 connected clients have it").await;
    let notice = browser.text_of("#done").await;
    let (half, slowest) = (told_ms(&notice, "half of them within "), told_ms(&notice, "the slowest after "));
    println!("the kill was at half of the clients within {half} ms, at all after {slowest} ms");
    assert!(half <= slowest && slowest < LATE_MS, "{notice}");
    for client in callers {
        assert_eq!(seen(client), "control", "they said that they had it");
    }
    assert_eq!(share(api, "green").await, 0.5, "its place is kept");
    confirm(browser, "Restore green", "Restore green").await;
    browser.wait_for("green is restored: it serves the very units it had. All 3 connected clients have it").await;
    assert_eq!(seen(&callers[0]), "green");
    confirm(browser, "Kill the experiment", "Kill the experiment").await;
    browser.wait_for("All 3 connected clients have it").await;
    let verdict = browser.text_of("#verdict").await;
    assert!(verdict.starts_with("Killed: everybody gets control until it is restored"), "{verdict}");
    let controls = browser.text_of("#controls").await;
    assert!(controls.contains("green 50.00% serves control: the experiment is killed"), "{controls}");
    let over_time = browser.text_of("#line").await;
    assert_eq!(over_time.matches(", restored ").count(), 1, "green was: {over_time}");
    assert!(over_time.contains("The whole experiment: killed ") && over_time.contains(", and still is"), "{over_time}");
    assert_eq!(seen(&callers[2]), "control");
    let killed = browser.evaluate("return new Date().toISOString()", vec![]).await;
    ask_playground(browser, mine, killed.as_str().expect("an instant")).await;
    browser.wait_for("which is killed, so it gets control").await;
    confirm(browser, "Restore the experiment", "Restore the experiment").await;
    browser.wait_for("All 3 connected clients have it").await;
}

async fn ask_playground(browser: &Browser, unit: &str, at: &str) {
    browser.go("/playground").await;
    browser.type_into("experiment", KEY).await;
    browser.type_into("unit", unit).await;
    browser.type_into("at", at).await;
    browser.press_button("Show").await;
}

async fn look_back(browser: &Browser, mine: &str, before_the_kill: &str) {
    for at in ["", before_the_kill] {
        ask_playground(browser, mine, at).await;
        browser.wait_for("place on the line belongs to green").await;
        assert!(browser.text_of(".verdict").await.starts_with("green"), "{at:?}");
        assert!(browser.text_of(".declared").await.contains("#0f0"));
    }
    ask_playground(browser, mine, "2020-01-31T09:00").await;
    browser.wait_for("the experiment did not exist then").await;
    ask_playground(browser, mine, "yesterday").await;
    browser.wait_for("write it like 2026-01-31T09:00").await;
    assert_eq!(browser.value_of("at").await, "yesterday");
}

async fn add_a_variation(browser: &Browser, api: &Api) {
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click("link", "Edit, or add a variation").await;
    browser.type_into("variations.2.key", "blue").await;
    browser.type_into("variations.2.payload", "#00c").await;
    browser.type_into("variations.2.share", "10").await;
    browser.press_first("Show what would change").await;
    browser.wait_for("Units that leave a variation for another 0").await;
    assert!(browser.text_of(".preview").await.contains("Moves from control into a variation 10.00% of the line"));
    browser.press_first("Save").await;
    browser.wait_for("Saved.").await;
    assert_eq!(share(api, "blue").await, 0.1);
    assert_eq!(share(api, "green").await, 0.5);
    assert!(browser.text_of("#controls").await.contains("blue 10.00% served"));
}

async fn look_around(browser: &Browser) {
    // 50 put something into the cart; of the others some bought, and none of them after a cart but customer-0.
    browser.go(&format!("/experiments/{KEY}")).await;
    browser.click_css("#contents a[href$='/funnel']").await;
    let offered = "return [...document.querySelector('main [name=step]').list.options].map(o => o.value)";
    let both = serde_json::json!(["cart", "purchase"]);
    assert_eq!(browser.evaluate(offered, vec![]).await, both, "what a metric names, and what came lately");
    let steps =
        "const all = document.querySelectorAll('main [name=step]'); all[0].value = 'cart'; all[1].value = 'purchase'";
    browser.evaluate(steps, vec![]).await;
    browser.press_button("Show").await;
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
    browser.pick("kind", "exposure").await;
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

async fn to_the_end(browser: &Browser, api: &Api) {
    traffic(api, KEY, "late", 20).await;
    confirm(browser, "Pause", "Pause the experiment").await;
    browser.wait_for("It is paused").await;
    browser.wait_for("Paused: everybody keeps what they have").await;
    confirm(browser, "Resume", "Resume the experiment").await;
    browser.wait_for("It goes on.").await;
    browser.click("link", "Conclude").await;
    browser.click("radio", "green").await;
    browser.press_button("Conclude the experiment").await;
    browser.wait_for("Concluded: everybody gets green until it is restarted").await;
    let controls = browser.text_of("#controls").await;
    assert!(controls.contains("served to everybody") && controls.contains("not served"), "{controls}");
    confirm(browser, "Restart", "Restart under a new salt").await;
    browser.wait_for("It has started again, under a new salt.").await;
    assert!(browser.text_of("#head").await.contains("Generation 2 of 2"));
    // What was before can still be read.
    browser.click_css("#results a[href$='generation=1']").await;
    browser.wait_for("Generation 1 of 2").await;
    confirm(browser, "Conclude", "Conclude the experiment").await;
    browser.wait_for("Concluded: everybody gets control until it is restarted").await;
    confirm(browser, "Archive", "Archive the experiment").await;
    browser.wait_for("It is put away.").await;
    assert!(browser.all("link", "Edit, or add a variation").await.is_empty());

    let audit = api.audit(KEY).await;
    let by: Vec<&str> = audit.iter().map(|entry| entry.actor.as_str()).collect();
    assert_eq!(by, vec!["Grace Hopper"; audit.len()]);
    let shown = browser.text_of("#history").await;
    assert_eq!(shown.matches("Grace Hopper").count(), audit.len(), "{shown}");
    browser.follow("Inroad").await;
    browser.wait_for("0 of 1 experiment").await;
}
