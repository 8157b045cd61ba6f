//! Actions on an experiment: a page that shows the effects and asks to confirm, then the same service call as over
//! gRPC.

mod affected_units;
mod consequences;

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use inroad_assignment::definition::Variation;
use inroad_assignment::experiment::{ChangeError, RevisionCause, ShippingScope};
use inroad_assignment::{Arm, Experiment, Generation, KillTarget, Timestamp};
use inroad_dashboard::action::{
    AUDIENCE, ActionInput, ConclusionForm, ConclusionScope, ConfirmPage, EVERYONE, VariationUnits,
};
use inroad_dashboard::form::{Form, parse_number, url_encode};
use inroad_dashboard::layout::NavItem;
use inroad_wire::v1;
use inroad_wire::v1::conclude_experiment_request::Outcome;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use inroad_wire::v1::grow_variation_request::Amount;
use maud::html;
use tonic::Code;

use super::access::{Caller, FormBody};
use super::allocation::preview;
use super::{
    PageResponse, Pages, PagesState, as_sentence, error_message, error_response, http_code, redirect_to,
    status_response,
};
use crate::ended_run::served_shares;
use crate::error::ServerError;
use crate::explain::share_in_words;
use crate::services::experiment::growth_width;
use crate::tick::check_can_reallocate;
use affected_units::AffectedUnits;
use consequences::{button_label, consequences};

/// An action on an experiment or a variation.
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
        ACTIONS.iter().find(|(_, name)| *name == text).map(|(action, _)| *action)
    }

    fn name(self) -> &'static str {
        ACTIONS.iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }

    /// Whether the action takes a variation away from people or cannot be undone.
    fn is_dangerous(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::Conclude | Self::Archive)
    }
}

fn unknown_action() -> ServerError {
    let all = ACTIONS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    ServerError::Invalid { field: "action", message: format!("Unknown action. Valid actions: {all}.") }
}

