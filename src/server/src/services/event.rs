//! `EventService`: checks a batch, puts what is good on disk in one group, and says what was not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use inroad_store::Event;
use inroad_wire::v1::event_service_server::EventService;
use inroad_wire::v1::{RecordRequest, RecordResponse, Rejection};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::config::MAX_BATCH_EVENTS;
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

    fn check_room(&self) -> Result<(), ServerError> {
        let (backlog, limit) = (self.shared.fold.backlog(), self.shared.config.max_backlog);
        if backlog < limit {
            return Ok(());
        }
        // About the time in which the fold takes in a tenth of what waits, at its slowest.
        let retry_after = Duration::from_millis((limit / 10 / 25).clamp(100, 10_000));
        Err(ServerError::Backlog { backlog, limit, retry_after })
    }
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
        if let Err(error) = self.check_room() {
            shared.metrics.overloads.inc();
            return Err(error.into());
        }
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
}
