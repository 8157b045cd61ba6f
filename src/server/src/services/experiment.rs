//! `ExperimentService`: each call makes one change of the catalogue or reads from it.

use std::sync::Arc;

use inroad_assignment::experiment::{RevisionCause, ShippingScope};
use inroad_assignment::{AllocationError, Arm, Definition, Experiment, ExperimentKey, TARGETING_KEY, Timestamp, Width};
use inroad_store::StoreError;
use inroad_wire::definition::{definition_from_wire, experiment_to_wire};
use inroad_wire::revision::revision_to_wire;
use inroad_wire::time::timestamp_from_wire;
use inroad_wire::v1;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use inroad_wire::v1::grow_variation_request::Amount;
use tonic::{Request, Response, Status, Streaming};

use super::explained_revision::explain_revision;
use super::history::{list_audit_entries, list_decisions};
use super::targets::{concluded_arm, kill_target};
use super::{actor, apply, check_response_size, draw_salt, invalid_page_token, page_size, take_page, version};
use crate::audience_change::describe_audience_change;
use crate::audience_report::{audience_report, report_on_audience};
use crate::catalogue::{CatalogueEntry, ChangeRequest};
use crate::error::ServerError;
use crate::explain::{decision_to_wire, share_in_words};
use crate::shared::SharedState;

/// The implementation of `ExperimentService`.
pub struct ExperimentHandler {
    shared: Arc<SharedState>,
}

type RpcResult<T> = Result<Response<T>, Status>;

fn share(field: &'static str, value: f64) -> Result<Width, ServerError> {
    Width::from_share(value)
        .ok_or_else(|| ServerError::Invalid { field, message: "use a share between 0 and 1".to_owned() })
}

impl ExperimentHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { shared }
    }

    /// An experiment, with the report on the audience that was saved or checked.
    async fn with_report(&self, definition: &Definition, experiment: v1::Experiment) -> RpcResult<v1::Experiment> {
        let audience_report = audience_report(&self.shared, definition).await;
        Ok(Response::new(v1::Experiment { audience_report, ..experiment }))
    }

    fn to_wire(&self, entry: &CatalogueEntry) -> v1::Experiment {
        experiment_to_wire(&entry.experiment, entry.version, self.shared.clock.now())
    }

    async fn change(
        &self,
        key: &str,
        etag: &str,
        actor: &str,
        action: &str,
        change: impl FnOnce(&mut Experiment, Timestamp) -> Result<(), ServerError> + Send,
    ) -> RpcResult<v1::Experiment> {
        let request = ChangeRequest { actor, action, expected_version: version(etag)? };
        let (entry, ()) =
            self.shared.catalogue.change(key, request, |e, now| change(e, now).map(|()| ((), None))).await?;
        tracing::info!(experiment = key, actor, action, version = entry.version, "changed an experiment");
        Ok(Response::new(self.to_wire(&entry)))
    }

    /// The entry and the number of a generation; 0 requests the newest.
    fn generation(&self, key: &str, number: u32) -> Result<(CatalogueEntry, u32), ServerError> {
        let entry = self.shared.catalogue.state().get(key)?.clone();
        let number = entry.generation(number)?;
        Ok((entry, number))
    }
}

/// The width that a variation gains by a requested growth.
///
/// # Errors
/// [`ServerError::Invalid`] for a missing amount, a share outside 0 to 1, or a target below the current share.
pub(crate) fn growth_width(experiment: &Experiment, arm: Arm, amount: Option<Amount>) -> Result<Width, ServerError> {
    if arm.is_control() {
        return Err(ServerError::Change(AllocationError::ControlCannotGrow.into()));
    }
    let owned = experiment.latest_allocation().width_of(arm);
    let too_small = || ServerError::Invalid {
        field: "amount",
        message: format!(
            "the variation already has {} of traffic, and shares never shrink: use a larger share, or kill the variation",
            share_in_words(owned.share())
        ),
    };
    let target = match amount {
        Some(Amount::ByShare(by)) => owned.saturating_add(share("by_share", by)?),
        Some(Amount::ToShare(to)) => share("to_share", to)?,
        Some(Amount::Times(times)) => {
            let target = owned.share() * times;
            Width::from_share(target).ok_or_else(|| ServerError::Invalid {
                field: "times",
                message: format!(
                    "{times} times the current share of {:.6} is not between 0 and 1: use a smaller factor",
                    owned.share()
                ),
            })?
        }
        None => {
            let message = "give the growth as to_share, by_share or times".to_owned();
            return Err(ServerError::Invalid { field: "amount", message });
        }
    };
    if target < owned {
        return Err(too_small());
    }
    let floor = experiment.definition.policy().floor();
    Ok(experiment.latest_allocation().round_to_headroom(target.saturating_sub(owned), floor))
}

