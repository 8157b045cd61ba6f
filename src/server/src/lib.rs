//! The Inroad server: gRPC services, ingest, the fold and the reallocator.
