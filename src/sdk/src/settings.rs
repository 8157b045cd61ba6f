//! The settings of a client, as plain data that every other module can read.

use std::path::PathBuf;
use std::time::Duration;

/// Everything that [`ClientBuilder`](crate::ClientBuilder) can set, except the address and the token.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) client_name: String,
    pub(crate) bootstrap_file: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) queue_capacity: usize,
    pub(crate) flush_interval: Duration,
    pub(crate) batch_size: usize,
    pub(crate) dedupe_capacity: usize,
    pub(crate) exposure_context: bool,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            client_name: concat!("inroad-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            bootstrap_file: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(40),
            queue_capacity: 10_000,
            flush_interval: Duration::from_secs(1),
            batch_size: 1_000,
            dedupe_capacity: 100_000,
            exposure_context: true,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
        }
    }
}