#[tonic::async_trait]
impl ExperimentService for ExperimentHandler {
    async fn create_experiment(&self, request: Request<v1::CreateExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::CreateExperimentRequest { experiment, validate_only } = request.into_inner();
        let check = |_: &_| {
            let doc = definition_from_wire(experiment.unwrap_or_default())?;
            Ok(Definition::try_from(doc)?)
        };
        let definition = self.shared.declarations.run(check).await?;
        let now = self.shared.clock.now();
        let experiment = Experiment::create(definition, now);
        if validate_only {
            let exists = self.shared.catalogue.state().entries.contains_key(experiment.definition.key());
            if exists {
                let key = experiment.definition.key().to_string();
                return Err(ServerError::Store(StoreError::ExperimentExists(key)).into());
            }
            return self.with_report(&experiment.definition, experiment_to_wire(&experiment, 0, now)).await;
        }
        let entry = self.shared.catalogue.create(experiment, &actor).await?;
        self.with_report(&entry.experiment.definition, self.to_wire(&entry)).await
    }

    async fn get_experiment(&self, request: Request<v1::GetExperimentRequest>) -> RpcResult<v1::Experiment> {
        let state = self.shared.catalogue.state();
        Ok(Response::new(self.to_wire(state.get(&request.into_inner().key)?)))
    }

