//! Compares every estimate with values computed by other methods (`oracle/generate.py`) and with closed forms.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod best;
mod beta;
mod closed;
mod doubts;
mod intervals;
mod oracle;
mod posterior;
mod special;