/// `GET /experiments/{key}/ask/{action}`
pub(super) async fn confirm_page(
    State(pages): PagesState,
    caller: Caller,
    Path((key, action)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let form = Form::parse(query.unwrap_or_default().as_bytes());
    let page = match Action::parse(&action) {
        None => Err(unknown_action()),
        Some(action) => match AffectedUnits::count_for(&pages, &key, action, &form).await {
            Ok(affected) => confirm(&pages, &key, action, &form).map(|page| affected.describe_on(page, action)),
            Err(error) => Err(error),
        },
    };
    match page {
        Ok(page) => PageResponse::new(&page.button, NavItem::Other, page.render(&caller.viewer)).send(&caller),
        Err(error) => error_response(&caller, error),
    }
}

/// Reads how much to grow.
fn read_amount(form: &Form) -> Result<Amount, ServerError> {
    let number = parse_number(form.text("amount").trim_end_matches('%')).map_err(|error| ServerError::Invalid {
        field: "amount",
        message: error.message_or("This is not a number. Enter a number such as 2 or 12.5."),
    })?;
    let refuse = |message: &str| Err(ServerError::Invalid { field: "amount", message: message.to_owned() });
    let how = form.text("how");
    if number <= 0.0 {
        return refuse("Enter an amount above 0: a variation cannot shrink. To take it from its units, kill it.");
    }
    if ["to", "by"].contains(&how) && number > 100.0 {
        return refuse("Enter at most 100%.");
    }
    Ok(match how {
        "to" => Amount::ToShare(number / 100.0),
        "by" => Amount::ByShare(number / 100.0),
        _ => Amount::Times(number),
    })
}

/// The error for an amount below the current share, with the share in percent as on the page.
fn in_percent(error: ServerError, experiment: &Experiment, arm: Arm) -> ServerError {
    let ServerError::Invalid { field: "amount", .. } = error else { return error };
    let share = share_in_words(experiment.latest_allocation().width_of(arm).share());
    let message = format!(
        "The variation already has {share} of traffic, and a variation cannot shrink. Enter a larger amount, or kill the variation."
    );
    ServerError::Invalid { field: "amount", message }
}

/// The choices of a conclusion, without the numbers of units. What was chosen before stays chosen when the page is shown
/// again; at first, nothing is.
fn conclusion_form(experiment: &Experiment, form: &Form, now: Timestamp) -> ConclusionForm {
    let generation = experiment.generation();
    let shares = generation.map(|generation| served_shares(experiment, generation, now)).unwrap_or_default();
    let arms = (0..).filter_map(Arm::new).zip(shares);
    let variation = |((arm, share), variation): ((Arm, f64), &Variation)| VariationUnits {
        name: variation.key.to_string(),
        can_ship: experiment.kills.served_arm(arm) == arm,
        share,
        units: 0,
    };
    let is_unchanged = |generation: &Generation| {
        generation.revisions.len() == 1 && generation.kill_changes.iter().all(|change| change.killed)
    };
    ConclusionForm {
        variations: arms.zip(experiment.definition.variations()).map(variation).collect(),
        is_exact: generation.is_some_and(is_unchanged),
        chosen: form.text("ship").to_owned(),
        scope: experiment
            .definition
            .audience()
            .map(|_| ConclusionScope { chosen: form.text("scope").to_owned(), ..ConclusionScope::default() }),
    }
}

/// The choices of a submitted conclusion: the variation, and whether units outside the audience get it as well.
fn read_conclusion(pages: &Pages, key: &str, form: &Form) -> Result<(String, bool), tonic::Status> {
    let ship = form.text("ship").to_owned();
    if ship.is_empty() {
        return Err(tonic::Status::invalid_argument("choose the variation that units get from now on"));
    }
    let state = pages.shared.catalogue.state();
    let has_audience = state.get(key).is_ok_and(|entry| entry.experiment.definition.audience().is_some());
    match form.text("scope") {
        EVERYONE => Ok((ship, true)),
        AUDIENCE => Ok((ship, false)),
        _ if !has_audience => Ok((ship, false)),
        _ => Err(tonic::Status::invalid_argument(
            "choose which units get the variation: those in the audience, or all units",
        )),
    }
}

/// Builds the page that confirms an action. The action is tried on a copy of the experiment.
fn confirm(pages: &Pages, key: &str, action: Action, form: &Form) -> Result<ConfirmPage, ServerError> {
    let shared = &pages.shared;
    let state = shared.catalogue.state();
    let entry = state.get(key)?;
    let experiment = &entry.experiment;
    let now = experiment.now(shared.clock.now());
    let variation = form.text("variation").to_owned();
    let arm = if variation.is_empty() { None } else { Some(experiment.arm(&variation)?) };
    let subject = if variation.is_empty() { "experiment".to_owned() } else { variation.clone() };
    let mut after = Experiment::clone(experiment);
    let mut input = ActionInput::None;
    let mut error = None;
    let mut shows_preview = true;
    let target = arm.map_or(KillTarget::Everything, KillTarget::Variation);
    let salt = inroad_assignment::Salt::parse("preview")?;
    match action {
        Action::Start => after.start(now, salt)?,
        Action::Pause => after.pause()?,
        Action::Resume => after.resume(now)?,
        Action::Kill => after.set_killed(target, true, now)?,
        Action::Restore => after.set_killed(target, false, now)?,
        Action::Restart => {
            after.restart(now, salt)?;
            shows_preview = false;
        }
        Action::Conclude => {
            after.conclude(Arm::CONTROL, ShippingScope::Audience, now)?;
            input = ActionInput::Conclusion(conclusion_form(experiment, form, now));
            shows_preview = false;
        }
        Action::Archive => {
            after.archive()?;
            shows_preview = false;
        }
        Action::Reallocate => {
            check_can_reallocate(experiment)?;
            shows_preview = false;
        }
        Action::Grow => {
            let arm = arm.filter(|arm| !arm.is_control()).ok_or_else(|| ServerError::Invalid {
                field: "variation",
                message: "Choose a variation to grow. Control cannot grow.".to_owned(),
            })?;
            let typed = form.text("amount").to_owned();
            input = ActionInput::Amount {
                how: form.text("how").to_owned(),
                amount: if typed.is_empty() { "2".to_owned() } else { typed.clone() },
            };
            shows_preview = !typed.is_empty();
            if shows_preview {
                let width = |amount| {
                    growth_width(experiment, arm, Some(amount)).map_err(|error| in_percent(error, experiment, arm))
                };
                let grown = read_amount(form).and_then(width).and_then(|width| {
                    Ok(after.grow(&[(arm, width)], RevisionCause::Grown, now, now.plus(shared.config.lead))?)
                });
                if let Err(refusal) = grown {
                    error = Some(error_message(&refusal));
                    shows_preview = false;
                }
            }
        }
    }
    let mut consequences = consequences(pages, experiment, action, arm, &subject);
    if matches!(action, Action::Kill | Action::Restore) && after == **experiment {
        let state = if action == Action::Kill { "killed already" } else { "not killed" };
        consequences = vec![html! { "Nothing to do: " (subject) " is " (state) "." }];
        input = ActionInput::NothingToDo;
        shows_preview = false;
    }
    Ok(ConfirmPage {
        key: key.to_owned(),
        etag: entry.version.to_string(),
        action: action.name(),
        button: button_label(action, &subject),
        consequences,
        variation,
        is_dangerous: action.is_dangerous(),
        input,
        preview: shows_preview.then(|| preview(experiment, &after)),
        error,
    })
}

/// `POST /experiments/{key}/do/{action}`
pub(super) async fn perform(
    State(pages): PagesState,
    caller: Caller,
    Path((key, action)): Path<(String, String)>,
    body: FormBody,
) -> Response {
    let form = match caller.accept_form(body) {
        Ok(form) => form,
        Err(response) => return *response,
    };
    let Some(action) = Action::parse(&action) else { return error_response(&caller, unknown_action()) };
    match call_service(&pages, &caller, &key, action, &form).await {
        Ok(version) => {
            let variation = url_encode(form.text("variation"));
            redirect_to(&format!("/experiments/{key}?did={}&variation={variation}&version={version}", action.name()))
        }
        Err(status) => {
            let affected = AffectedUnits::count_for(&pages, &key, action, &form).await.unwrap_or_default();
            confirm_again(&pages, &caller, &key, (action, affected), &form, &status)
        }
    }
}

/// Performs the action, and returns the new version of the experiment.
async fn call_service(
    pages: &Arc<Pages>,
    caller: &Caller,
    key: &str,
    action: Action,
    form: &Form,
) -> Result<u64, tonic::Status> {
    let (key, etag) = (key.to_owned(), form.text("etag").to_owned());
    let variation = form.text("variation").to_owned();
    let service = &pages.experiments;
    let response = match action {
        Action::Start => {
            service.start_experiment(caller.service_request(v1::StartExperimentRequest { key, etag })).await?
        }
        Action::Pause => {
            service.pause_experiment(caller.service_request(v1::PauseExperimentRequest { key, etag })).await?
        }
        Action::Resume => {
            service.resume_experiment(caller.service_request(v1::ResumeExperimentRequest { key, etag })).await?
        }
        Action::Grow => {
            let amount = Some(read_amount(form)?);
            service
                .grow_variation(caller.service_request(v1::GrowVariationRequest { key, variation, amount, etag }))
                .await?
        }
        Action::Kill => service.kill(caller.service_request(v1::KillRequest { key, variation })).await?,
        Action::Restore => service.restore(caller.service_request(v1::RestoreRequest { key, variation })).await?,
        Action::Restart => {
            service.restart_experiment(caller.service_request(v1::RestartExperimentRequest { key, etag })).await?
        }
        Action::Conclude => {
            let (ship, to_everyone) = read_conclusion(pages, &key, form)?;
            let outcome = Some(Outcome::Ship(ship));
            let request = v1::ConcludeExperimentRequest { key, outcome, etag, to_everyone };
            service.conclude_experiment(caller.service_request(request)).await?
        }
        Action::Archive => {
            service.archive_experiment(caller.service_request(v1::ArchiveExperimentRequest { key, etag })).await?
        }
        Action::Reallocate => {
            let response =
                service.reallocate(caller.service_request(v1::ReallocateRequest { key })).await?.into_inner();
            return Ok(response.experiment.map_or(0, |e| e.etag.parse().unwrap_or_default()));
        }
    };
    Ok(response.into_inner().etag.parse().unwrap_or_default())
}

/// Shows the page again with the reason for the refusal, and keeps what was typed.
fn confirm_again(
    pages: &Pages,
    caller: &Caller,
    key: &str,
    (action, affected): (Action, AffectedUnits),
    form: &Form,
    status: &tonic::Status,
) -> Response {
    match confirm(pages, key, action, form).map(|page| affected.describe_on(page, action)) {
        Ok(mut page) => {
            page.error = Some(if status.code() == Code::Aborted {
                "Somebody else changed this experiment in the meantime. Nothing was done. This page now shows the current state: check it, then confirm again.".to_owned()
            } else {
                // The error of the repeated attempt is written for pages.
                page.error.take().unwrap_or_else(|| as_sentence(&inroad_wire::status::describe_status(status)))
            });
            PageResponse::new(&page.button, NavItem::Other, page.render(&caller.viewer))
                .send_with_status(caller, http_code(status.code()))
        }
        // For missing things, the page's message is better than that of the service.
        Err(error @ (ServerError::UnknownExperiment(_) | ServerError::Change(ChangeError::UnknownVariation(_)))) => {
            error_response(caller, error)
        }
        Err(_) => status_response(caller, status),
    }
}
