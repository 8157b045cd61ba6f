//! The protobuf API and the conversions between its messages and the domain types.
//!
//! The messages, clients and servers in [`v1`] are generated from `proto/inroad/v1`. Every other module converts one
//! group of types:
//!
//! | module | between |
//! |---|---|
//! | [`definition`] | declared experiments and [`v1::Experiment`] |
//! | [`snapshot`] | served experiments and [`v1::ExperimentSnapshot`] |
//! | [`revision`] | allocations and revisions, and their buckets |
//! | [`assignment`], [`reason`] | assignments, reasons and states |
//! | [`context`], [`exposure_context`] | evaluation contexts, and the part of one that is sent with an exposure |
//! | [`audience_report`] | [`v1::AudienceReport`] and text for people |
//! | [`payload`], [`time`] | payloads, JSON, times and durations |
//! | [`status`] | errors and gRPC statuses with details |
//!
//! Functions named `…_to_wire` convert a domain value and cannot fail. Functions named `…_from_wire` check a message
//! completely before they return a domain value; no message can make them panic, and a [`WireError`] names the field
//! and says what to do.

pub mod assignment;
pub mod audience_report;
pub mod context;
pub mod definition;
mod error;
pub mod exposure_context;
pub mod payload;
pub mod reason;
pub mod revision;
pub mod snapshot;
pub mod status;
pub mod time;

pub use assignment::assignment_to_wire;
pub use context::{context_from_json, context_from_struct, context_to_struct, struct_to_json};
pub use definition::{definition_from_wire, definition_to_wire, experiment_to_wire};
pub use error::WireError;
pub use payload::{json_from_struct, json_to_struct, payload_from_wire, payload_to_wire};
pub use reason::{reason_from_wire, reason_to_wire, status_from_wire, status_to_wire};
pub use revision::{allocation_from_wire, allocation_to_wire, revision_to_wire};
pub use snapshot::{snapshot_from_wire, snapshot_to_wire};
pub use status::{describe_status, retry_delay};
pub use time::{duration_from_wire, duration_to_wire, timestamp_from_wire, timestamp_to_wire};

/// The generated messages, clients and servers.
#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]
pub mod v1 {
    include!("generated/inroad.v1.rs");
}

/// The descriptors of the API, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/inroad.v1.bin");
