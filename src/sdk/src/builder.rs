//! Builds a client: collects its settings and starts its background tasks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::background::Background;
use crate::bootstrap_file::save_changes;
use crate::client::Client;
use crate::client_state::ClientState;
use crate::error::Error;
use crate::event_sender::send_events;
use crate::settings::Settings;
use crate::snapshot_stream::follow_snapshots;
use crate::transport::Transport;

/// The most events that the server accepts in one call.
const MAX_BATCH: usize = 10_000;
/// The most bytes of a client's name.
const MAX_NAME_BYTES: usize = 128;

/// Builds a [`Client`]. Every setting has a default that suits a service.
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    address: String,
    token: Option<String>,
    settings: Settings,
}

// Here and not in `client`, so that `builder` depends on `client` and not the other way round.
impl Client {
    /// A builder of a client for the server at `address`, such as `http://127.0.0.1:7070`.
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder { address: address.into(), token: None, settings: Settings::default() }
    }
}

impl ClientBuilder {
    /// The name under which the server lists this client. Cut off after 128 bytes. Default: `inroad-rust/` and the
    /// version.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        let (name, mut bytes) = (name.into(), 0);
        let fits = |c: &char| {
            bytes += c.len_utf8();
            bytes <= MAX_NAME_BYTES
        };
        self.settings.client_name = name.chars().take_while(fits).collect();
        self
    }

    /// The token for a server that requires one. Default: none.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A file for the last snapshot. The client writes it after every change, and reads it at the start if the server
    /// cannot be reached. It contains no unit keys except those in overrides. Default: none.
    pub fn bootstrap_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.bootstrap_file = Some(path.into());
        self
    }

    /// How long connecting may take, and how long the client waits for the server at the start before it reads the
    /// bootstrap file. Default: 2 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long the server may take to acknowledge a batch of events before the client sends it again. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// How long the stream of snapshots may be silent before the client opens it again. Use more than 10 s: the server
    /// sends a message at least every 10 s. Default: 40 s.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.settings.silence_timeout = timeout;
        self
    }

    /// How many events can wait for their acknowledgement. Further events are dropped and counted. Default: 10,000.
    pub fn queue_capacity(mut self, events: usize) -> Self {
        self.settings.queue_capacity = events;
        self
    }

    /// How long an event may wait for more events in its batch. Default: 1 s.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.settings.flush_interval = interval;
        self
    }

    /// The most events in a batch, from 1 to 10,000. Default: 1,000.
    pub fn batch_size(mut self, events: usize) -> Self {
        self.settings.batch_size = events.clamp(1, MAX_BATCH);
        self
    }

    /// How many recent exposures the client remembers, so that it does not send them twice; 0 for none. Default:
    /// 100,000.
    pub fn dedupe_capacity(mut self, exposures: usize) -> Self {
        self.settings.dedupe_capacity = exposures;
        self
    }

    /// Whether exposures carry up to 2 KiB of the context, so that results can be broken down by it. Default: yes.
    pub fn exposure_context(mut self, send: bool) -> Self {
        self.settings.exposure_context = send;
        self
    }

    /// The limits of the delay before a retry. Its upper bound starts at `min` and doubles up to `max`; the delay is
    /// random between 0 and that bound. Default: 0.2 s to 30 s.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.settings.backoff_min, self.settings.backoff_max) = (min, max);
        self
    }

    /// Starts the client. Returns immediately, whether or not the server can be reached.
    ///
    /// The background work runs in the current tokio runtime, or on a new thread if there is none.
    ///
    /// # Errors
    /// The address or the token is not valid, or no thread could be started.
    pub fn build(self) -> Result<Client, Error> {
        let Self { address, token, settings } = self;
        let transport = Transport::new(&address, token.as_deref(), settings.connect_timeout)?;
        let (state, events) = ClientState::new(settings, transport);
        let state = Arc::new(state);
        let tasks = {
            let state = Arc::clone(&state);
            async move {
                let follow = follow_snapshots(Arc::clone(&state));
                let save = save_changes(Arc::clone(&state));
                let send = send_events(state, events);
                // One task is enough for all three: they mostly wait for the network and compute for microseconds.
                tokio::join!(follow, save, send);
            }
        };
        let background = Background::start(tasks)?;
        Ok(Client::new(state, background))
    }
}
