//! What can go wrong, in one place. Evaluating is not in it: that never fails.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Why a call of the client did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's address cannot be read.
    #[error("{address:?} is no server address, write it as http://host:port: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be sent: it has characters that a header cannot carry.
    #[error("the token has characters that cannot be sent: use visible ASCII")]
    Token,
    /// There was no tokio runtime to run in, and none could be started.
    #[error("no background thread could be started: {0}")]
    Background(#[source] std::io::Error),
    /// The background work has ended: the client was shut down, or the runtime it was built in is gone.
    #[error("the client's background work has ended: build another client")]
    Ended,
    /// The server refused the call, and asking again would not help.
    #[error("the server refused the call ({code}): {message}")]
    Refused {
        /// The gRPC code, in words.
        code: String,
        /// What the server says.
        message: String,
    },
    /// The events were not acknowledged in time. Whether the server has them is not known: send them again with the
    /// same ids.
    #[error("not acknowledged within {within:?}, safe to send again: {last}")]
    NotAcknowledged {
        /// How long was tried.
        within: Duration,
        /// What went wrong last.
        last: String,
    },
    /// A bootstrap file is not whole, or not one at all.
    #[error("the bootstrap file {path} is not usable: {reason}")]
    Bootstrap {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A message that breaks the protocol: changes to a snapshot that this client does not have.
    #[error("the server sent changes to a snapshot of another store")]
    ForeignChanges,
}
