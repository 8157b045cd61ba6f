//! How a client is set up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::background::Background;
use crate::client::Client;
use crate::clock::Clock;
use crate::dedupe::Dedupe;
use crate::error::Error;
use crate::presence::Presence;
use crate::queue::Queue;
use crate::report::{Report, Source};
use crate::shared::Shared;
use crate::state::State;
use crate::transport::Transport;
use crate::{bootstrap, deliver, watch as snapshots};

/// The most events that the server takes at once.
const MAX_BATCH: usize = 10_000;
/// The most bytes of a client's name.
const MAX_NAME: usize = 128;

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) client_name: String,
    pub(crate) bootstrap_file: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) silence: Duration,
    pub(crate) queue_capacity: usize,
    pub(crate) flush_interval: Duration,
    pub(crate) batch_size: usize,
    pub(crate) dedupe_capacity: usize,
    pub(crate) exposure_context: bool,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
}

/// Sets up a [`Client`]; every option has a default that suits a service.
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    address: String,
    token: Option<String>,
    options: Options,
}

impl ClientBuilder {
    pub(crate) fn new(address: String) -> Self {
        let options = Options {
            client_name: concat!("inroad-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            bootstrap_file: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(40),
            queue_capacity: 10_000,
            flush_interval: Duration::from_secs(1),
            batch_size: 1_000,
            dedupe_capacity: 100_000,
            exposure_context: true,
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
        };
        Self { address, token: None, options }
    }

    /// Who this is, for people who look at what is connected; the first 128 bytes count.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        let (name, mut bytes) = (name.into(), 0);
        let fits = |c: &char| {
            bytes += c.len_utf8();
            bytes <= MAX_NAME
        };
        self.options.client_name = name.chars().take_while(fits).collect();
        self
    }

    /// The token to show to a server that asks for one.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Where to keep the last snapshot: written whenever it changes, read at a start when the server cannot be reached.
    /// The file holds no unit keys but those that overrides pin. Default: none.
    pub fn bootstrap_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.bootstrap_file = Some(path.into());
        self
    }

    /// How long connecting may take, and for how long a start waits for the server before the bootstrap file stands
    /// in. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long the server may take to acknowledge a batch of events before it is sent again. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// After how long a silence the stream of snapshots counts as dead and is opened again. The server speaks at least
    /// every 10 s: with less than that the stream is opened again and again. Default: 40 s.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.options.silence = timeout;
        self
    }

    /// How many events are held until they are acknowledged; what is over is dropped and counted. Default: 10,000.
    pub fn queue_capacity(mut self, events: usize) -> Self {
        self.options.queue_capacity = events;
        self
    }

    /// How long an event waits for others to be sent with. Default: 1 s.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.options.flush_interval = interval;
        self
    }

    /// How many events are sent at once, at most 10,000. Default: 1,000.
    pub fn batch_size(mut self, events: usize) -> Self {
        self.options.batch_size = events.clamp(1, MAX_BATCH);
        self
    }

    /// How many exposures are remembered, so as not to send them twice; 0 for none. Default: 100,000.
    pub fn dedupe_capacity(mut self, exposures: usize) -> Self {
        self.options.dedupe_capacity = exposures;
        self
    }

    /// Whether exposures carry a part of the context, up to 2 KiB, for slicing results later. Default: yes.
    pub fn exposure_context(mut self, send: bool) -> Self {
        self.options.exposure_context = send;
        self
    }

    /// Between what the ceiling of the wait before another try goes, doubling each time; the wait is drawn from 0 to
    /// it. Default: 0.2 s to 30 s.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.options.backoff_min, self.options.backoff_max) = (min, max);
        self
    }

    /// Starts the client. Returns at once, whether the server can be reached or not.
    ///
    /// Background work runs in the tokio runtime that this is called in, or on a thread of its own where there is none.
    ///
    /// # Errors
    /// The address or the token cannot be read, or no thread could be started.
    pub fn build(self) -> Result<Client, Error> {
        let Self { address, token, options } = self;
        let transport = Transport::new(&address, token.as_deref(), options.connect_timeout)?;
        let (queue, events) = Queue::new(options.queue_capacity);
        let shared = Arc::new(Shared {
            state: ArcSwap::from_pointee(State::default()),
            clock: Clock::new(),
            changes: watch::Sender::new(0),
            source: watch::Sender::new(Source::None),
            queue,
            dedupe: Dedupe::new(options.dedupe_capacity),
            report: Report::default(),
            presence: Presence::new(),
            transport,
            end: watch::Sender::new(None),
            options,
        });
        let tasks = {
            let shared = Arc::clone(&shared);
            async move {
                let watching = snapshots::watch(Arc::clone(&shared));
                let keeping = bootstrap::keep(Arc::clone(&shared));
                let delivering = deliver::deliver(shared, events);
                // Three tasks in one: they wait for the network, and what they compute takes microseconds.
                tokio::join!(watching, keeping, delivering);
            }
        };
        let background = Background::start(tasks)?;
        Ok(Client::new(shared, background))
    }
}
