//! The errors of the client. Evaluation has none: it never fails.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a call of the client failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's address is not valid.
    #[error("{address:?} is not a server address. Write it as http://host:port: {reason}")]
    Address {
        /// The address that was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token contains characters that a header cannot carry.
    #[error("the token contains characters that cannot be sent. Use visible ASCII characters only")]
    Token,
    /// There is no tokio runtime, and no thread for one could be started.
    #[error(
        "cannot start a background thread: {0}. Raise the limit of threads, or build the client in a tokio runtime"
    )]
    Background(#[source] std::io::Error),
    /// The background work has ended: the client was shut down, or the runtime that it was built in is gone.
    #[error("the client's background work has ended. Build another client")]
    Ended,
    /// The server refused the call, and a retry would not help.
    #[error("the server refused the call ({code}): {message}")]
    Refused {
        /// The name of the gRPC status code, such as `InvalidArgument`.
        code: String,
        /// The server's message.
        message: String,
    },
    /// The events were not acknowledged in time. The server may have them or not: send them again with the same event
    /// ids, and they are counted once.
    #[error("not acknowledged within {within:?}. It is safe to send the events again. Last error: {last}")]
    NotAcknowledged {
        /// How long the client tried.
        within: Duration,
        /// The last error.
        last: String,
    },
    /// The bootstrap file cannot be read or written, is incomplete, or is another kind of file.
    #[error("cannot use the bootstrap file {path}: {reason}")]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The server broke the protocol: it sent changes to a snapshot that this client does not have.
    #[error("the server sent changes to a snapshot of another store")]
    ForeignChanges,
}
