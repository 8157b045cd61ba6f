//! The `inroad` command: a server to run, and everything a person does with one. `main` parses, runs and reports; each
//! command has a module of its own, and all of them speak to a server through [`connect`] alone.

mod apply;
mod args;
mod assign;
mod backup;
mod bandit;
mod clients;
mod confirm;
mod connect;
mod counterfactual;
mod demo;
mod diff;
mod document;
mod experiment;
mod failure;
#[cfg(test)]
mod fake;
mod forget;
mod funnel;
mod local;
mod output;
mod parse;
mod plan;
mod progress;
mod record;
mod replay;
mod results;
mod serve;
mod simulate;
mod trial;
mod views;
mod watch;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::report_usage(&error, std::env::args_os().any(|arg| arg == "--json")),
    };
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error), json),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, json),
    }
}
