//! What every page has around it: the head, the way to the other pages, who is acting, and what just happened.

use maud::{DOCTYPE, Markup, html};

use crate::asset::{ICON, SCRIPT, STYLE};

/// Which of the main pages is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Every experiment.
    Overview,
    /// What a unit gets.
    Playground,
    /// Events as they come.
    Feed,
    /// Who is connected.
    Clients,
    /// Anything else.
    Elsewhere,
}

/// Who looks at the page.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// The name that the audit log gets; empty if they have not said.
    pub name: String,
    /// What a form has to send back, so that no other site can send it.
    pub token: String,
    /// Where they are, to come back to.
    pub here: String,
}

/// Something that has just happened, or did not.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Whether it went wrong.
    pub is_bad: bool,
    /// What, in plain words.
    pub text: String,
}

/// One page.
pub struct Page<'a> {
    /// Its title.
    pub title: &'a str,
    /// Where it is.
    pub place: Place,
    /// What of the server it follows, as the query of the live address; none if it stands still.
    pub live: Option<String>,
    /// Who looks.
    pub reader: &'a Reader,
    /// What has just happened.
    pub notice: Option<Notice>,
    /// What it is about.
    pub body: Markup,
}

const PLACES: [(Place, &str, &str); 4] = [
    (Place::Overview, "/", "Experiments"),
    (Place::Playground, "/playground", "Playground"),
    (Place::Feed, "/feed", "Live feed"),
    (Place::Clients, "/clients", "Clients"),
];

impl Page<'_> {
    /// The whole document.
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
                    link rel="icon" type=(ICON.kind) href=(ICON.path());
                    link rel="stylesheet" href=(STYLE.path());
                    script src=(SCRIPT.path()) defer {}
                }
                body data-live=[live] {
                    a.skip href="#main" { "Skip to content" }
                    header.top {
                        a.brand href="/" { img src=(ICON.path()) alt="" width="26" height="26"; "Inroad" }
                        nav aria-label="Main" {
                            @for (place, href, name) in PLACES {
                                a href=(href) aria-current=[(place == self.place).then_some("page")] { (name) }
                            }
                        }
                        div.whoami {
                            @if self.live.is_some() { span.pulse id="pulse" role="status" { "live" } }
                            (who(self.reader))
                        }
                    }
                    main id="main" tabindex="-1" {
                        @if let Some(notice) = &self.notice {
                            p.notice.bad[notice.is_bad] role=(if notice.is_bad { "alert" } else { "status" }) { (notice.text) }
                        }
                        (self.body)
                    }
                }
            }
        }
        .into_string()
    }
}

fn who(reader: &Reader) -> Markup {
    let said = if reader.name.is_empty() { "Say who you are" } else { reader.name.as_str() };
    html! {
        details.who {
            summary { (said) }
            form.pop method="post" action="/who" {
                (hidden(reader))
                label for="who-name" { "Your name, for the audit log" }
                input id="who-name" name="name" value=(reader.name) maxlength="128" autocomplete="name" required;
                button { "Keep" }
            }
        }
    }
}

/// What every form that changes something sends along.
#[must_use]
pub fn hidden(reader: &Reader) -> Markup {
    html! {
        input type="hidden" name="token" value=(reader.token);
        input type="hidden" name="here" value=(reader.here);
    }
}

/// Where a field for an event finds names to offer.
pub(crate) const EVENT_NAMES: &str = "events";

/// Names of events to offer: a hint, for any other may be typed.
pub(crate) fn event_names(names: &[String]) -> Markup {
    html! { datalist id=(EVENT_NAMES) { @for name in names { option value=(name) {} } } }
}

/// A part of a page that is kept up to date; `id` names it, in the page and to the script.
#[must_use]
pub fn live_part(id: &str, body: &Markup) -> Markup {
    html! { div id=(id) data-part { (body) } }
}

/// A state of an experiment as a word with a mark.
#[must_use]
pub fn state_badge(state: &str, killed: bool) -> Markup {
    html! {
        @if killed { span.badge.killed { "killed" } " " }
        span class={ "badge " (state) } { (state) }
    }
}
