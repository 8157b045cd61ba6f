//! The four gRPC services, one file for each. They parse, ask the rest of the server, and phrase the answer; they
//! decide nothing.

pub mod assignment;
pub mod event;
pub mod experiment;
pub mod result;

use std::sync::Arc;

use inroad_store::Store;
use tonic::{Request, Status};

use crate::catalogue::Catalogue;
use crate::clock::WallClock;
use crate::config::ServerConfig;
use crate::exposures::Exposures;
use crate::fold::Fold;
use crate::metrics::Metrics;
use crate::reallocator::Reallocator;
use crate::recent::Recent;

/// What the services share.
pub struct Shared {
    /// How the server is set up.
    pub config: ServerConfig,
    /// The wall's clock.
    pub clock: Arc<WallClock>,
    /// All experiments.
    pub catalogue: Arc<Catalogue>,
    /// What is kept.
    pub store: Arc<dyn Store>,
    /// How far the counts are.
    pub fold: Fold,
    /// What operators watch.
    pub metrics: Arc<Metrics>,
    /// Who ticks.
    pub reallocator: Arc<Reallocator>,
    /// Exposures that nobody waits for.
    pub exposures: Exposures,
    /// The newest events, for people to see.
    pub recent: Recent,
    /// Turns true when the server goes away.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

/// Who asks, for the audit log: metadata `inroad-actor`, at most 128 bytes.
fn actor<T>(request: &Request<T>) -> Result<String, Status> {
    let Some(value) = request.metadata().get("inroad-actor") else { return Ok("anonymous".to_owned()) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 128 {
        let fault = ("metadata inroad-actor".to_owned(), "give 1 to 128 printable ASCII characters".to_owned());
        return Err(inroad_wire::status::invalid_fields([fault]));
    }
    Ok(text.to_owned())
}
