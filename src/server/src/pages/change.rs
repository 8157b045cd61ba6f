//! Doing something to an experiment: first a page that says what would happen, then the same call that gRPC has.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_assignment::experiment::{Cause, ChangeError};
use inroad_assignment::{Allocation, Arm, Experiment, Target};
use inroad_dashboard::action::{Confirm, LinePreview, Question};
use inroad_dashboard::chart::text::{Format, count, counted, number};
use inroad_dashboard::form::{Form, encode, parse_number};
use inroad_dashboard::shell::Place;
use inroad_wire::v1;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use inroad_wire::v1::grow_variation_request::Amount;
use maud::{Markup, html};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::experiment::buckets;
use super::guard::{Caller, Sent};
use super::{Pages, Sheet, Site, http_code, in_words, on_to, refused, refused_status};
use crate::error::ServerError;
use crate::services::experiment::growth_width;
use crate::tick::check_ticking;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Pause,
    Resume,
    Grow,
    Kill,
    Restore,
    Restart,
    Conclude,
    Archive,
    Reallocate,
}

const ACTIONS: [(Action, &str); 10] = [
    (Action::Start, "start"),
    (Action::Pause, "pause"),
    (Action::Resume, "resume"),
    (Action::Grow, "grow"),
    (Action::Kill, "kill"),
    (Action::Restore, "restore"),
    (Action::Restart, "restart"),
    (Action::Conclude, "conclude"),
    (Action::Archive, "archive"),
    (Action::Reallocate, "reallocate"),
];

impl Action {
    fn parse(text: &str) -> Option<Self> {
        ACTIONS.iter().find(|(_, word)| *word == text).map(|(action, _)| *action)
    }

    fn word(self) -> &'static str {
        ACTIONS.iter().find(|(action, _)| *action == self).map_or("", |(_, word)| word)
    }

    /// Whether it takes something away from people, or cannot be taken back.
    fn is_dangerous(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::Conclude | Self::Archive)
    }
}

/// A request in the name of whoever looks.
pub(super) fn signed<T>(caller: &Caller, message: T) -> Request<T> {
    let mut request = Request::new(message);
    // A name that was let in is printable ASCII.
    if let Ok(actor) = MetadataValue::try_from(caller.actor()) {
        request.metadata_mut().insert("inroad-actor", actor);
    }
    request
}

fn unknown_action() -> ServerError {
    let all = ACTIONS.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
    ServerError::Invalid { field: "action", message: format!("what can be done is {all}") }
}

