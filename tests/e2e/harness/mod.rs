//! The test harness: the real binary, servers and other processes, calls to a server, a connection that can be broken,
//! and test data.

mod api;
pub(crate) mod binary;
mod experiments;
mod http;
mod process;
mod proxy;
mod raw_call;
mod server;
mod set_clock;
mod time;
mod trial_log;
mod wait;

pub(crate) use api::{Api, Refusal, context, exposure_of, metric, outcome};
pub(crate) use binary::inroad_binary;
pub(crate) use experiments::{flag, with_conversion_metrics, with_manual_clock, with_thompson_policy};
pub(crate) use http::{http_get, metric_value};
pub(crate) use process::{FinishedProcess, Process};
pub(crate) use proxy::Proxy;
pub(crate) use raw_call::{RawCalls, message_prefix};
pub(crate) use server::{Server, Setup};
pub(crate) use set_clock::SetClock;
pub(crate) use time::{at_second, micros, now_micros, wait_until, wait_until_client_time};
pub(crate) use trial_log::write_trial;
pub(crate) use wait::{eventually, eventually_within};
