//! The Inroad client for Rust: local evaluation, background exposures.
