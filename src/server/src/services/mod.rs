//! The four gRPC services, one file for each. They parse, ask the rest of the server, and phrase the answer; they
//! decide nothing.

pub mod assignment;
mod clients;
pub mod event;
pub mod experiment;
pub mod result;

use std::sync::Arc;
use std::time::Duration;

use inroad_store::Store;
use tonic::{Request, Status};

use crate::catalogue::Catalogue;
use crate::clients::Clients;
use crate::clock::WallClock;
use crate::config::{MAX_PAGE, ServerConfig};
use crate::error::ServerError;
use crate::exposures::Exposures;
use crate::fold::Fold;
use crate::metrics::Metrics;
use crate::reallocator::Reallocator;
use crate::recent::Recent;

/// The longest that a caller waits for the counts to be complete: less than a call may take, so that it is told why.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30);

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
    /// Who watches.
    pub clients: Arc<Clients>,
    /// Turns true when the server goes away.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

impl Shared {
    /// Refuses more events while too many are yet to be counted.
    pub(crate) fn check_room(&self) -> Result<(), ServerError> {
        let (backlog, limit) = (self.fold.backlog(), self.config.max_backlog);
        if backlog < limit {
            return Ok(());
        }
        self.metrics.overloads.inc();
        // It counts whatever there is, but somebody has to say so: refused events do not.
        self.fold.wake();
        // About the time in which the fold takes in a tenth of what waits, at its slowest.
        let retry_after = Duration::from_millis((limit / 10 / 25).clamp(100, 10_000));
        Err(ServerError::Backlog { backlog, limit, retry_after })
    }

    /// Waits until every event acknowledged before the call is counted, by the catalogue at `version` or later.
    pub(crate) async fn counted(&self, version: u64, patience: Duration) -> Result<(), ServerError> {
        if self.fold.caught_up(version, patience).await {
            return Ok(());
        }
        let (backlog, limit) = (self.fold.backlog(), self.config.max_backlog);
        Err(ServerError::Backlog { backlog, limit, retry_after: Duration::from_secs(5) })
    }
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

/// How many entries of a page are asked for; 0 leaves it to us.
fn page_size(asked: u32) -> Result<usize, ServerError> {
    match asked {
        0 => Ok(100),
        size if size <= MAX_PAGE => Ok(size as usize),
        size => {
            let message = format!("{size} is over the limit of {MAX_PAGE}: ask for smaller pages");
            Err(ServerError::Invalid { field: "page_size", message })
        }
    }
}

/// What a page's token says that the next begins before; everything, without one.
fn page_before(token: &str) -> Result<u64, ServerError> {
    if token.is_empty() { Ok(u64::MAX) } else { token.parse().map_err(|_| bad_token()) }
}

fn bad_token() -> ServerError {
    ServerError::Invalid { field: "page_token", message: "give the token that a page returned".to_owned() }
}
