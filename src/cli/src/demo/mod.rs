//! `inroad demo`: a server of its own, four weeks of visitors in seconds, and a line a day that shows the boundaries
//! move. Everything goes through real calls to a real server; only time is virtual.

mod run;
mod strip;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use inroad_server::{Server, ServerConfig};

use crate::connect::{Connection, ServerArgs};
use crate::output::Output;
use crate::serve::{LogFormat, Stop, log, until_stopped};

/// The experiment's key.
const KEY: &str = "email-campaign";

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the demo's server listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// How many days go by
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Stay up afterwards, to try things (the default)
    #[arg(long, overrides_with = "no_keep")]
    keep: bool,
    /// End when the days are over
    #[arg(long)]
    no_keep: bool,
    /// Another seed, another four weeks
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Keep the data here [default: a folder that goes when the demo ends]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Shows it.
pub(crate) async fn run(args: DemoArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    log(LogFormat::Text, "warn")?;
    let mut stop = Stop::listen()?;
    let temporary =
        tempfile::Builder::new().prefix("inroad-demo-").tempdir().context("cannot make a folder for the demo")?;
    let folder = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    let config = ServerConfig { listen: args.listen, folder, ..ServerConfig::default() };
    let running = Server::start(config).await?;
    let address = running.local_addr();
    let url = format!("http://{address}");
    let connection = Connection::open(&ServerArgs { server: url.clone(), ..server.clone() }).await?;
    let demo = run::Demo { connection: &connection, days: args.days, seed: args.seed, url: &url, out };
    let shown = tokio::select! {
        shown = demo.run() => shown,
        signal = stop.asked() => Err(anyhow::anyhow!("stopped by {signal}")),
    };
    if args.no_keep || shown.is_err() {
        drop(connection);
        let ended = running.shutdown().await;
        shown?;
        return Ok(ended?);
    }
    out.line(invitation(&url))?;
    // The demo's own connection would hold the server's shutdown up.
    drop(connection);
    until_stopped(running, &mut stop).await?;
    drop(temporary);
    Ok(())
}

/// What to try next.
fn invitation(url: &str) -> String {
    let usual = "http://127.0.0.1:7070";
    let server = if url == usual { String::new() } else { format!(" --server {url}") };
    let unit = "visitor-000042";
    format!(
        "\nThe server stays up: look at it in a browser at {url}, or try, in another shell:\n\n  \
         inroad assign {KEY} {unit}{server}\n  \
         inroad record outcome --unit {unit} --event visit --clock {KEY}{server}\n  \
         inroad experiment kill {KEY} mens-email{server}\n\n\
         Ctrl-C ends it."
    )
}
