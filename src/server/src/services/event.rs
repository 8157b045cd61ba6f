//! `EventService`: checks a batch of events, writes the accepted ones to disk in one group and reports the refused
//! ones; and forgets a unit.

use std::sync::Arc;
use std::time::Instant;

use inroad_assignment::UnitKey;
use inroad_store::{Event, ForgetRequest};
use inroad_wire::v1::event_service_server::EventService;
use inroad_wire::v1::{ForgetUnitRequest, ForgetUnitResponse, RecordRequest, RecordResponse, Rejection};
use tonic::{Request, Response, Status};

use super::actor;
use crate::config::{MAX_BATCH_EVENTS, MAX_NAME_BYTES};
use crate::error::ServerError;
use crate::event_uses::OutcomeWarnings;
use crate::ingest::{IN_THE_FUTURE, Refusal, check_exposure, check_outcome};
use crate::shared::{MAX_FOLD_WAIT, SharedState};

/// The implementation of `EventService`.
pub struct EventHandler {
    shared: Arc<SharedState>,
}

impl EventHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { shared }
    }
}

/// Checks the fields of a request to forget a unit.
fn check_forget(request: &ForgetUnitRequest) -> Result<(), ServerError> {
    let invalid = |field, message| Err(ServerError::Invalid { field, message });
    if !(1..=MAX_NAME_BYTES).contains(&request.unit_type.len()) {
        return invalid(
            "unit_type",
            format!("use a unit type of 1 to {MAX_NAME_BYTES} bytes, such as targetingKey or user"),
        );
    }
    UnitKey::parse(&request.unit).map(drop).or_else(|error| invalid("unit", error.to_string()))
}

#[tonic::async_trait]
impl EventService for EventHandler {
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let shared = &self.shared;
        let request = request.into_inner();
        let count = request.exposures.len() + request.outcomes.len();
        if count > MAX_BATCH_EVENTS {
            let message = format!("{count} events are over the limit of {MAX_BATCH_EVENTS}: split the batch");
            return Err(ServerError::Invalid { field: "exposures and outcomes", message }.into());
        }
        shared.check_backlog()?;
        let now = shared.clock.now();
        let mut events = Vec::with_capacity(count);
        let mut response = RecordResponse::default();
        let (mut exposures, mut outcomes, mut uncounted) = (0, 0, 0);
        let mut warnings = OutcomeWarnings::default();
        let uses = match request.outcomes.is_empty() {
            true => Arc::default(),
            false => shared.event_uses.of(shared.catalogue.state()).await,
        };
        {
            let state = shared.catalogue.peek();
            let mut reject = |index: usize, outcome: bool, refusal: Refusal| {
                shared.metrics.count_refusal(refusal.reason);
                let (reason, message) = (refusal.reason.to_owned(), refusal.message);
                response.rejections.push(Rejection { index: index as u32, outcome, reason, message });
            };
            for (i, exposure) in request.exposures.into_iter().enumerate() {
                match check_exposure(&state, exposure, now) {
                    Ok(accepted) => {
                        response.contexts_trimmed += u32::from(accepted.trimmed);
                        events.push(Event::Exposure(accepted.event));
                        exposures += 1;
                    }
                    Err(refusal) => reject(i, false, refusal),
                }
            }
            for (i, outcome) in request.outcomes.into_iter().enumerate() {
                match check_outcome(&state, outcome, now) {
                    Ok(outcome) => {
                        uncounted += u64::from(warnings.check(&uses, &outcome, now));
                        events.push(Event::Outcome(outcome));
                        outcomes += 1;
                    }
                    Err(refusal) => reject(i, true, refusal),
                }
            }
        }
        if response.rejections.iter().any(|rejection| rejection.reason == IN_THE_FUTURE) {
            // If the machine's clock has just jumped, these events may be right: nothing is accepted, so that the sender
            // tries again.
            shared.clock.check()?;
        }
        response.accepted = events.len() as u32;
        response.warnings = warnings.into_wire(uses, now).await;
        if !events.is_empty() {
            let begun = Instant::now();
            shared.store.append(now, events).await.map_err(|error| {
                shared.metrics.overloads.inc();
                ServerError::from(error)
            })?;
            shared.metrics.append_seconds.observe(begun.elapsed().as_secs_f64());
            shared.fold.wake();
        }
        shared.metrics.accepted_exposures.inc_by(exposures);
        shared.metrics.accepted_outcomes.inc_by(outcomes);
        shared.metrics.uncounted_outcomes.inc_by(uncounted);
        Ok(Response::new(response))
    }

    async fn forget_unit(&self, request: Request<ForgetUnitRequest>) -> Result<Response<ForgetUnitResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        check_forget(&request)?;
        let shared = &self.shared;
        let version = shared.catalogue.peek().version;
        shared.wait_until_folded(version, MAX_FOLD_WAIT).await?;
        let ForgetUnitRequest { unit_type, unit } = request;
        let (forgotten_type, key) = (unit_type.clone(), unit.clone());
        let forget = ForgetRequest { unit_type, unit, actor, at: shared.clock.now() };
        let forgotten = shared.store.forget_unit(forget).await.map_err(ServerError::from)?;
        shared.recent_contexts.forget(&forgotten_type, &key);
        shared.recent_events.clear().await;
        let (digest, events, waiting) = (forgotten.digest, forgotten.events, forgotten.waiting);
        tracing::info!(%digest, events, waiting, "forgot a unit");
        Ok(Response::new(ForgetUnitResponse { digest, events, waiting }))
    }
}
