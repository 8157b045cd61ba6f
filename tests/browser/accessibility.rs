//! Accessibility of every page: on a phone, with a dark scheme, with a screen reader, by keyboard, in another language.

use crate::fixtures::{
    KEY, button_experiment, connect_clients, launch_with_kills, record_traffic, start_server, unit_in,
    wait_until_updated,
};
use crate::harness::{Server, eventually, flag};
use crate::webdriver::{Appearance, Browser, Key, Scheme, assert_accessible};

/// Creates experiments in all states and returns every kind of page: its name and its path.
async fn all_pages(server: &Server) -> Vec<(String, String)> {
    let api = server.api();
    api.launch(button_experiment()).await;
    record_traffic(&api, KEY, "customer", 300).await;
    api.grow(KEY, "green", 0.4).await;
    api.create(flag("shop.draft-with-quite-a-long-key.that-a-phone-has-to-break-somewhere", &[("on", 0.1)])).await;
    api.launch(flag("shop.concluded", &[("on", 0.5)])).await;
    server.cli(&["experiment", "conclude", "shop.concluded", "--ship", "on", "--yes"]).await.ok();
    api.launch(flag("shop.killed", &[("on", 0.5)])).await;
    api.kill("shop.killed", "").await;
    api.launch(flag("shop.paused", &[("on", 0.5)])).await;
    server.cli(&["experiment", "pause", "shop.paused"]).await.ok();
    launch_with_kills(&api, "shop.kills").await;
    let unit = unit_in(&api, KEY, "green").await;
    // Waits until the events are counted.
    api.results(KEY).await;
    let at = format!("/experiments/{KEY}");
    [
        ("overview", "/".to_owned()),
        ("overview-no-matches", "/?q=nothing".to_owned()),
        ("new", "/new".to_owned()),
        ("draft", "/experiments/shop.draft-with-quite-a-long-key.that-a-phone-has-to-break-somewhere".to_owned()),
        ("running", at.clone()),
        ("concluded", "/experiments/shop.concluded".to_owned()),
        ("killed", "/experiments/shop.killed".to_owned()),
        ("paused", "/experiments/shop.paused".to_owned()),
        ("kills", "/experiments/shop.kills".to_owned()),
        ("edit", format!("{at}/edit")),
        ("ask-kill", format!("{at}/ask/kill?variation=green")),
        ("ask-grow", format!("{at}/ask/grow?variation=green&amount=1.5&how=times")),
        ("ask-grow-refused", format!("{at}/ask/grow?variation=green&amount=9&how=times")),
        ("ask-conclude", format!("{at}/ask/conclude")),
        ("ask-restart", format!("{at}/ask/restart")),
        ("funnel", format!("{at}/funnel?step=purchase")),
        ("funnel-empty", format!("{at}/funnel")),
        ("playground", format!("/playground?experiment={KEY}&unit={unit}")),
        ("playground-wrong", format!("/playground?experiment={KEY}&unit=a&at=yesterday")),
        ("feed", "/feed".to_owned()),
        ("clients", "/clients".to_owned()),
    ]
    .map(|(name, path)| (name.to_owned(), path))
    .into()
}

