//! What every test stands on: the binary, a server as a process, calls to it, a line that can be cut, and data.

mod api;
pub(crate) mod binary;
mod declare;
mod http;
mod proxy;
mod run;
mod server;
mod time;
mod trial;
mod wait;

pub(crate) use api::{Api, Refused, context, exposure_of, metric, outcome};
pub(crate) use binary::inroad;
pub(crate) use declare::{conversions, flag, manual_clock, thompson};
pub(crate) use http::{gauge, get};
pub(crate) use proxy::Proxy;
pub(crate) use run::{Ended, Process};
pub(crate) use server::{Server, Setup};
pub(crate) use time::{at_second, micros, now_micros, wait_until, wait_until_by};
pub(crate) use trial::write_trial;
pub(crate) use wait::{eventually, eventually_within};
