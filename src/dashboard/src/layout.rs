//! The layout around every page: head, navigation and the viewer's name.

use maud::{DOCTYPE, Markup, html};

use crate::asset::{ICON, SCRIPT, STYLE};
use crate::server_notice::{ServerNotice, notices_part};

/// An entry of the main navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NavItem {
    /// The list of all experiments.
    Overview,
    /// The playground, which shows the variation of a unit.
    Playground,
    /// Events as they arrive.
    Feed,
    /// Connected SDKs.
    Clients,
    /// The audit log of all experiments.
    Audit,
    /// A page that is not in the navigation.
    Other,
}

/// The person who views the page.
#[derive(Debug, Clone, Default)]
pub struct Viewer {
    /// Name for the audit log; empty if it is not set.
    pub name: String,
    /// Secret that every form must send back, which protects against forms of other sites (CSRF).
    pub token: String,
    /// Path of the current page, to return to.
    pub here: String,
}

/// A page with its layout.
pub struct PageLayout<'a> {
    /// Title in the browser's tab.
    pub title: &'a str,
    /// Active navigation entry.
    pub nav_item: NavItem,
    /// Query of the live-update address; none if the page does not update.
    pub live: Option<String>,
    /// The person who views the page.
    pub viewer: &'a Viewer,
    /// Conditions of the server that everybody must know.
    pub notices: &'a [ServerNotice],
    /// Content.
    pub body: Markup,
}

const NAVIGATION: [(NavItem, &str, &str); 5] = [
    (NavItem::Overview, "/", "Experiments"),
    (NavItem::Playground, "/playground", "Playground"),
    (NavItem::Feed, "/feed", "Live feed"),
    (NavItem::Clients, "/clients", "Clients"),
    (NavItem::Audit, "/audit", "Audit log"),
];

impl PageLayout<'_> {
    /// Renders the whole document.
    #[must_use]
    pub fn render(&self) -> String {
        let live = self.live.as_ref().map(|query| format!("/live?{query}"));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · Inroad" }
                    link rel="icon" type=(ICON.media_type) href=(ICON.path());
                    link rel="stylesheet" href=(STYLE.path());
                    script src=(SCRIPT.path()) defer {}
                }
                body data-live=[live] {
                    a.skip href="#main" { "Skip to content" }
                    header.top {
                        a.brand href="/" { img src=(ICON.path()) alt="" width="26" height="26"; "Inroad" }
                        nav aria-label="Main" {
                            @for (item, href, name) in NAVIGATION {
                                a href=(href) aria-current=[(item == self.nav_item).then_some("page")] { (name) }
                            }
                        }
                        div.whoami {
                            @if self.live.is_some() { span.pulse id="pulse" role="status" { "live" } }
                            (viewer_name(self.viewer))
                        }
                    }
                    (notices_part(self.notices))
                    main id="main" tabindex="-1" {
                        (self.body)
                    }
                }
            }
        }
        .into_string()
    }
}

fn viewer_name(viewer: &Viewer) -> Markup {
    let shown = if viewer.name.is_empty() { "Set your name" } else { viewer.name.as_str() };
    html! {
        details.who {
            summary { (shown) }
            form.pop method="post" action="/who" {
                (hidden_fields(viewer))
                label for="who-name" { "Your name in the audit log" }
                input id="who-name" name="name" value=(viewer.name) maxlength="128" autocomplete="name" required;
                button aria-label="Save name" { "Save" }
            }
        }
    }
}

/// The hidden fields of every form that changes something.
#[must_use]
pub fn hidden_fields(viewer: &Viewer) -> Markup {
    html! {
        input type="hidden" name="token" value=(viewer.token);
        input type="hidden" name="here" value=(viewer.here);
    }
}

/// Id of the list of event names that fields suggest.
pub(crate) const EVENT_NAMES: &str = "events";

/// The list of event names to suggest. Any other name may be typed.
pub(crate) fn event_name_list(names: &[String]) -> Markup {
    html! { datalist id=(EVENT_NAMES) { @for name in names { option value=(name) {} } } }
}

/// A part of a page that the script keeps up to date, found by its `id`.
#[must_use]
pub fn live_part(id: &str, body: &Markup) -> Markup {
    html! { div id=(id) data-part { (body) } }
}

/// The state of an experiment as a badge.
#[must_use]
pub fn state_badge(state: &str, killed: bool) -> Markup {
    html! {
        @if killed { span.badge.killed { "killed" } " " }
        span class={ "badge " (state) } { (state) }
    }
}
