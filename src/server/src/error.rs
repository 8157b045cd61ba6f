//! What can go wrong in the server, and the one place where it becomes a gRPC status.

use std::net::SocketAddr;
use std::time::Duration;

use inroad_assignment::experiment::ChangeError;
use inroad_assignment::served::ServedError;
use inroad_assignment::{AllocationError, DefinitionError, KeyError};
use inroad_policy::PolicyError;
use inroad_store::StoreError;
use inroad_wire::WireError;
use inroad_wire::status::{busy, invalid_definition, invalid_fields, status};
use thiserror::Error;
use tonic::{Code, Status};

/// Why the server could not do what it was asked.
#[derive(Debug, Error)]
pub enum ServerError {
    /// No experiment has this key.
    #[error("there is no experiment {0:?}: list them with ListExperiments, or create it")]
    NotFound(String),
    /// The experiment has no such generation or revision.
    #[error("experiment {experiment:?} has no {what} {number}: list revisions to see those there are")]
    NoSuchNumber {
        /// Which experiment.
        experiment: String,
        /// "generation" or "revision".
        what: &'static str,
        /// The number asked for.
        number: u32,
    },
    /// A field of the request is missing or out of its range.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The message does not parse.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The experiment as declared has faults.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A key is malformed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The experiment's state does not allow the change.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More than the server will queue.
    #[error("{backlog} events wait to be counted, the limit is {limit}: try again in {} ms", .retry_after.as_millis())]
    Backlog {
        /// How many wait.
        backlog: u64,
        /// How many may.
        limit: u64,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// Too many snapshot streams.
    #[error("{limit} snapshot streams are open, which is the limit: try again later, or raise --max-streams")]
    TooManyStreams {
        /// How many may be open.
        limit: usize,
    },
    /// A report of a client that does not watch here.
    #[error("no stream of snapshots is open under this client_id: open one first, and report over its connection")]
    NoSuchClient,
    /// What is served would break a rule of the house; a fault of ours.
    #[error("internal fault, nothing was changed: {0}")]
    Served(#[from] ServedError),
    /// The policy could not compute; a fault of ours.
    #[error("internal fault in the policy, nothing was changed: {0}")]
    Policy(#[from] PolicyError),
    /// A stored record does not read; a fault of ours or a damaged store.
    #[error("a stored decision does not read ({0}): restore the store from a backup")]
    Record(#[from] serde_json::Error),
    /// The call took longer than any may.
    #[error(
        "no answer within {} s, the most that a call may take: try again, ask for less at once, or raise --request-timeout",
        .limit.as_secs_f64()
    )]
    Overdue {
        /// How long a call may take.
        limit: Duration,
    },
    /// The server is going away.
    #[error("the server is shutting down: try another, or try again")]
    ShuttingDown,
    /// The port is taken.
    #[error(
        "cannot listen on {address}: {detail}. If another server runs there, stop it, or choose another port with --listen"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
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
            ServerError::NotFound(_) => plain(Code::NotFound, "UNKNOWN_EXPERIMENT"),
            ServerError::NoSuchNumber { .. } => plain(Code::NotFound, "UNKNOWN_REVISION"),
            ServerError::Invalid { field, message } => invalid_fields([(field.to_owned(), message)]),
            ServerError::Wire(error) => error.into(),
            ServerError::Key(_) => plain(Code::InvalidArgument, "MALFORMED"),
            ServerError::Definition(e) => invalid_definition(&e),
            ServerError::Change(e) => match e {
                ChangeError::Allocation(AllocationError::PastTheFloor { .. }) => {
                    plain(Code::OutOfRange, "PAST_THE_FLOOR")
                }
                ChangeError::UnknownVariation(_) => plain(Code::NotFound, "UNKNOWN_VARIATION"),
                ChangeError::ControlCannotBeKilled | ChangeError::Allocation(_) => {
                    plain(Code::InvalidArgument, "NOT_POSSIBLE")
                }
                ChangeError::ClockBackwards { .. } => plain(Code::FailedPrecondition, "CLOCK_BACKWARDS"),
                ChangeError::Fixed { .. } => plain(Code::FailedPrecondition, "FIXED_AFTER_START"),
                _ => plain(Code::FailedPrecondition, "WRONG_STATE"),
            },
            ServerError::Store(e) => match e {
                StoreError::Conflict => plain(Code::Aborted, "CHANGED_MEANWHILE"),
                StoreError::Exists(_) => plain(Code::AlreadyExists, "ALREADY_EXISTS"),
                StoreError::Busy { retry_after } => busy("QUEUE_FULL", message, retry_after),
                StoreError::DiskFull { .. } => busy("DISK_FULL", message, Duration::from_secs(5)),
                StoreError::Closed => plain(Code::Unavailable, "SHUTTING_DOWN"),
                _ => plain(Code::Internal, "STORE_FAILED"),
            },
            ServerError::Backlog { retry_after, .. } => busy("BACKLOG_FULL", message, retry_after),
            ServerError::TooManyStreams { .. } => busy("TOO_MANY_STREAMS", message, Duration::from_secs(5)),
            ServerError::NoSuchClient => plain(Code::NotFound, "UNKNOWN_CLIENT"),
            ServerError::Overdue { .. } => plain(Code::DeadlineExceeded, "TOO_SLOW"),
            ServerError::ShuttingDown => plain(Code::Unavailable, "SHUTTING_DOWN"),
            ServerError::Served(_) | ServerError::Policy(_) | ServerError::Record(_) => {
                plain(Code::Internal, "INTERNAL_FAULT")
            }
            ServerError::Listen { .. } | ServerError::Transport(_) => plain(Code::Internal, "TRANSPORT"),
        }
    }
}
