//! Every number against values that another method computed (`oracle/generate.py`), and against closed forms.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod best;
mod beta;
mod closed;
mod doubts;
mod intervals;
mod oracle;
mod posterior;
mod special;
