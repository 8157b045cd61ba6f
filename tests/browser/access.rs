//! Everybody can use every page: on a phone, in the dark, with a screen reader, without a mouse, in their own language.

use crate::driving::{Browser, Key, Look, Scheme, assert_accessible};
use crate::harness::{Server, eventually, flag};
use crate::stage::{KEY, button, caught_up, clients, server, traffic, unit_of, with_kills};

/// Every kind of page: what it is called, and where it is.
async fn everything(server: &Server) -> Vec<(String, String)> {
    let api = server.api();
    api.launch(button()).await;
    traffic(&api, KEY, "customer", 300).await;
    api.grow(KEY, "green", 0.4).await;
    api.create(flag("shop.draft-with-quite-a-long-key.that-a-phone-has-to-break-somewhere", &[("on", 0.1)])).await;
    api.launch(flag("shop.concluded", &[("on", 0.5)])).await;
    server.cli(&["experiment", "conclude", "shop.concluded", "--ship", "on", "--yes"]).await.ok();
    api.launch(flag("shop.killed", &[("on", 0.5)])).await;
    api.kill("shop.killed", "").await;
    api.launch(flag("shop.paused", &[("on", 0.5)])).await;
    server.cli(&["experiment", "pause", "shop.paused"]).await.ok();
    with_kills(&api, "shop.kills").await;
    let unit = unit_of(&api, KEY, "green").await;
    // What has been counted is on the pages.
    api.results(KEY).await;
    let at = format!("/experiments/{KEY}");
    [
        ("overview", "/".to_owned()),
        ("overview-nothing-fits", "/?q=nothing".to_owned()),
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

/// Looks at the page that is open in both schemes: nobody is shut out of it, it fits the window, and a picture stays.
async fn look_at(browser: &Browser, name: &str, width: u32) -> Result<(), String> {
    let mut wrong = Vec::new();
    for scheme in [Scheme::Light, Scheme::Dark] {
        browser.prefer(scheme).await;
        let scheme = format!("{scheme:?}").to_lowercase();
        browser.picture(&format!("{name}-{width}-{scheme}")).await;
        let found = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(assert_accessible(browser))).await;
        if let Err(panic) = found {
            wrong.push(format!(
                "{name}, {width}, {scheme}: {}",
                panic.downcast::<String>().map_or_else(|_| String::new(), |t| *t)
            ));
        }
    }
    let wide = browser.width().await;
    if wide > u64::from(width) {
        let widest = "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > \
            document.documentElement.clientWidth && !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 120)).slice(0, 5).join('\\n')";
        let widest = browser.evaluate(widest, vec![]).await;
        wrong.push(format!("{name} is {wide} wide in a window of {width}: {widest}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

async fn look_at_everything(width: u32, height: u32) {
    let server = server().await;
    let browser = Browser::open(&server, "/").await;
    browser.resize(width, height).await;
    let mut wrong = Vec::new();
    for (name, path, shows) in [
        ("overview-empty", "/", "No experiment yet"),
        ("clients-empty", "/clients", "Nobody is connected"),
        ("feed-empty", "/feed", "Nothing yet"),
    ] {
        browser.go(path).await;
        browser.wait_for(shows).await;
        wrong.extend(look_at(&browser, name, width).await.err());
    }
    let pages = everything(&server).await;
    let callers = clients(&server, &["till-1", "a-client-with-quite-a-long-name-of-its-own"]).await;
    caught_up(&server.api(), callers.len()).await;
    for (name, path) in &pages {
        browser.go(path).await;
        wrong.extend(look_at(&browser, name, width).await.err());
    }
    browser.go("/new").await;
    browser.type_into("key", "Not A Key").await;
    browser.type_into("variations.1.key", "green").await;
    browser.type_into("variations.1.payload", "perhaps").await;
    browser.press_first("Create as a draft").await;
    browser.wait_for("This cannot be saved yet").await;
    browser.expect_complaint("422").await;
    wrong.extend(look_at(&browser, "new-with-faults", width).await.err());
    browser.go(&format!("/experiments/{KEY}/edit")).await;
    browser.type_into("audience", "country ==").await;
    browser.type_into("variations.3.key", "Red One").await;
    browser.type_into("variations.3.payload", "#f00").await;
    browser.type_into("variations.3.share", "lots").await;
    browser.type_into("metrics.1.window", "soon").await;
    browser.press_first("Save").await;
    browser.wait_for("This cannot be saved yet").await;
    browser.expect_complaint("422").await;
    wrong.extend(look_at(&browser, "edit-with-faults", width).await.err());
    browser.go("/experiments/nobody").await;
    browser.expect_complaint("404").await;
    wrong.extend(look_at(&browser, "problem", width).await.err());
    browser.go("/").await;
    browser.click_css(".who summary").await;
    wrong.extend(look_at(&browser, "who", width).await.err());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_and_fits_a_phone() {
    look_at_everything(390, 844).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_accessible_on_a_desk() {
    look_at_everything(1440, 900).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variation_is_killed_by_keyboard_alone() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    let browser = Browser::open(&server, &format!("/experiments/{KEY}")).await;
    let over = browser.tab_to("link", "Skip to content").await;
    assert_eq!(over, [], "it comes first");
    browser.press(&[Key::Enter]).await;
    let at = "return document.activeElement.id";
    eventually("the focus is on the content", async || (browser.evaluate(at, vec![]).await == "main").then_some(()))
        .await;
    let over = browser.tab_to("link", "Kill green").await;
    assert!(!over.iter().any(|(_, name)| name == "Playground"), "the way to other pages was skipped: {over:?}");
    browser.press(&[Key::Enter]).await;
    browser.wait_for("stop seeing green and see control, at once.").await;
    browser.tab_to("button", "Kill green").await;
    browser.press(&[Key::Enter]).await;
    browser.wait_for("green is killed").await;
    assert!(api.get(KEY).await.variations[1].killed);
    // What moves by itself does not take the keyboard's place away.
    browser.tab_to("link", "Restore green").await;
    browser.note_changes_of("controls").await;
    api.grow(KEY, "blue", 0.25).await;
    browser.first_showed("blue 25\\.00%").await;
    assert_eq!(browser.focused().await, ("link".to_owned(), "Restore green".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_times_are_the_readers_own() {
    let server = server().await;
    let api = server.api();
    api.launch(button()).await;
    traffic(&api, KEY, "customer", 1_200).await;
    api.results(KEY).await;
    let german = Look { lang: "de", ..Look::default() };
    let browser = Browser::open_as(german, &server, &format!("/experiments/{KEY}")).await;
    let control = "green 30,00 % served";
    eventually("shares as Germans write them", async || {
        browser.text_of("#controls").await.contains(control).then_some(())
    })
    .await;
    let english =
        "return [...document.querySelectorAll('data')].map(d => d.textContent).filter(t => /\\d\\.\\d\\d?%/.test(t))";
    assert_eq!(browser.evaluate(english, vec![]).await, serde_json::json!([]));
    for ask in ["kill?variation=green", "kill", "restart", "grow?variation=green"] {
        browser.go(&format!("/experiments/{KEY}/ask/{ask}")).await;
        let share = if ask.contains("green") { "30,00 % of the line" } else { "50,00 % of the line" };
        eventually("what would happen, in German numbers", async || {
            browser.text_of(".consequences").await.contains(share).then_some(())
        })
        .await;
        let said = browser.text_of("main").await;
        assert!(!said.contains(".00%"), "{said}");
    }
    browser.go("/").await;
    eventually("thousands as Germans set them apart", async || browser.text().await.contains("1.200").then_some(()))
        .await;
    browser.go("/feed").await;
    let times = browser.text_of("table.feed tbody time").await;
    let is_german = times.chars().filter(|c| *c == '.').count() == 2 && times.contains(':') && !times.contains('M');
    assert!(is_german, "{times}");
    // And what a German types is understood.
    browser.go(&format!("/experiments/{KEY}/ask/grow?variation=green&amount=1%2C5&how=times")).await;
    browser.wait_for("Moves from control into a variation 15,00 % of the line").await;
}
