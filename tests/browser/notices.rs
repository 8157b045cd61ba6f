//! Conditions of the server that every page shows: an open page shows them without a reload, in every scheme and width.

use inroad_wire::v1;

use crate::accessibility::check_page;
use crate::fixtures::{KEY, button_experiment};
use crate::harness::{Server, SetClock, eventually};
use crate::webdriver::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn jump_of_the_clock_is_on_every_page_until_it_is_accepted() {
    let clock = SetClock::new();
    let server = Server::with(clock.setup()).await;
    server.api().launch(button_experiment()).await;
    let page = format!("/experiments/{KEY}");
    let browser = Browser::open(&server, &page).await;
    browser.wait_for("live").await;
    assert_eq!(browser.text_of("#server-notices").await, "");

    clock.set("+30d");
    browser.wait_for("The server's clock jumped 30days ahead: kills, assignments and events work as usual").await;
    assert!(browser.text_of("#server-notices").await.contains("until somebody runs inroad clock accept"));
    for (width, height) in [(390, 844), (1440, 900)] {
        browser.resize(width, height).await;
        for (name, path) in [("clock-experiment", page.as_str()), ("clock-new", "/new"), ("clock-overview", "/")] {
            browser.go(path).await;
            browser.wait_for("The server's clock jumped").await;
            check_page(&browser, name, width).await.expect("an accessible page that fits the window");
        }
    }

    browser.go(&page).await;
    browser.wait_for("live").await;
    server.api().server().accept_clock(v1::AcceptClockRequest {}).await.expect("an answer");
    let is_gone = async || browser.text_of("#server-notices").await.is_empty().then_some(());
    eventually("the notice disappears without a reload", is_gone).await;
}
