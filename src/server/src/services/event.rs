//! `EventService`: checks a batch, puts what is good on disk in one group, and says what was not; and forgets a unit.

use std::sync::Arc;
use std::time::Instant;

use inroad_assignment::UnitKey;
use inroad_store::{Event, Forget};
use inroad_wire::v1::event_service_server::EventService;
use inroad_wire::v1::{ForgetUnitRequest, ForgetUnitResponse, RecordRequest, RecordResponse, Rejection};
use tonic::{Request, Response, Status};

use super::{LONGEST_WAIT, Shared, actor};
use crate::config::{MAX_BATCH_EVENTS, MAX_NAME_BYTES};
use crate::error::ServerError;
use crate::ingest::{Refusal, check_exposure, check_outcome};

/// See the module.
pub struct Events {
    shared: Arc<Shared>,
}

impl Events {
    /// The service.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// A request to forget that can be meant.
fn check_forget(request: &ForgetUnitRequest) -> Result<(), ServerError> {
    let invalid = |field, message| Err(ServerError::Invalid { field, message });
    if !(1..=MAX_NAME_BYTES).contains(&request.unit_type.len()) {
        return invalid(
            "unit_type",
            format!("a unit type has 1 to {MAX_NAME_BYTES} bytes, such as targetingKey or user"),
        );
    }
    UnitKey::parse(&request.unit).map(drop).or_else(|error| invalid("unit", error.to_string()))
}

#[tonic::async_trait]
impl EventService for Events {
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let shared = &self.shared;
        let request = request.into_inner();
        let count = request.exposures.len() + request.outcomes.len();
        if count > MAX_BATCH_EVENTS {
            let message = format!("{count} events are over the limit of {MAX_BATCH_EVENTS}: split the batch");
            return Err(ServerError::Invalid { field: "exposures and outcomes", message }.into());
        }
        shared.check_room()?;
        let now = shared.clock.now();
        let mut events = Vec::with_capacity(count);
        let mut response = RecordResponse::default();
        let (mut exposures, mut outcomes) = (0, 0);
        {
            let state = shared.catalogue.peek();
            let mut reject = |index: usize, outcome: bool, refusal: Refusal| {
                shared.metrics.refuse(refusal.reason);
                let (reason, message) = (refusal.reason.to_owned(), refusal.message);
                response.rejections.push(Rejection { index: index as u32, outcome, reason, message });
            };
            for (i, exposure) in request.exposures.into_iter().enumerate() {
                match check_exposure(&state, exposure, now) {
                    Ok(taken) => {
                        response.contexts_trimmed += u32::from(taken.trimmed);
                        events.push(Event::Exposure(taken.event));
                        exposures += 1;
                    }
                    Err(refusal) => reject(i, false, refusal),
                }
            }
            for (i, outcome) in request.outcomes.into_iter().enumerate() {
                match check_outcome(&state, outcome, now) {
                    Ok(event) => {
                        events.push(event);
                        outcomes += 1;
                    }
                    Err(refusal) => reject(i, true, refusal),
                }
            }
        }
        response.accepted = events.len() as u32;
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
        Ok(Response::new(response))
    }

    async fn forget_unit(&self, request: Request<ForgetUnitRequest>) -> Result<Response<ForgetUnitResponse>, Status> {
        let actor = actor(&request)?;
        let request = request.into_inner();
        check_forget(&request)?;
        let shared = &self.shared;
        let version = shared.catalogue.peek().version;
        shared.counted(version, LONGEST_WAIT).await?;
        let ForgetUnitRequest { unit_type, unit } = request;
        let forget = Forget { unit_type, unit, actor, at: shared.clock.now() };
        let forgotten = shared.store.forget_unit(forget).await.map_err(ServerError::from)?;
        shared.recent.forget().await;
        let (digest, events, waiting) = (forgotten.digest, forgotten.events, forgotten.waiting);
        tracing::info!(%digest, events, waiting, "a unit was forgotten");
        Ok(Response::new(ForgetUnitResponse { digest, events, waiting }))
    }
}
