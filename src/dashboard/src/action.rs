//! The page that confirms an action: its consequences, a preview, and the button that does it.

mod conclusion;

use maud::{Markup, html};

pub use conclusion::{AUDIENCE, ConclusionForm, ConclusionScope, EVERYONE, VariationUnits};

use crate::chart::{Bucket, allocation_bar};
use crate::format::{NumberFormat, number};
use crate::layout::{Viewer, hidden_fields};

/// The traffic allocation before and after a change.
#[derive(Debug, Clone)]
pub struct AllocationPreview {
    /// Variations, control first, including those that the change adds.
    pub names: Vec<String>,
    /// Buckets before.
    pub before: Vec<Bucket>,
    /// Buckets after.
    pub after: Vec<Bucket>,
    /// Shares before, by variation.
    pub shares_before: Vec<f64>,
    /// Shares after, by variation.
    pub shares_after: Vec<f64>,
    /// Whether each variation is killed before.
    pub killed_before: Vec<bool>,
    /// Whether each variation is killed after.
    pub killed_after: Vec<bool>,
    /// Traffic share that moves from a variation to another arm: always 0.
    pub moved_between_variations: f64,
    /// What a change of the audience does to exposed units, as a sentence; empty if the audience stays the same.
    pub audience_change: String,
}

impl AllocationPreview {
    /// Traffic share that moves from control into a variation.
    #[must_use]
    pub fn moved_from_control(&self) -> f64 {
        let pairs = self.shares_before.iter().skip(1).zip(self.shares_after.iter().skip(1));
        let added = self.shares_after.iter().skip(self.shares_before.len().max(1));
        pairs.map(|(before, after)| (after - before).max(0.0)).chain(added.copied()).sum()
    }

    /// Traffic shares of the variations that the change kills, and of those that it restores.
    #[must_use]
    pub fn killed_and_restored(&self) -> (f64, f64) {
        let arms = self.shares_after.iter().zip(self.killed_before.iter().zip(&self.killed_after));
        arms.fold((0.0, 0.0), |(killed, restored), (share, is_killed)| match is_killed {
            (false, true) => (killed + share, restored),
            (true, false) => (killed, restored + share),
            _ => (killed, restored),
        })
    }

    /// Renders the change as charts and numbers.
    #[must_use]
    pub fn render(&self) -> Markup {
        let (killed, restored) = self.killed_and_restored();
        html! {
            div.preview {
                h3 { "Current traffic allocation" }
                (allocation_bar(&self.names, &self.before, &self.killed_before, None))
                h3 { "New traffic allocation" }
                (allocation_bar(&self.names, &self.after, &self.killed_after, None))
                dl.facts-grid {
                    @if killed > 0.0 { div { dt { "Switches from a variation to control" } dd { (number(killed, NumberFormat::Percent2)) " of traffic" } } }
                    @if restored > 0.0 { div { dt { "Gets its variation back" } dd { (number(restored, NumberFormat::Percent2)) " of traffic" } } }
                    @if killed == 0.0 && restored == 0.0 { div { dt { "Moves from control into a variation" } dd { (number(self.moved_from_control(), NumberFormat::Percent2)) " of traffic" } } }
                    @if !self.audience_change.is_empty() { div { dt { "Effect of the new audience" } dd { (self.audience_change) } } }
                    div { dt { "Units moved between variations" } dd.zero { (number(self.moved_between_variations, NumberFormat::Int)) } }
                }
            }
        }
    }
}

/// The input that an action needs.
#[derive(Debug, Clone)]
pub enum ActionInput {
    /// No input.
    None,
    /// The action would change nothing, so it is not offered.
    NothingToDo,
    /// How much to grow.
    Amount {
        /// `times`, `to` or `by`.
        how: String,
        /// As typed.
        amount: String,
    },
    /// Which variation to ship, and to which units.
    Conclusion(ConclusionForm),
}

/// The page that confirms an action.
#[derive(Debug, Clone)]
pub struct ConfirmPage {
    /// Key of the experiment.
    pub key: String,
    /// Version of the experiment, so that two people do not overwrite each other's changes.
    pub etag: String,
    /// Name of the action in the URL.
    pub action: &'static str,
    /// Label of the button.
    pub button: String,
    /// Key of the variation; empty for the whole experiment.
    pub variation: String,
    /// Whether the action takes a variation away from people or cannot be undone.
    pub is_dangerous: bool,
    /// What the action does, and to which units.
    pub consequences: Vec<Markup>,
    /// Required input.
    pub input: ActionInput,
    /// Allocation before and after.
    pub preview: Option<AllocationPreview>,
    /// Why the action was refused.
    pub error: Option<String>,
}

impl ConfirmPage {
    /// Renders the page's content.
    #[must_use]
    pub fn render(&self, viewer: &Viewer) -> Markup {
        let back = format!("/experiments/{}#manage", self.key);
        html! {
            p.crumbs { a href="/" { "Experiments" } " / " a href=(back) { (self.key) } }
            h1 { (self.button) }
            @if let Some(error) = &self.error { p.notice.bad role="alert" id="error" { (error) } }
            ul.consequences { @for line in &self.consequences { li { (line) } } }
            (self.amount_form())
            @if let Some(preview) = &self.preview { (preview.render()) }
            form.confirm method="post" action={ "/experiments/" (self.key) "/do/" (self.action) } {
                (hidden_fields(viewer))
                input type="hidden" name="etag" value=(self.etag);
                input type="hidden" name="variation" value=(self.variation);
                @match &self.input {
                    ActionInput::None | ActionInput::NothingToDo => {}
                    ActionInput::Amount { how, amount } => {
                        input type="hidden" name="how" value=(how);
                        input type="hidden" name="amount" value=(amount);
                    }
                    ActionInput::Conclusion(form) => (form.render()),
                }
                div.actions {
                    @if self.can_confirm() {
                        button.primary.danger[self.is_dangerous] { (self.button) }
                    }
                    a.button href=(back) { "Cancel" }
                }
            }
        }
    }

    /// Whether there is something to confirm: a change of shares only after its preview.
    fn can_confirm(&self) -> bool {
        match self.input {
            ActionInput::Amount { .. } => self.preview.is_some(),
            ActionInput::NothingToDo => false,
            ActionInput::None | ActionInput::Conclusion(_) => true,
        }
    }

    /// The form for the amount. The preview depends on it, so it comes before the button of the action.
    fn amount_form(&self) -> Markup {
        let ActionInput::Amount { how, amount } = &self.input else { return html! {} };
        let units =
            [("times", "times the current share"), ("to", "% of traffic in total"), ("by", "% of traffic more")];
        html! {
            form.amount method="get" action={ "/experiments/" (self.key) "/ask/grow" } {
                input type="hidden" name="variation" value=(self.variation);
                label { span { "Amount" }
                    input name="amount" value=(amount) inputmode="decimal" required aria-describedby=[self.error.as_ref().map(|_| "error")] aria-invalid=[self.error.as_ref().map(|_| "true")];
                }
                label { span.unseen { "Unit of the amount" } select name="how" aria-label="Unit of the amount" { @for (value, label) in units { option value=(value) selected[value == how] { (label) } } } }
                button { "Preview changes" }
            }
        }
    }
}
