//! The `inroad` command: runs the server and everything that people do with one. `main` parses the command line, runs the
//! command and reports the result. Each command has its own module; [`connect`] alone opens connections to a server.

mod apply;
mod args;
mod assign;
mod audience;
mod audience_report;
mod audit;
mod backup;
mod bandit;
mod clients;
mod clock;
mod confirm;
mod connect;
mod counterfactual;
mod demo;
mod diff;
mod experiment;
mod experiment_file;
mod failure;
mod forget;
mod funnel;
mod local_assignment;
mod lookup;
mod output;
mod parse;
mod plan;
mod progress;
mod reach;
mod record;
mod replay;
mod response_json;
mod results;
mod send_events;
mod serve;
mod server_process;
mod simulate;
mod store_args;
mod suggestions;
#[cfg(test)]
mod test_server;
mod trial;
mod watch;
mod wire_text;

use std::process::ExitCode;

/// The allocator of glibc keeps most of what many threads free, a little more each minute. This one returns it.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match args::Cli::parse_from_env() {
        Ok(cli) => cli,
        Err(error) => return failure::report_usage_error(&error, std::env::args_os().any(|arg| arg == "--json")),
    };
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error), None, json),
    };
    let typed_keys = cli.typed_keys();
    let code = match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let suggestion = typed_keys.and_then(|typed| runtime.block_on(suggestions::similar_key(&error, &typed)));
            failure::report(&error, suggestion.as_deref(), json)
        }
    };
    // A server has waited for its work already. Dropping the runtime would wait for abandoned work as well.
    runtime.shutdown_background();
    code
}
