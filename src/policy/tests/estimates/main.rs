//! Compares every estimate with values computed by other methods (`oracle/generate.py`) and with closed forms.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod closed_forms;
mod data_checks;
mod intervals;
mod normal;
mod oracle;
mod pooled_beta;
mod posterior;
mod probability_best;