/// `GET /experiments/{key}/ask/{action}`
pub(super) async fn ask(
    State(pages): Site,
    caller: Caller,
    Path((key, action)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let form = Form::parse(query.unwrap_or_default().as_bytes());
    let asked =
        Action::parse(&action).ok_or_else(unknown_action).and_then(|action| confirm(&pages, &key, action, &form));
    match asked {
        Ok(confirm) => Sheet::new(&confirm.button, Place::Elsewhere, confirm.render(&caller.reader)).send(&caller),
        Err(error) => refused(&caller, error),
    }
}

/// By how much, as typed.
fn amount(form: &Form) -> Result<Amount, ServerError> {
    let number = parse_number(form.text("amount").trim_end_matches('%')).map_err(|error| ServerError::Invalid {
        field: "amount",
        message: error.told("write a number, such as 2 or 12.5"),
    })?;
    Ok(match form.text("how") {
        "to" => Amount::ToShare(number / 100.0),
        "by" => Amount::ByShare(number / 100.0),
        _ => Amount::Times(number),
    })
}

/// What would happen, and to whom.
fn confirm(pages: &Pages, key: &str, action: Action, form: &Form) -> Result<Confirm, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let entry = state.get(key)?;
    let experiment = &entry.experiment;
    let now = experiment.now(shared.clock.now());
    let variation = form.text("variation").to_owned();
    let arm = if variation.is_empty() { None } else { Some(experiment.arm(&variation)?) };
    let name = if variation.is_empty() { "the experiment".to_owned() } else { variation.clone() };
    let mut after = Experiment::clone(experiment);
    let mut question = Question::Nothing;
    let mut error = None;
    let mut is_shown = true;
    let target = arm.map_or(Target::Everything, Target::Variation);
    let salt = inroad_assignment::Salt::parse("preview")?;
    match action {
        Action::Start => after.start(now, salt)?,
        Action::Pause => after.pause()?,
        Action::Resume => after.resume(now)?,
        Action::Kill => after.switch(target, true, now)?,
        Action::Restore => after.switch(target, false, now)?,
        Action::Restart => {
            after.restart(now, salt)?;
            is_shown = false;
        }
        Action::Conclude => {
            let proposed = arm.unwrap_or(Arm::CONTROL);
            let served = |arm: &Arm| experiment.kills.served(*arm) == *arm;
            let arms = (0..experiment.definition.variations().len()).filter_map(Arm::new).filter(served);
            let choices: Vec<_> =
                arms.filter_map(|arm| Some(experiment.definition.variation(arm)?.key.to_string())).collect();
            // What somebody chose stays chosen when they are asked again.
            let proposed = experiment.definition.variation(proposed).map(|v| v.key.to_string()).unwrap_or_default();
            let chosen = choices.iter().find(|choice| *choice == form.text("ship")).cloned().unwrap_or(proposed);
            after.conclude(Arm::CONTROL, now)?;
            question = Question::Ship { choices, chosen };
            is_shown = false;
        }
        Action::Archive => {
            after.archive()?;
            is_shown = false;
        }
        Action::Reallocate => {
            check_ticking(experiment)?;
            is_shown = false;
        }
        Action::Grow => {
            let arm = arm.filter(|arm| !arm.is_control()).ok_or_else(|| ServerError::Invalid {
                field: "variation",
                message: "say which variation is to grow; control only gives".to_owned(),
            })?;
            let typed = form.text("amount").to_owned();
            question = Question::Amount {
                how: form.text("how").to_owned(),
                amount: if typed.is_empty() { "2".to_owned() } else { typed.clone() },
            };
            is_shown = !typed.is_empty();
            if is_shown {
                let grown =
                    amount(form).and_then(|amount| growth_width(experiment, arm, Some(amount))).and_then(|width| {
                        Ok(after.grow(&[(arm, width)], Cause::Grown, now, now.plus(shared.config.lead))?)
                    });
                if let Err(refused) = grown {
                    error = Some(in_words(&refused));
                    is_shown = false;
                }
            }
        }
    }
    Ok(Confirm {
        key: key.to_owned(),
        etag: entry.version.to_string(),
        action: action.word(),
        button: button(action, &name),
        consequences: consequences(pages, experiment, action, arm, &name),
        variation,
        is_dangerous: action.is_dangerous(),
        question,
        preview: is_shown.then(|| preview(experiment, &after)),
        error,
    })
}

fn button(action: Action, name: &str) -> String {
    match action {
        Action::Start => "Start the experiment".to_owned(),
        Action::Pause => "Pause the experiment".to_owned(),
        Action::Resume => "Resume the experiment".to_owned(),
        Action::Grow => format!("Grow {name}"),
        Action::Kill => format!("Kill {name}"),
        Action::Restore => format!("Restore {name}"),
        Action::Restart => "Restart under a new salt".to_owned(),
        Action::Conclude => "Conclude the experiment".to_owned(),
        Action::Archive => "Archive the experiment".to_owned(),
        Action::Reallocate => "Let the policy decide now".to_owned(),
    }
}

/// Who hears of a change that is made at once.
fn at_once(clients: usize) -> Markup {
    html! {
        @match clients {
            0 => "No client is connected now; one that connects hears of it first.",
            1 => "The one client that is connected hears of it at once.",
            _ => { (count(clients as u64)) " connected clients hear of it at once." }
        }
        " Whoever asks the server gets it from the next call on."
    }
}

