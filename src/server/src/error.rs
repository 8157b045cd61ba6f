//! The errors of the server, and their conversion to a gRPC status.

use std::net::SocketAddr;
use std::time::Duration;

use inroad_assignment::experiment::ChangeError;
use inroad_assignment::served::ServedError;
use inroad_assignment::{AllocationError, DefinitionError, KeyError};
use inroad_policy::PolicyError;
use inroad_store::StoreError;
use inroad_wire::WireError;
use inroad_wire::status::{invalid_definition, invalid_fields, resource_exhausted, status, unavailable};
use thiserror::Error;
use tonic::{Code, Status};

/// An error of the server. The message says what happened and what to do.
#[derive(Debug, Error)]
pub enum ServerError {
    /// No experiment has this key.
    #[error("experiment {0:?} does not exist: list experiments to see the keys, or create it")]
    UnknownExperiment(String),
    /// The experiment has no generation or revision with this number.
    #[error("experiment {experiment:?} has no {} {number}: list its revisions to see the existing numbers", if *kind == "generation" { "run (generation)" } else { kind })]
    UnknownRevision {
        /// The key of the experiment.
        experiment: String,
        /// "generation" or "revision".
        kind: &'static str,
        /// The requested number.
        number: u32,
    },
    /// A field of the request is missing or out of range.
    #[error("{field}: {message}")]
    Invalid {
        /// The name of the field.
        field: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The message is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The definition of the experiment has errors.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A key is malformed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The state of the experiment does not allow the change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backlog is at its limit, or was not folded in time.
    #[error("{backlog} events are waiting to be processed (limit {limit}): try again in {} ms", .retry_after.as_millis())]
    BacklogFull {
        /// The number of events that are not folded.
        backlog: u64,
        /// The limit.
        limit: u64,
        /// The delay after which to retry.
        retry_after: Duration,
    },
    /// Too many computations for readers wait for their turn.
    #[error("{limit} results, funnels or batches are waiting to be computed, which is the limit: try again in {} ms", .retry_after.as_millis())]
    TooManyQueries {
        /// The limit.
        limit: usize,
        /// The delay after which to retry.
        retry_after: Duration,
    },
    /// The machine's clock has jumped, and what was requested needs the right time.
    #[error(
        "the machine's clock jumped {jump}, so nothing that depends on the time is decided: try again in {} s, or accept the new time with `inroad clock accept`",
        .retry_after.as_secs()
    )]
    ClockJumped {
        /// How far and in which direction.
        jump: String,
        /// The delay after which to retry.
        retry_after: Duration,
    },
    /// The audiences and overrides of one call cost too much.
    #[error(
        "the audiences and overrides of this batch take more than {limit} steps, so nothing was assigned: send smaller batches, or simplify loops and patterns in the audiences"
    )]
    AudiencesTooExpensive {
        /// The limit in steps.
        limit: u64,
    },
    /// Nobody waits for the answer any more.
    #[error("the caller has left before the answer was computed")]
    CallerLeft,
    /// The limit on snapshot streams is reached.
    #[error("{limit} snapshot streams are open, which is the limit: try again later, or raise --max-streams")]
    TooManyStreams {
        /// The limit.
        limit: usize,
    },
    /// The limit on connections is reached.
    #[error("{limit} connections are open, which is the limit: close some, or raise the limit on open files (nofile)")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// Requests hold as many bytes as they may.
    #[error(
        "requests of {owner} that are not handled yet hold {limit} bytes, which is the limit: try again in a second, or send fewer large requests at once"
    )]
    TooManyRequestBytes {
        /// Whose requests.
        owner: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes of a request arrive too slowly.
    #[error(
        "the request arrives too slowly, too few of its bytes came within {} s: send it at once, or over a faster connection",
        .window.as_secs()
    )]
    RequestTooSlow {
        /// The time in which too few bytes came.
        window: Duration,
    },
    /// The response is larger than a message may be.
    #[error("the response has {bytes} bytes, over the limit of {limit} for one message: {advice}")]
    ResponseTooLarge {
        /// The size of the response.
        bytes: usize,
        /// The limit.
        limit: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Another call that applies many declarations is in progress.
    #[error("another call is applying declarations: try again in a second")]
    ApplyInProgress,
    /// A report came from a client that has no open stream.
    #[error("no snapshot stream is open with this client_id: open one first, and report over the same connection")]
    UnknownClient,
    /// The change would produce a snapshot that clients reject; a bug in Inroad.
    #[error("internal error, nothing was changed: {0}. Please report it")]
    InvalidSnapshot(#[from] ServedError),
    /// The policy failed; a bug in Inroad.
    #[error("internal error in the allocation policy, nothing was changed: {0}. Please report it")]
    Policy(#[from] PolicyError),
    /// A stored decision cannot be parsed; a bug in Inroad or a damaged store.
    #[error("a stored decision cannot be read ({0}): restore the store from a backup")]
    UnreadableDecision(#[from] serde_json::Error),
    /// The call took longer than the limit.
    #[error(
        "no answer within the limit of {} s: try again, request less at once, or raise --request-timeout",
        .limit.as_secs_f64()
    )]
    CallTimeout {
        /// The limit.
        limit: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down: try again, or use another server")]
    ShuttingDown,
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {detail}. If another server is running there, stop it, or choose another port with --listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        detail: String,
    },
    /// The transport failed.
    #[error("the server's transport failed: {0}")]
    Transport(String),
}

impl From<ServerError> for Status {
    fn from(error: ServerError) -> Self {
        let message = error.to_string();
        let plain = |code, reason| status(code, reason, message.clone());
        match error {
            ServerError::UnknownExperiment(_) => plain(Code::NotFound, "UNKNOWN_EXPERIMENT"),
            ServerError::UnknownRevision { .. } => plain(Code::NotFound, "UNKNOWN_REVISION"),
            ServerError::Invalid { field, message } => invalid_fields([(field.to_owned(), message)]),
            ServerError::Wire(error) => error.into(),
            ServerError::Key(_) => plain(Code::InvalidArgument, "MALFORMED"),
            ServerError::Definition(e) => invalid_definition(&e),
            ServerError::Change(e) => match e {
                ChangeError::Allocation(AllocationError::NotEnoughControl { .. }) => {
                    plain(Code::OutOfRange, "PAST_THE_FLOOR")
                }
                ChangeError::UnknownVariation(_) => plain(Code::NotFound, "UNKNOWN_VARIATION"),
                ChangeError::ControlCannotBeKilled | ChangeError::Allocation(_) => {
                    plain(Code::InvalidArgument, "NOT_POSSIBLE")
                }
                ChangeError::ClockBackwards { .. } => plain(Code::FailedPrecondition, "CLOCK_BACKWARDS"),
                ChangeError::FixedAfterStart { .. } => plain(Code::FailedPrecondition, "FIXED_AFTER_START"),
                _ => plain(Code::FailedPrecondition, "WRONG_STATE"),
            },
            ServerError::Store(e) => match e {
                StoreError::Conflict => plain(Code::Aborted, "CHANGED_MEANWHILE"),
                StoreError::ExperimentExists(_) => plain(Code::AlreadyExists, "ALREADY_EXISTS"),
                StoreError::QueueFull { retry_after } => resource_exhausted("QUEUE_FULL", message, retry_after),
                StoreError::DiskFull { .. } => resource_exhausted("DISK_FULL", message, Duration::from_secs(5)),
                StoreError::CallerLeft => plain(Code::Cancelled, "CALLER_LEFT"),
                StoreError::Closed => plain(Code::Unavailable, "SHUTTING_DOWN"),
                _ => plain(Code::Internal, "STORE_FAILED"),
            },
            ServerError::BacklogFull { retry_after, .. } => resource_exhausted("BACKLOG_FULL", message, retry_after),
            ServerError::TooManyQueries { retry_after, .. } => {
                resource_exhausted("TOO_MANY_QUERIES", message, retry_after)
            }
            ServerError::ClockJumped { retry_after, .. } => unavailable("CLOCK_JUMPED", message, retry_after),
            ServerError::AudiencesTooExpensive { .. } => plain(Code::OutOfRange, "AUDIENCES_TOO_EXPENSIVE"),
            ServerError::CallerLeft => plain(Code::Cancelled, "CALLER_LEFT"),
            ServerError::TooManyStreams { .. } => {
                resource_exhausted("TOO_MANY_STREAMS", message, Duration::from_secs(5))
            }
            ServerError::TooManyConnections { .. } => {
                resource_exhausted("TOO_MANY_CONNECTIONS", message, Duration::from_secs(5))
            }
            ServerError::TooManyRequestBytes { .. } => {
                resource_exhausted("TOO_MANY_REQUEST_BYTES", message, Duration::from_secs(1))
            }
            ServerError::RequestTooSlow { .. } => plain(Code::DeadlineExceeded, "REQUEST_TOO_SLOW"),
            ServerError::ResponseTooLarge { .. } => plain(Code::OutOfRange, "RESPONSE_TOO_LARGE"),
            ServerError::ApplyInProgress => resource_exhausted("APPLY_IN_PROGRESS", message, Duration::from_secs(1)),
            ServerError::UnknownClient => plain(Code::NotFound, "UNKNOWN_CLIENT"),
            ServerError::CallTimeout { .. } => plain(Code::DeadlineExceeded, "TOO_SLOW"),
            ServerError::ShuttingDown => plain(Code::Unavailable, "SHUTTING_DOWN"),
            ServerError::InvalidSnapshot(_) | ServerError::Policy(_) | ServerError::UnreadableDecision(_) => {
                plain(Code::Internal, "INTERNAL_FAULT")
            }
            ServerError::Listen { .. } | ServerError::Transport(_) => plain(Code::Internal, "TRANSPORT"),
        }
    }
}
