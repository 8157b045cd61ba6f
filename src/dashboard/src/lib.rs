//! The pages that people run experiments with: view structs in, HTML and SVG out. Nothing here knows the store, a clock
//! or a socket; `inroad serve` fills the views and sends what comes out.
//!
//! All text goes through `maud`, which escapes whatever it is given: a name can be no markup.

pub mod chart;
