//! The five gRPC services, one file each. They parse a request, call the rest of the server and convert the answer;
//! they decide nothing themselves.

mod apply;
pub mod assignment;
mod audit_entry;
mod clients;
pub mod event;
pub mod experiment;
mod explained_revision;
mod history;
pub mod result;
pub mod server;
pub(crate) mod snapshot_route;
mod snapshot_stream;
mod targets;

use inroad_assignment::Salt;
use prost::Message;
use rand::distr::{Alphanumeric, SampleString};
use tonic::{Request, Status};

use crate::catalogue::CLOCK_ACTOR;
use crate::config::{MAX_PAGE, MAX_PART_BYTES, MAX_RESPONSE_BYTES};
use crate::error::ServerError;
use crate::kill_results::RESULTS_ACTOR;
use crate::metrics::Metrics;
use crate::reallocator::{GUARDRAIL_ACTOR, POLICY_ACTOR};

/// Refuses a response that is larger than a client accepts by default. The client would otherwise get an error from its
/// own library that does not say what to do.
fn check_response_size<T: Message>(metrics: &Metrics, advice: &'static str, response: T) -> Result<T, ServerError> {
    let bytes = response.encoded_len();
    if bytes <= MAX_RESPONSE_BYTES {
        return Ok(response);
    }
    metrics.oversized_responses.inc();
    Err(ServerError::ResponseTooLarge { bytes, limit: MAX_RESPONSE_BYTES, advice })
}

/// A page of a list that ends when it has its number of entries or when a message is full. It has at least one entry, if
/// there is one.
struct PageBuilder<T> {
    entries: Vec<T>,
    limit: usize,
    bytes: usize,
    /// Whether an entry did not fit.
    is_full: bool,
}

impl<T: Message> PageBuilder<T> {
    fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), limit, bytes: 0, is_full: false }
    }

    /// Adds an entry and returns true, or returns false if the page is full.
    fn push(&mut self, entry: T) -> bool {
        self.bytes += entry.encoded_len();
        self.is_full = self.entries.len() >= self.limit || (!self.entries.is_empty() && self.bytes > MAX_PART_BYTES);
        if !self.is_full {
            self.entries.push(entry);
        }
        !self.is_full
    }
}

/// The entries of one page, and whether entries are left.
fn take_page<T: Message>(mut entries: impl Iterator<Item = T>, limit: usize) -> (Vec<T>, bool) {
    let mut page = PageBuilder::new(limit);
    let _ = entries.all(|entry| page.push(entry));
    (page.entries, page.is_full)
}

/// The actors of the server itself in the audit log. No caller can use their names: an entry must not look as if the policy
/// or a guardrail had made a change that somebody requested.
const RESERVED_ACTORS: [&str; 4] = [POLICY_ACTOR, GUARDRAIL_ACTOR, CLOCK_ACTOR, RESULTS_ACTOR];

/// The caller's name for the audit log: metadata `inroad-actor`, at most 128 bytes, not one of the server's own.
fn actor<T>(request: &Request<T>) -> Result<String, Status> {
    let Some(value) = request.metadata().get("inroad-actor") else { return Ok("anonymous".to_owned()) };
    let text = value.to_str().unwrap_or_default();
    let message = if text.is_empty() || text.len() > 128 {
        "give 1 to 128 printable ASCII characters".to_owned()
    } else if is_reserved_actor(text) {
        format!("{text:?} is a name of the server itself: give your own name")
    } else {
        return Ok(text.to_owned());
    };
    Err(inroad_wire::status::invalid_fields([("metadata inroad-actor".to_owned(), message)]))
}

/// Whether a name in the audit log is one of the server's own.
pub(crate) fn is_reserved_actor(name: &str) -> bool {
    RESERVED_ACTORS.iter().any(|reserved| name.trim().eq_ignore_ascii_case(reserved))
}

/// The version that an etag contains; none if the caller gave no etag.
fn version(etag: &str) -> Result<Option<u64>, ServerError> {
    if etag.is_empty() {
        return Ok(None);
    }
    let message = || "this is not an etag: use the one returned with the experiment, or leave it out".to_owned();
    etag.parse().map(Some).map_err(|_| ServerError::Invalid { field: "etag", message: message() })
}

fn draw_salt() -> Result<Salt, ServerError> {
    Ok(Salt::parse(&Alphanumeric.sample_string(&mut rand::rng(), 12))?)
}

/// The number of entries on a page; 0 requests the default.
fn page_size(requested: u32) -> Result<usize, ServerError> {
    match requested {
        0 => Ok(100),
        size if size <= MAX_PAGE => Ok(size as usize),
        size => {
            let message = format!("{size} is over the limit of {MAX_PAGE}: request smaller pages");
            Err(ServerError::Invalid { field: "page_size", message })
        }
    }
}

/// The id that a page token refers to; entries with smaller ids follow. The first page has no token.
fn page_before(token: &str) -> Result<u64, ServerError> {
    if token.is_empty() { Ok(u64::MAX) } else { token.parse().map_err(|_| invalid_page_token()) }
}

fn invalid_page_token() -> ServerError {
    let message = "this is not a page token: use the one that the previous page returned".to_owned();
    ServerError::Invalid { field: "page_token", message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    #[test]
    fn page_ends_at_its_count_or_when_a_message_is_full() {
        let entries = |sizes: &'static [usize]| sizes.iter().map(|size| "x".repeat(*size));
        let lengths = |(page, more): (Vec<String>, bool)| (page.len(), more);
        assert_eq!(lengths(take_page(entries(&[1, 1, 1]), 2)), (2, true));
        assert_eq!(lengths(take_page(entries(&[1, 1]), 2)), (2, false));
        assert_eq!(lengths(take_page(entries(&[10, 600_000, 600_000]), 9)), (2, true));
        assert_eq!(lengths(take_page(entries(&[2 * MAX_PART_BYTES, 1]), 9)), (1, true));
        assert_eq!(lengths(take_page(entries(&[]), 9)), (0, false));
    }

    #[test]
    fn oversized_response_is_refused_and_counted() {
        let metrics = Metrics::new();
        assert!(check_response_size(&metrics, "", "x".repeat(MAX_RESPONSE_BYTES - 16)).is_ok());
        let error = check_response_size(&metrics, "request less", "x".repeat(MAX_RESPONSE_BYTES)).unwrap_err();
        assert_eq!((Status::from(error).code(), metrics.oversized_responses.get()), (tonic::Code::OutOfRange, 1));
    }
}
