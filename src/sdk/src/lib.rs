//! The Inroad client for Rust: it answers "which variation does this unit get?" in process.
//!
//! The client keeps the allocations of all experiments in memory and receives changes over a stream. An evaluation is a
//! lookup, a hash and a binary search: no network, no lock, no memory allocation. Exposures and outcomes are sent in
//! the background.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use inroad_sdk::{Client, Context, Outcome, Reason};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), inroad_sdk::Error> {
//! let client = Client::builder("http://127.0.0.1:7070").client_name("shop").build()?;
//! // Optional. Before the first snapshot arrives, every answer is the caller's default.
//! client.ready(Duration::from_millis(200)).await;
//!
//! // Which variation does this user get? `assign` also records the exposure.
//! let context = Context::new("user-123").with("country", "fr");
//! let decision = client.assign("checkout-button", &context);
//! let colour = decision.string("blue");
//! # // No server is running when this example is a test.
//! # if !client.status().connected {
//! assert_eq!(colour, "blue", "no snapshot yet, so the default is used");
//! assert_eq!(decision.reason(), Reason::NotReady);
//! # }
//!
//! // The user buys something.
//! client.track(Outcome::new("purchase").targeting_key("user-123").value(12.5));
//!
//! // Before the process ends: send what is queued.
//! let result = client.shutdown(Duration::from_millis(200)).await;
//! println!("{} events were not acknowledged", result.unacknowledged);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//! - [`Client`]: evaluate, assign, record outcomes, flush, shut down. [`ClientBuilder`] has its settings.
//! - [`Decision`]: the variation of one unit, its typed payload and the reason. [`PinnedSnapshot`] is for many
//!   evaluations of the same state.
//! - [`Outcome`]: an event that a unit produced.
//! - [`Status`]: counters and errors, for monitoring.
//!
//! # Guarantees
//! - [`Client::evaluate`] and [`Client::assign`] never wait, never fail and never panic. Before the first snapshot, and
//!   for an unknown experiment, the answer is the caller's default.
//! - A unit that has seen a variation keeps it. If a snapshot would take points from a variation within a generation,
//!   the client refuses it for that experiment, goes on with the previous state and lists it in [`Client::status`].
//! - All clients switch to a new revision at the instant that the revision names, by the server's clock, even if this
//!   machine's clock is wrong. A kill takes effect as soon as it arrives.
//! - Exposures are sent once each, as far as the memory for recent exposures reaches, and are retried until they are
//!   acknowledged. The queue is bounded. Events for which it has no room are dropped, counted and logged; the caller
//!   never waits.
//! - The client reports to the server which version it uses, since when, and how many events it dropped: shortly after
//!   each change and about every 10 s, over the connection of the stream. Nothing waits for these reports, and a server
//!   that does not support them works as well.
//! - [`Client::flush`] and [`Client::shutdown`] end within the given time and return how many events are
//!   unacknowledged.
//!
//! # Inside
//! Modules form layers without cycles. A module imports only modules of lower layers, or modules that its layer lists
//! after it:
//!
//! 1. `builder` starts the background tasks and creates the client; `client` is the API.
//! 2. Background tasks: `snapshot_stream` receives changes, `client_reports` reports applied versions, `bootstrap_file`
//!    saves the snapshot, `event_sender` sends events.
//! 3. `client_state` is what the client and the tasks share. It consists of `settings`, `snapshot`, `server_clock`,
//!    `queue`, `dedupe`, `applied_versions`, `status` and `transport`.

mod applied_versions;
mod background;
mod backoff;
mod bootstrap_file;
mod builder;
mod client;
mod client_reports;
mod client_state;
mod deadline;
mod decision;
mod dedupe;
mod error;
mod event_sender;
mod experiment_list;
mod lock;
mod outcome;
mod queue;
mod server_clock;
mod settings;
mod snapshot;
mod snapshot_parts;
mod snapshot_stream;
mod status;
mod transport;

pub use builder::ClientBuilder;
pub use client::{Client, FlushResult, Receipt, Rejection};
pub use decision::{Decision, PinnedSnapshot};
pub use error::Error;
pub use outcome::Outcome;
pub use status::{Refusal, Source, Status};

pub use inroad_assignment::{
    Arm, Assignment, Context, Digest, Payload, Point, Reason, ServedExperiment, TARGETING_KEY, Timestamp, Value,
};
