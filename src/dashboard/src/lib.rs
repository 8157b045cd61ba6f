//! The pages that people run experiments with: view structs in, HTML and SVG out. Nothing here knows the store, a clock
//! or a socket; `inroad serve` fills the views and sends what comes out.
//!
//! All text goes through `maud`, which escapes whatever it is given: a name can be no markup. Pages work without a
//! script; with it they follow what happens, and show numbers and times as the reader's own language has them.

pub mod action;
pub mod asset;
pub mod chart;
pub mod clients;
pub mod edit;
pub mod experiment;
pub mod feed;
pub mod form;
pub mod funnel;
pub mod overview;
pub mod playground;
pub mod problem;
pub mod shell;
