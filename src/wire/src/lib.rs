//! The protobuf contract and its conversions to and from the domain.
//!
//! Whatever comes in is checked whole before it becomes a domain type, and nothing that comes in can make a conversion
//! panic: a [`WireError`] names the field and says what to do. Whatever goes out is a plain function of a domain value.

pub mod assignment;
pub mod context;
pub mod definition;
mod error;
pub mod kept;
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
pub use snapshot::{served_from_wire, served_to_wire};
pub use status::{describe, retry_delay};
pub use time::{duration_from_wire, duration_to_wire, timestamp_from_wire, timestamp_to_wire};

/// The contract as generated: messages, clients and servers.
#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]
pub mod v1 {
    include!("generated/inroad.v1.rs");
}

/// The contract described by itself, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/inroad.v1.bin");
