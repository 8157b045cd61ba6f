//! `ServerService`: the state of this server, for its operators.

use std::sync::Arc;
use std::time::Duration;

use inroad_wire::v1::server_service_server::ServerService;
use inroad_wire::v1::{AcceptClockRequest, ClockJump, GetClockRequest, ServerClock};
use inroad_wire::{duration_to_wire, timestamp_to_wire};
use tonic::{Request, Response, Status};

use super::actor;
use crate::clock::ClockStatus;
use crate::shared::SharedState;

/// The implementation of `ServerService`.
pub struct ServerHandler {
    shared: Arc<SharedState>,
}

impl ServerHandler {
    /// The service over the shared state.
    pub fn new(shared: Arc<SharedState>) -> Self {
        Self { shared }
    }
}

fn clock_to_wire(status: &ClockStatus) -> ServerClock {
    let jump = status.jump.map(|jump| {
        let mut ahead = duration_to_wire(Duration::from_micros(jump.ahead_micros.unsigned_abs()));
        if jump.ahead_micros < 0 {
            (ahead.seconds, ahead.nanos) = (-ahead.seconds, -ahead.nanos);
        }
        ClockJump { ahead: Some(ahead), resumes_in: Some(duration_to_wire(jump.resumes_in())) }
    });
    ServerClock { now: Some(timestamp_to_wire(status.now)), machine: Some(timestamp_to_wire(status.machine)), jump }
}

#[tonic::async_trait]
impl ServerService for ServerHandler {
    async fn get_clock(&self, _: Request<GetClockRequest>) -> Result<Response<ServerClock>, Status> {
        Ok(Response::new(clock_to_wire(&self.shared.clock.status())))
    }

    async fn accept_clock(&self, request: Request<AcceptClockRequest>) -> Result<Response<ServerClock>, Status> {
        let actor = actor(&request)?;
        let clock = &self.shared.clock;
        if let Some(jump) = clock.status().jump {
            tracing::warn!(actor, jump = jump.describe(), "a person accepts the machine's clock");
            self.shared.clock_guard.accept().await?;
        }
        Ok(Response::new(clock_to_wire(&clock.status())))
    }
}
