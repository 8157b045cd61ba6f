//! The protobuf contract and its conversions to and from the domain.

/// The contract as generated: messages, clients and servers.
#[allow(clippy::all, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("inroad.v1");
}

/// The contract described by itself, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("inroad");
