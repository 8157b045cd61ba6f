//! Worlds in virtual time, run through the real assignment and policy code.