fn consequences(pages: &Pages, experiment: &Experiment, action: Action, arm: Option<Arm>, name: &str) -> Vec<Markup> {
    let allocation = experiment.latest_allocation();
    let percent = |share: f64| number(share, Format::Percent2);
    let share = percent(arm.map_or(0.0, |arm| allocation.width_of(arm).share()));
    let treated = percent(1.0 - allocation.width_of(Arm::CONTROL).share());
    let at_once = at_once(pages.shared.clients.list().len());
    match action {
        Action::Start => vec![
            html! { "Every variation gets its share below; everybody else sees control." },
            html! { "Exposures are recorded from now on. Unit, salt and the order of variations are fixed until it is restarted." },
            at_once,
        ],
        Action::Pause => vec![
            html! { "Everybody keeps what they see." },
            html! { "No exposure is recorded and nothing grows by itself until it is resumed." },
        ],
        Action::Resume => vec![html! { "Exposures are recorded again, and boundaries may move." }],
        Action::Grow => vec![
            html! { (name) " has " (share) " of the line now. What it gets more comes from control, and from no other variation." },
            html! { "It cannot be made smaller again: to take a variation away, kill it." },
            html! { "It is published at once and takes effect " (lead(pages.shared.config.lead)) " later, everywhere at the same instant." },
        ],
        Action::Kill if arm.is_some() => vec![
            html! { "Units on " (share) " of the line stop seeing " (name) " and see control, at once." },
            html! { "Its place on the line is kept, and no other variation grows into it: restoring gives the same units back." },
            at_once,
        ],
        Action::Kill => vec![
            html! { "Everybody sees control, at once: units on " (treated) " of the line stop seeing their variation." },
            html! { "All places on the line are kept: restoring gives everybody what they had." },
            at_once,
        ],
        Action::Restore if arm.is_some() => vec![
            html! { "The very units that saw " (name) " before see it again, at once." },
            html! { "Rules that kill by themselves leave it alone from now on." },
            at_once,
        ],
        Action::Restore => vec![
            html! { "Everybody sees again, at once, what they saw before. A variation that was killed by itself stays killed." },
            at_once,
        ],
        Action::Restart => vec![
            html! { "A new generation begins under a new salt: every unit gets a new place on the line." },
            html! { "Units on up to " (treated) " of the line that see a variation now may see another one, or control. This is the only thing that does that." },
            html! { "Results start from nothing; those of the generation before stay readable." },
        ],
        Action::Conclude => vec![
            html! { "Everybody gets the variation chosen here, until it is restarted. To roll back, choose control." },
            html! { "No more exposures are recorded. Results stay." },
        ],
        Action::Archive => vec![
            html! { "It leaves the list, and nothing about it can be changed any more." },
            html! { "Callers that still ask get what was shipped." },
        ],
        Action::Reallocate => vec![html! {
            "The policy looks at the counts now instead of at the next tick. It may grow variations into control, kill one, or leave all as it is."
        }],
    }
}

/// A short time, in milliseconds where it is no whole number of seconds.
fn lead(lead: Duration) -> Markup {
    html! {
        @if lead.subsec_millis() == 0 { (counted(lead.as_secs(), "second")) } @else { (count(lead.as_millis() as u64)) " ms" }
    }
}

/// The line now and then. What leaves one variation for another is measured on both, not asserted.
pub(super) fn preview(before: &Experiment, after: &Experiment) -> LinePreview {
    let (old, new) = (before.latest_allocation(), after.latest_allocation());
    let all = |experiment: &Experiment| {
        (0..experiment.definition.variations().len()).filter_map(Arm::new).collect::<Vec<_>>()
    };
    let shares =
        |allocation: &Allocation, arms: &[Arm]| arms.iter().map(|arm| allocation.width_of(*arm).share()).collect();
    let killed = |experiment: &Experiment, arms: &[Arm]| -> Vec<bool> {
        arms.iter().map(|arm| !arm.is_control() && experiment.kills.served(*arm).is_control()).collect()
    };
    let (arms_before, arms_after) = (all(before), all(after));
    LinePreview {
        names: after.definition.variations().iter().map(|v| v.key.to_string()).collect(),
        before: buckets(&old),
        after: buckets(&new),
        shares_before: shares(&old, &arms_before),
        shares_after: shares(&new, &arms_after),
        killed_before: killed(before, &arms_after),
        killed_after: killed(after, &arms_after),
        leaves_a_variation: leaves(&old, &new),
    }
}

/// The share of the line that a variation owned before and another arm owns after.
fn leaves(old: &Allocation, new: &Allocation) -> f64 {
    let (old, new) = (buckets(old), buckets(new));
    let pairs =
        old.iter().filter(|b| b.arm > 0).flat_map(|b| new.iter().filter(|a| a.arm != b.arm).map(move |a| (b, a)));
    pairs.map(|(b, a)| (b.to.min(a.to) - b.from.max(a.from)).max(0.0)).sum()
}

