//! `inroad demo`: starts a server, simulates four weeks of visitors in seconds, and prints one line per day that shows how
//! the shares change. All calls are real; only time is simulated.

mod allocation_bar;
mod run;
mod visitors;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use inroad_server::{Server, ServerConfig};

use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::output::Output;
use crate::server_process::{LogFormat, StopSignals, init_logging, run_until_signal};

/// The experiment's key.
const KEY: &str = "email-campaign";

/// The demo's settings.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Address to listen on; port 0 takes a free port
    #[arg(long, env = "INROAD_LISTEN", default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Days to simulate
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Keep the server running afterwards (the default)
    #[arg(long, overrides_with = "no_keep")]
    keep: bool,
    /// Stop after the last day
    #[arg(long)]
    no_keep: bool,
    /// Seed of the simulated visitors
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Folder for the data [default: a temporary folder, deleted when the demo ends]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    actor: ActorArgs,
}

/// Runs the demo.
pub(crate) async fn run(args: DemoArgs, out: Output) -> anyhow::Result<()> {
    init_logging(LogFormat::Text, "warn", None)?;
    let mut signals = StopSignals::listen()?;
    let temporary =
        tempfile::Builder::new().prefix("inroad-demo-").tempdir().context("cannot create a folder for the demo")?;
    let folder = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    let config = ServerConfig { listen: args.listen, folder, ..ServerConfig::default() };
    let running = Server::start(config).await?;
    let address = running.local_addr();
    let url = format!("http://{address}");
    let connection = Connection::open_as(&ServerArgs { server: url.clone() }, &args.actor).await?;
    let demo = run::Demo { connection: &connection, days: args.days, seed: args.seed, url: &url, out };
    let shown = tokio::select! {
        shown = demo.run() => shown,
        signal = signals.next() => Err(anyhow::anyhow!("stopped by {signal}")),
    };
    if args.no_keep || shown.is_err() {
        drop(connection);
        let ended = running.shutdown().await;
        shown?;
        return Ok(ended?);
    }
    out.print_text(next_steps(&url))?;
    // An open connection would delay the server's shutdown.
    drop(connection);
    run_until_signal(running, &mut signals).await?;
    drop(temporary);
    Ok(())
}

/// Commands to try next.
fn next_steps(url: &str) -> String {
    let default_url = "http://127.0.0.1:7070";
    let server = if url == default_url { String::new() } else { format!(" --server {url}") };
    let unit = "visitor-000042";
    format!(
        "\nThe server keeps running. Open {url} in a browser, or try in another shell:\n\n  \
         inroad assign {KEY} {unit}{server}\n  \
         inroad record outcome --unit {unit} --event visit --clock {KEY}{server}\n  \
         inroad experiment kill {KEY} mens-email{server}\n\n\
         Ctrl-C stops the server."
    )
}