/// Checks that the open page is accessible in both schemes and fits the window, and saves screenshots of it.
pub(crate) async fn check_page(browser: &Browser, name: &str, width: u32) -> Result<(), String> {
    let mut failures = Vec::new();
    for scheme in [Scheme::Light, Scheme::Dark] {
        browser.set_scheme(scheme).await;
        let scheme = format!("{scheme:?}").to_lowercase();
        browser.full_page_screenshot(&format!("{name}-{width}-{scheme}")).await;
        let checked = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(assert_accessible(browser))).await;
        if let Err(panic) = checked {
            failures.push(format!(
                "{name}, {width}, {scheme}: {}",
                panic.downcast::<String>().map_or_else(|_| String::new(), |t| *t)
            ));
        }
    }
    let page_width = browser.width().await;
    if page_width > u64::from(width) {
        let widest = "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > \
            document.documentElement.clientWidth && !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 120)).slice(0, 5).join('\\n')";
        let widest = browser.evaluate(widest, vec![]).await;
        failures.push(format!("{name} is {page_width} wide in a window of {width}: {widest}"));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

async fn check_all_pages(width: u32, height: u32) {
    let server = start_server().await;
    let browser = Browser::open(&server, "/").await;
    browser.resize(width, height).await;
    let mut failures = Vec::new();
    for (name, path, shows) in [
        ("overview-empty", "/", "No experiments yet"),
        ("clients-empty", "/clients", "No client is connected"),
        ("feed-empty", "/feed", "No events yet"),
    ] {
        browser.go(path).await;
        browser.wait_for(shows).await;
        failures.extend(check_page(&browser, name, width).await.err());
    }
    let pages = all_pages(&server).await;
    let connected = connect_clients(&server, &["till-1", "a-client-with-quite-a-long-name-of-its-own"]).await;
    wait_until_updated(&server.api(), connected.len()).await;
    for (name, path) in &pages {
        browser.go(path).await;
        failures.extend(check_page(&browser, name, width).await.err());
    }
    browser.go("/new").await;
    browser.type_into("key", "Not A Key").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "perhaps").await;
    browser.press_first_button("Create draft").await;
    browser.wait_for("Not saved. Fix these errors").await;
    browser.expect_console_error("422").await;
    failures.extend(check_page(&browser, "new-with-errors", width).await.err());
    browser.go(&format!("/experiments/{KEY}/edit")).await;
    browser.type_into("audience", "country ==").await;
    browser.type_into("variations.3.key", "Red One").await;
    browser.type_into("variations.3.payload", "#f00").await;
    browser.type_into("variations.3.share", "lots").await;
    browser.type_into("metrics.1.window", "soon").await;
    browser.press_first_button("Save").await;
    browser.wait_for("Not saved. Fix these errors").await;
    browser.expect_console_error("422").await;
    failures.extend(check_page(&browser, "edit-with-errors", width).await.err());
    browser.go("/experiments/nobody").await;
    browser.expect_console_error("404").await;
    failures.extend(check_page(&browser, "error", width).await.err());
    browser.go("/").await;
    browser.click_css(".who summary").await;
    failures.extend(check_page(&browser, "name-form", width).await.err());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_and_fits_a_phone() {
    check_all_pages(390, 844).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_on_a_desktop() {
    check_all_pages(1440, 900).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variation_can_be_killed_by_keyboard_alone() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    let passed = browser.tab_to("link", "Skip to content").await;
    assert_eq!(passed, [], "the link comes first");
    browser.press(&[Key::Enter]).await;
    let focused_id = "return document.activeElement.id";
    eventually("the focus is on the content", async || {
        (browser.evaluate(focused_id, vec![]).await == "main").then_some(())
    })
    .await;
    let passed = browser.tab_to("link", "Kill green").await;
    assert!(!passed.iter().any(|(_, name)| name == "Playground"), "the navigation was skipped: {passed:?}");
    browser.press(&[Key::Enter]).await;
    browser.wait_for("switch from green to control immediately.").await;
    browser.tab_to("button", "Kill green").await;
    browser.press(&[Key::Enter]).await;
    browser.wait_for("green is killed").await;
    assert!(api.get(KEY).await.variations[1].killed);
    // A live update does not take the keyboard focus away.
    browser.tab_to("link", "Restore green").await;
    browser.record_changes_of("controls").await;
    api.grow(KEY, "blue", 0.25).await;
    browser.wait_for_change_showing("blue 25\\.00%").await;
    assert_eq!(browser.focused().await, ("link".to_owned(), "Restore green".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_times_are_in_the_viewers_language() {
    let server = start_server().await;
    let api = server.api();
    api.launch(button_experiment()).await;
    record_traffic(&api, KEY, "customer", 1_200).await;
    api.results(KEY).await;
    let german = Appearance { lang: "de", ..Appearance::default() };
    let browser = Browser::open_as(german, &server, &format!("/experiments/{KEY}")).await;
    let shares = "green 30,00 % served";
    eventually("shares are in German", async || browser.text_of("#controls").await.contains(shares).then_some(()))
        .await;
    let english =
        "return [...document.querySelectorAll('data')].map(d => d.textContent).filter(t => /\\d\\.\\d\\d?%/.test(t))";
    assert_eq!(browser.evaluate(english, vec![]).await, serde_json::json!([]));
    for ask in ["kill?variation=green", "kill", "restart", "grow?variation=green"] {
        browser.go(&format!("/experiments/{KEY}/ask/{ask}")).await;
        let share = if ask.contains("green") { "30,00 % of traffic" } else { "50,00 % of traffic" };
        eventually("consequences have German numbers", async || {
            browser.text_of(".consequences").await.contains(share).then_some(())
        })
        .await;
        let text = browser.text_of("main").await;
        assert!(!text.contains(".00%"), "{text}");
    }
    browser.go("/").await;
    eventually("thousands separators are German", async || browser.text().await.contains("1.200").then_some(())).await;
    browser.go("/feed").await;
    let times = browser.text_of("table.feed tbody time").await;
    let is_german = times.chars().filter(|c| *c == '.').count() == 2 && times.contains(':') && !times.contains('M');
    assert!(is_german, "{times}");
    // A decimal comma is accepted.
    browser.go(&format!("/experiments/{KEY}/ask/grow?variation=green&amount=1%2C5&how=times")).await;
    browser.wait_for("Moves from control into a variation 15,00 % of traffic").await;
}