    async fn list_experiments(
        &self,
        request: Request<v1::ListExperimentsRequest>,
    ) -> RpcResult<v1::ListExperimentsResponse> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let state = self.shared.catalogue.state();
        let now = self.shared.clock.now();
        let list = move |_: &_| {
            let after =
                |key: &ExperimentKey| request.page_token.is_empty() || key.as_str() > request.page_token.as_str();
            let matches = |key: &ExperimentKey| key.as_str().starts_with(&request.prefix) && after(key);
            let found = state.entries.iter().filter(|(key, _)| matches(key));
            let (experiments, more) =
                take_page(found.map(|(_, entry)| experiment_to_wire(&entry.experiment, entry.version, now)), size);
            let next_page_token = experiments.last().filter(|_| more).map(|e| e.key.clone()).unwrap_or_default();
            Ok(v1::ListExperimentsResponse { experiments, next_page_token })
        };
        Ok(Response::new(self.shared.views.run(list).await?))
    }

    async fn update_experiment(&self, request: Request<v1::UpdateExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::UpdateExperimentRequest { experiment, etag, validate_only } = request.into_inner();
        let state = self.shared.catalogue.state();
        let check = move |_: &_| {
            let doc = definition_from_wire(experiment.unwrap_or_default())?;
            let kept = match state.get(&doc.key) {
                Ok(entry) => entry.experiment.with_kept_shares(doc.clone()),
                Err(_) => doc.clone(),
            };
            Ok((doc, kept.clone(), Definition::try_from(kept)?))
        };
        // Not in the turn of changes, so that no kill waits for it.
        let (doc, kept, definition) = self.shared.declarations.run(check).await?;
        let (key, lead) = (definition.key().clone(), self.shared.config.lead);
        let before = Arc::clone(&self.shared.catalogue.state().get(key.as_str())?.experiment);
        let audience_change = describe_audience_change(&self.shared, before, &definition).await?;
        let update = |e: &mut Experiment, now: Timestamp| {
            if e.with_kept_shares(doc) != kept {
                return Err(ServerError::Store(StoreError::Conflict));
            }
            Ok(e.update(definition.clone(), now, now.plus(lead))?)
        };
        if validate_only {
            let state = self.shared.catalogue.state();
            let entry = state.get(key.as_str())?;
            let now = entry.experiment.now(self.shared.clock.now());
            let mut copy = Experiment::clone(&entry.experiment);
            update(&mut copy, now)?;
            let checked = experiment_to_wire(&copy, entry.version, self.shared.clock.now());
            return self.with_report(&copy.definition, v1::Experiment { audience_change, ..checked }).await;
        }
        let updated = self.change(key.as_str(), &etag, &actor, "update", update).await?.into_inner();
        self.with_report(&definition, v1::Experiment { audience_change, ..updated }).await
    }

    async fn apply_experiments(
        &self,
        request: Request<Streaming<v1::ApplyExperimentsRequest>>,
    ) -> RpcResult<v1::ApplyExperimentsResponse> {
        let actor = actor(&request)?;
        Ok(Response::new(apply::apply(&self.shared, &actor, request.into_inner()).await?))
    }

    async fn evaluate_audience(&self, request: Request<v1::EvaluateAudienceRequest>) -> RpcResult<v1::AudienceReport> {
        let v1::EvaluateAudienceRequest { audience, unit } = request.into_inner();
        let unit = if unit.is_empty() { TARGETING_KEY.to_owned() } else { unit };
        Ok(Response::new(report_on_audience(&self.shared, audience, unit).await?))
    }

    async fn start_experiment(&self, request: Request<v1::StartExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::StartExperimentRequest { key, etag } = request.into_inner();
        let drawn_salt = draw_salt()?;
        let start = |e: &mut Experiment, now| {
            self.shared.clock.check_for(e)?;
            let salt = e.definition.salt().cloned().unwrap_or(drawn_salt);
            Ok(e.start(now, salt)?)
        };
        self.change(&key, &etag, &actor, "start", start).await
    }

    async fn pause_experiment(&self, request: Request<v1::PauseExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::PauseExperimentRequest { key, etag } = request.into_inner();
        self.change(&key, &etag, &actor, "pause", |e, _| Ok(e.pause()?)).await
    }

    async fn resume_experiment(&self, request: Request<v1::ResumeExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::ResumeExperimentRequest { key, etag } = request.into_inner();
        self.change(&key, &etag, &actor, "resume", |e, now| Ok(e.resume(now)?)).await
    }

    async fn grow_variation(&self, request: Request<v1::GrowVariationRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::GrowVariationRequest { key, variation, amount, etag } = request.into_inner();
        let lead = self.shared.config.lead;
        let grow = |e: &mut Experiment, now: Timestamp| {
            let arm = e.arm(&variation)?;
            self.shared.clock.check_for(e)?;
            let width = growth_width(e, arm, amount)?;
            // Growing to the current share changes nothing, so that a caller may repeat the request.
            if width > Width::ZERO {
                e.grow(&[(arm, width)], RevisionCause::Grown, now, now.plus(lead))?;
            }
            Ok(())
        };
        self.change(&key, &etag, &actor, "grow", grow).await
    }

    async fn kill(&self, request: Request<v1::KillRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::KillRequest { key, variation } = request.into_inner();
        let experiment = Arc::clone(&self.shared.catalogue.state().get(&key)?.experiment);
        let (target, now) = (kill_target(&experiment, &variation)?, experiment.now(self.shared.clock.now()));
        let (queue, store) = (&self.shared.kill_results, Arc::clone(&self.shared.store));
        let results = queue.results_in_time(store, experiment, target, (now, &actor)).await;
        let killed = results.kill(&self.shared.catalogue, (&key, &actor), |e| kill_target(e, &variation)).await?;
        tracing::info!(experiment = key, actor, action = "kill", version = killed.version, "changed an experiment");
        Ok(Response::new(self.to_wire(&killed)))
    }

    async fn restore(&self, request: Request<v1::RestoreRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::RestoreRequest { key, variation } = request.into_inner();
        self.change(&key, "", &actor, "restore", |e, now| Ok(e.set_killed(kill_target(e, &variation)?, false, now)?))
            .await
    }

    async fn restart_experiment(&self, request: Request<v1::RestartExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::RestartExperimentRequest { key, etag } = request.into_inner();
        let salt = draw_salt()?;
        let restart = |e: &mut Experiment, _| {
            self.shared.clock.check_for(e)?;
            // A new run does not continue the time of the one before, should that be ahead.
            Ok(e.restart(e.clock_reading(self.shared.clock.now()), salt)?)
        };
        self.change(&key, &etag, &actor, "restart", restart).await
    }

    async fn conclude_experiment(&self, request: Request<v1::ConcludeExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::ConcludeExperimentRequest { key, outcome, etag, to_everyone } = request.into_inner();
        let conclude = |e: &mut Experiment, now| {
            let arm = concluded_arm(e, outcome)?;
            let scope = if to_everyone { ShippingScope::Everyone } else { ShippingScope::Audience };
            Ok(e.conclude(arm, scope, now)?)
        };
        self.change(&key, &etag, &actor, "conclude", conclude).await
    }

    async fn archive_experiment(&self, request: Request<v1::ArchiveExperimentRequest>) -> RpcResult<v1::Experiment> {
        let actor = actor(&request)?;
        let v1::ArchiveExperimentRequest { key, etag } = request.into_inner();
        self.change(&key, &etag, &actor, "archive", |e, _| Ok(e.archive()?)).await
    }

    async fn reallocate(&self, request: Request<v1::ReallocateRequest>) -> RpcResult<v1::ReallocateResponse> {
        let actor = actor(&request)?;
        let (entry, t) = self.shared.reallocator.reallocate_now(&request.into_inner().key, &actor).await?;
        let decision = decision_to_wire(&entry.experiment, t.generation, t.revision, &t.input, &t.decision);
        Ok(Response::new(v1::ReallocateResponse { decision: Some(decision), experiment: Some(self.to_wire(&entry)) }))
    }

    async fn advance_clock(&self, request: Request<v1::AdvanceClockRequest>) -> RpcResult<v1::AdvanceClockResponse> {
        let actor = actor(&request)?;
        let v1::AdvanceClockRequest { key, to } = request.into_inner();
        let missing =
            || ServerError::Invalid { field: "to", message: "give the time to advance the clock to".to_owned() };
        let to = timestamp_from_wire(&to.ok_or_else(missing)?).map_err(ServerError::from)?;
        let (entry, outcomes) = self.shared.reallocator.advance(&key, to, &actor).await?;
        let newest_first = outcomes
            .iter()
            .rev()
            .map(|t| decision_to_wire(&entry.experiment, t.generation, t.revision, &t.input, &t.decision));
        let (mut decisions, _) = take_page(newest_first, usize::MAX);
        decisions.reverse();
        let decisions_left_out = (outcomes.len() - decisions.len()) as u64;
        let experiment = Some(self.to_wire(&entry));
        Ok(Response::new(v1::AdvanceClockResponse { decisions, experiment, decisions_left_out }))
    }

    async fn list_revisions(&self, request: Request<v1::ListRevisionsRequest>) -> RpcResult<v1::ListRevisionsResponse> {
        let request = request.into_inner();
        let (entry, number) = self.generation(&request.key, request.generation)?;
        let limit = if request.page_size == 0 { usize::MAX } else { page_size(request.page_size)? };
        let after: u32 = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| invalid_page_token())?,
        };
        let revisions = entry
            .experiment
            .generation_by_number(number)
            .into_iter()
            .flat_map(|g| g.revisions.iter().map(move |r| (g, r)));
        let later = revisions.filter(|(_, r)| r.number > after);
        let sent = later.map(|(g, r)| revision_to_wire(g, r, r.cause == RevisionCause::Policy));
        let (revisions, more) = take_page(sent, limit);
        let next_page_token = revisions.last().filter(|_| more).map(|r| r.number.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ListRevisionsResponse { revisions, next_page_token }))
    }

    async fn explain_revision(
        &self,
        request: Request<v1::ExplainRevisionRequest>,
    ) -> RpcResult<v1::ExplainRevisionResponse> {
        let request = request.into_inner();
        let (entry, number) = self.generation(&request.key, request.generation)?;
        let explain = explain_revision(Arc::clone(&self.shared), entry, number, request.revision);
        let response = self.shared.queries.run_in_parts(explain).await??;
        let advice = "the stored record of this decision is too large; list decisions to read the decision itself";
        Ok(Response::new(check_response_size(&self.shared.metrics, advice, response)?))
    }

    async fn list_decisions(&self, request: Request<v1::ListDecisionsRequest>) -> RpcResult<v1::ListDecisionsResponse> {
        let shared = Arc::clone(&self.shared);
        Ok(Response::new(self.shared.views.run_in_parts(list_decisions(shared, request.into_inner())).await??))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> RpcResult<v1::ListAuditEntriesResponse> {
        let shared = Arc::clone(&self.shared);
        Ok(Response::new(self.shared.views.run_in_parts(list_audit_entries(shared, request.into_inner())).await??))
    }
}
