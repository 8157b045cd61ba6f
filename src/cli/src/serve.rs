//! `inroad serve`: the server in the foreground, with structured logs, until it is asked to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use inroad_server::{RunningServer, Server, ServerConfig};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::failure::usage;
use crate::output::Output;
use crate::parse;

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    place: Place,
    /// How long before it takes effect a revision is published, so that all clients flip together
    #[arg(long, default_value = "2s", value_parser = parse::duration, value_name = "DURATION")]
    lead: Duration,
    /// How many snapshot streams may be open at once
    #[arg(long, value_name = "N")]
    max_streams: Option<usize>,
    /// How many events may be acknowledged and not yet counted before new ones are refused
    #[arg(long, value_name = "N")]
    max_backlog: Option<u64>,
    /// How long raw events are kept once they are counted, such as 30d; what was counted stays [default: for ever]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    retain_events: Option<Duration>,
    /// The longest that a call may take
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    request_timeout: Option<Duration>,
    /// How long a shutdown waits for calls under way
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    drain_timeout: Option<Duration>,
    /// How logs are written, on standard error; RUST_LOG chooses which
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// Where a server keeps its things.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The data directory
    #[arg(long, env = "INROAD_DATA", default_value = "inroad-data", value_name = "DIR")]
    data: PathBuf,
    /// The store, as sqlite:DIR [default: sqlite in the data directory]
    #[arg(long, env = "INROAD_STORE", value_parser = store, value_name = "STORE")]
    store: Option<PathBuf>,
}

impl Place {
    /// The folder of the embedded store.
    pub(crate) fn folder(self) -> PathBuf {
        self.store.unwrap_or(self.data)
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// `sqlite:DIR`, the only store there is so far.
fn store(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("sqlite", folder)) if !folder.is_empty() => Ok(PathBuf::from(folder)),
        Some(("postgres" | "postgresql", _)) => Err("PostgreSQL is not supported yet: use sqlite:DIR".to_owned()),
        _ => Err(format!("{text:?} is not a store: write it like sqlite:/var/lib/inroad")),
    }
}

/// Serves until SIGINT or SIGTERM, then drains.
pub(crate) async fn run(args: ServeArgs, out: Output) -> anyhow::Result<()> {
    log(args.log_format, "info")?;
    let defaults = ServerConfig::default();
    let config = ServerConfig {
        listen: args.listen,
        folder: args.place.folder(),
        lead: args.lead,
        max_streams: args.max_streams.unwrap_or(defaults.max_streams),
        max_backlog: args.max_backlog.unwrap_or(defaults.max_backlog),
        retain_events: args.retain_events,
        request_timeout: args.request_timeout.unwrap_or(defaults.request_timeout),
        drain_timeout: args.drain_timeout.unwrap_or(defaults.drain_timeout),
        ..defaults
    };
    let mut stop = Stop::listen()?;
    let server = Server::start(config).await?;
    let address = server.local_addr();
    out.line(format!("inroad serves at http://{address}"))?;
    out.item(&json!({"serving": format!("http://{address}")}))?;
    until_stopped(server, &mut stop).await
}

/// Where logs go: standard error, so that standard output stays what the command says.
pub(crate) fn log(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(ansi).try_init()
        }
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|e| usage(format!("cannot set up logs: {e}")))
}

/// Waits for a signal, then lets the server finish what it is doing.
pub(crate) async fn until_stopped(mut server: RunningServer, stop: &mut Stop) -> anyhow::Result<()> {
    tokio::select! {
        ended = server.wait() => ended?,
        signal = stop.asked() => {
            tracing::info!(signal, "stopping: no new calls, those under way finish");
        }
    }
    tokio::select! {
        drained = server.shutdown() => Ok(drained?),
        signal = stop.asked() => anyhow::bail!("stopped by a second {signal} before everything was drained; nothing acknowledged is lost"),
    }
}

/// The signals by which a server is asked to stop.
pub(crate) struct Stop {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens from now on.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    /// Waits to be asked; says by what.
    pub(crate) async fn asked(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
            "Ctrl-C"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_says_what_it_is() {
        assert_eq!(store("sqlite:/var/lib/inroad"), Ok(PathBuf::from("/var/lib/inroad")));
        assert!(store("postgres://db").is_err_and(|e| e.contains("not supported yet")));
        for wrong in ["", "sqlite", "sqlite:", "mysql:x"] {
            assert!(store(wrong).is_err(), "{wrong}");
        }
    }
}
