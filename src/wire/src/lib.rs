//! The protobuf contract and its conversions to and from the domain.
