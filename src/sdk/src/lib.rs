//! The Inroad client for Rust. It keeps the boundaries of every experiment in process and answers from them: a lookup,
//! a hash and a search, with no network, no lock and no allocation. Who sees what is reported in the background.
//!
//! # Quick start
//!
//! ```
//! use std::time::Duration;
//! use inroad_sdk::{Client, Context, Outcome, Reason};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), inroad_sdk::Error> {
//! let client = Client::builder("http://127.0.0.1:7070").client_name("shop").build()?;
//! // Optional: without it, the first answers may be your defaults.
//! client.ready(Duration::from_millis(200)).await;
//!
//! let context = Context::new("user-123").with("country", "fr");
//! let decision = client.assign("checkout-button", &context);
//! let colour = decision.string("blue");
//! # // Nothing listens there when this runs as a test.
//! # if !client.status().connected {
//! assert_eq!(colour, "blue", "no snapshot yet: your default stands");
//! assert_eq!(decision.reason(), Reason::NotReady);
//! # }
//!
//! client.track(Outcome::new("purchase").by("user-123").value(12.5));
//! let flushed = client.shutdown(Duration::from_millis(200)).await;
//! println!("{} events were not acknowledged", flushed.left);
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! - [`Client::evaluate`] and [`Client::assign`] never wait, never fail and never panic. Before the first snapshot, and
//!   for an experiment that does not exist, the answer is the default that the caller gives.
//! - A unit that has seen a variation keeps it: a snapshot that would take it away within a generation is refused, the
//!   old one stays, and [`Client::status`] says so.
//! - Clients flip together to a new revision at the instant it names, by the server's clock, also where this machine's
//!   own clock is off. A kill works as soon as it arrives.
//! - Exposures are sent once each, as far as memory reaches, and again until they are acknowledged. The queue is
//!   bounded; what finds no room is dropped, counted and logged, and the caller never waits.
//! - The server is told which version is in use since when, and what was dropped: a moment after each change and every
//!   10 s, over the stream's own connection. Nothing waits for that, and a server that does not know of it is fine.
//! - [`Client::flush`] and [`Client::shutdown`] end within the time given and report what is left.

mod background;
mod backoff;
mod bootstrap;
mod builder;
mod client;
mod clock;
mod decision;
mod dedupe;
mod deliver;
mod error;
mod held;
mod outcome;
mod presence;
mod queue;
mod report;
mod shared;
mod state;
mod transport;
mod watch;

pub use builder::ClientBuilder;
pub use client::{Client, Flushed, Receipt, Rejection};
pub use decision::{Decision, Pinned};
pub use error::Error;
pub use outcome::Outcome;
pub use report::{Refusal, Source, Status};

pub use inroad_assignment::{
    Arm, Assignment, Context, Digest, Payload, Point, Reason, ServedExperiment, TARGETING_KEY, Timestamp, Value,
};