/// `POST /experiments/{key}/do/{action}`
pub(super) async fn act(
    State(pages): Site,
    caller: Caller,
    Path((key, action)): Path<(String, String)>,
    body: Sent,
) -> Response {
    let form = match caller.form(body) {
        Ok(form) => form,
        Err(refused) => return *refused,
    };
    let Some(action) = Action::parse(&action) else { return refused(&caller, unknown_action()) };
    match act_out(&pages, &caller, &key, action, &form).await {
        Ok(version) => {
            let variation = encode(form.text("variation"));
            on_to(&format!("/experiments/{key}?did={}&variation={variation}&version={version}", action.word()))
        }
        Err(status) => ask_again(&pages, &caller, &key, action, &form, &status),
    }
}

async fn act_out(
    pages: &Arc<Pages>,
    caller: &Caller,
    key: &str,
    action: Action,
    form: &Form,
) -> Result<u64, tonic::Status> {
    let (key, etag) = (key.to_owned(), form.text("etag").to_owned());
    let variation = form.text("variation").to_owned();
    let calls = &pages.experiments;
    let done = match action {
        Action::Start => calls.start_experiment(signed(caller, v1::StartExperimentRequest { key, etag })).await?,
        Action::Pause => calls.pause_experiment(signed(caller, v1::PauseExperimentRequest { key, etag })).await?,
        Action::Resume => calls.resume_experiment(signed(caller, v1::ResumeExperimentRequest { key, etag })).await?,
        Action::Grow => {
            let amount = Some(amount(form)?);
            calls.grow_variation(signed(caller, v1::GrowVariationRequest { key, variation, amount, etag })).await?
        }
        Action::Kill => calls.kill(signed(caller, v1::KillRequest { key, variation })).await?,
        Action::Restore => calls.restore(signed(caller, v1::RestoreRequest { key, variation })).await?,
        Action::Restart => calls.restart_experiment(signed(caller, v1::RestartExperimentRequest { key, etag })).await?,
        Action::Conclude => {
            let ship = form.text("ship").to_owned();
            calls.conclude_experiment(signed(caller, v1::ConcludeExperimentRequest { key, ship, etag })).await?
        }
        Action::Archive => calls.archive_experiment(signed(caller, v1::ArchiveExperimentRequest { key, etag })).await?,
        Action::Reallocate => {
            let told = calls.reallocate(signed(caller, v1::ReallocateRequest { key })).await?.into_inner();
            return Ok(told.experiment.map_or(0, |e| e.etag.parse().unwrap_or_default()));
        }
    };
    Ok(done.into_inner().etag.parse().unwrap_or_default())
}

/// The same question once more, with why it was refused: nothing that was typed is lost.
fn ask_again(
    pages: &Pages,
    caller: &Caller,
    key: &str,
    action: Action,
    form: &Form,
    status: &tonic::Status,
) -> Response {
    match confirm(pages, key, action, form) {
        Ok(mut again) => {
            again.error = Some(if status.code() == Code::Aborted {
                "Somebody changed this experiment while you were deciding. Nothing was done. What you see now is how it stands: look again, then decide.".to_owned()
            } else {
                inroad_wire::status::describe(status)
            });
            Sheet::new(&again.button, Place::Elsewhere, again.render(&caller.reader))
                .send_as(caller, http_code(status.code()))
        }
        // What is not there is told in the page's own words.
        Err(error @ (ServerError::NotFound(_) | ServerError::Change(ChangeError::UnknownVariation(_)))) => {
            refused(caller, error)
        }
        Err(_) => refused_status(caller, status),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::Width;

    #[test]
    fn what_leaves_a_variation_is_measured() {
        let share = |s| Width::from_share(s).unwrap();
        let two = Allocation::with_footholds(&[share(0.1), share(0.2)], Width::ZERO).unwrap();
        let grown = two.grow(&[(Arm::new(1).unwrap(), share(0.3))], Width::ZERO).unwrap();
        assert_eq!(leaves(&two, &grown), 0.0);
        // The other way round units would lose what they have seen, and it would be told.
        assert!((leaves(&grown, &two) - 0.3).abs() < 1e-9);
    }
}
