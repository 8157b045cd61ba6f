//! What is shown before anything is done: what will happen, to whom, and the one button that does it.

use maud::{Markup, html};

use crate::chart::text::{Format, number};
use crate::chart::{Bucket, strip};
use crate::shell::{Reader, hidden};

/// How a line would look after a change.
#[derive(Debug, Clone)]
pub struct LinePreview {
    /// Control first, those that would be added included.
    pub names: Vec<String>,
    /// Now.
    pub before: Vec<Bucket>,
    /// Then.
    pub after: Vec<Bucket>,
    /// Now, by variation.
    pub shares_before: Vec<f64>,
    /// Then, by variation.
    pub shares_after: Vec<f64>,
    /// Now.
    pub killed_before: Vec<bool>,
    /// Then.
    pub killed_after: Vec<bool>,
    /// The share of the line that would be owned by another variation than the one that owns it now: 0, always.
    pub leaves_a_variation: f64,
}

impl LinePreview {
    /// The share of the line that would see something else.
    #[must_use]
    pub fn moved(&self) -> f64 {
        let pairs = self.shares_before.iter().skip(1).zip(self.shares_after.iter().skip(1));
        let added = self.shares_after.iter().skip(self.shares_before.len().max(1));
        pairs.map(|(before, after)| (after - before).max(0.0)).chain(added.copied()).sum()
    }

    /// The share of the line that stops seeing its variation and sees control, and the share that sees it again.
    #[must_use]
    pub fn switched(&self) -> (f64, f64) {
        let arms = self.shares_after.iter().zip(self.killed_before.iter().zip(&self.killed_after));
        arms.fold((0.0, 0.0), |(off, on), (share, killed)| match killed {
            (false, true) => (off + share, on),
            (true, false) => (off, on + share),
            _ => (off, on),
        })
    }

    /// The change as a picture and as numbers.
    #[must_use]
    pub fn render(&self) -> Markup {
        let (off, on) = self.switched();
        html! {
            div.preview {
                h3 { "The line now" }
                (strip(&self.names, &self.before, &self.killed_before, None))
                h3 { "The line then" }
                (strip(&self.names, &self.after, &self.killed_after, None))
                dl.facts-grid {
                    @if off > 0.0 { div { dt { "Stops seeing its variation, sees control" } dd { (number(off, Format::Percent2)) " of the line" } } }
                    @if on > 0.0 { div { dt { "Sees its variation again" } dd { (number(on, Format::Percent2)) " of the line" } } }
                    @if off == 0.0 && on == 0.0 { div { dt { "Moves from control into a variation" } dd { (number(self.moved(), Format::Percent2)) " of the line" } } }
                    div { dt { "Units that leave a variation for another" } dd.zero { (number(self.leaves_a_variation, Format::Int)) } }
                }
            }
        }
    }
}

/// What an action asks for beside a yes.
#[derive(Debug, Clone)]
pub enum Question {
    /// Nothing.
    Nothing,
    /// By how much to grow: what was typed, if anything was.
    Amount {
        /// "times", "to" or "by".
        how: String,
        /// As typed.
        amount: String,
    },
    /// What to ship: the choices, control first, and the one that is proposed.
    Ship {
        /// Keys.
        choices: Vec<String>,
        /// One of them.
        chosen: String,
    },
}

/// The page.
#[derive(Debug, Clone)]
pub struct Confirm {
    /// The experiment.
    pub key: String,
    /// What it stands at, so that two people do not overwrite each other.
    pub etag: String,
    /// The word in the address.
    pub action: &'static str,
    /// What the button says.
    pub button: String,
    /// Of what: a variation, or empty for the experiment.
    pub variation: String,
    /// Whether it takes something away from people.
    pub is_dangerous: bool,
    /// What will happen, and to whom.
    pub consequences: Vec<Markup>,
    /// What has to be said beside yes.
    pub question: Question,
    /// How the line would look.
    pub preview: Option<LinePreview>,
    /// Why it was refused, at the field.
    pub error: Option<String>,
}

impl Confirm {
    /// The page's content.
    #[must_use]
    pub fn render(&self, reader: &Reader) -> Markup {
        let back = format!("/experiments/{}#manage", self.key);
        html! {
            p.crumbs { a href="/" { "Experiments" } " / " a href=(back) { (self.key) } }
            h1 { (self.button) }
            @if let Some(error) = &self.error { p.notice.bad role="alert" id="error" { (error) } }
            ul.consequences { @for line in &self.consequences { li { (line) } } }
            (self.ask_first())
            @if let Some(preview) = &self.preview { (preview.render()) }
            form.confirm method="post" action={ "/experiments/" (self.key) "/do/" (self.action) } {
                (hidden(reader))
                input type="hidden" name="etag" value=(self.etag);
                input type="hidden" name="variation" value=(self.variation);
                @match &self.question {
                    Question::Nothing => {}
                    Question::Amount { how, amount } => {
                        input type="hidden" name="how" value=(how);
                        input type="hidden" name="amount" value=(amount);
                    }
                    Question::Ship { choices, chosen } => {
                        fieldset {
                            legend { "What does everybody get from now on?" }
                            @for (i, choice) in choices.iter().enumerate() {
                                label.choice {
                                    input type="radio" name="ship" value=(choice) checked[choice == chosen] required;
                                    " " (choice) @if i == 0 { " (roll back)" }
                                }
                            }
                        }
                    }
                }
                div.actions {
                    @if !matches!(self.question, Question::Amount { .. }) || self.preview.is_some() {
                        button.primary.danger[self.is_dangerous] { (self.button) }
                    }
                    a.button href=(back) { "Leave it as it is" }
                }
            }
        }
    }

    /// What is asked before the button can be pressed, because it says what the button would do.
    fn ask_first(&self) -> Markup {
        let Question::Amount { how, amount } = &self.question else { return html! {} };
        let ways = [("times", "times as large"), ("to", "% of the line"), ("by", "% of the line more")];
        html! {
            form.amount method="get" action={ "/experiments/" (self.key) "/ask/grow" } {
                input type="hidden" name="variation" value=(self.variation);
                label { span { "Grow to" }
                    input name="amount" value=(amount) inputmode="decimal" required aria-describedby=[self.error.as_ref().map(|_| "error")] aria-invalid=[self.error.as_ref().map(|_| "true")];
                }
                label { span.unseen { "in" } select name="how" aria-label="in" { @for (value, words) in ways { option value=(value) selected[value == how] { (words) } } } }
                button { "Show what would change" }
            }
        }
    }
}
