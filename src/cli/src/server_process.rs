//! A server in the foreground of this process: its logs, and its shutdown on a signal.

use std::time::Duration;

use clap::ValueEnum;
use inroad_server::{RunningServer, TRACE_TARGET, TraceExport};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::usage_error;
use crate::suggestions::most_similar;

/// The levels of logs.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How long after the drain timeout the process is ended without an orderly shutdown.
const GRACE: Duration = Duration::from_millis(500);

/// The format of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends logs to standard error, so that standard output contains only the command's output. `RUST_LOG` sets other
/// levels than `level`: one for all targets, or `target=level` pairs. Spans go to `traces` only.
pub(crate) fn init_logging(format: LogFormat, level: &str, traces: Option<&TraceExport>) -> anyhow::Result<()> {
    let from_environment = std::env::var_os("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
    let from_environment = from_environment.filter(|text| !text.is_empty());
    let targets = parse_targets(from_environment.as_deref().unwrap_or(level))?;
    let targets = targets.with_target(TRACE_TARGET, LevelFilter::OFF);
    let registry = tracing_subscriber::registry().with(traces.map(TraceExport::layer));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(ansi).with_filter(targets)).try_init()
        }
        LogFormat::Json => registry.with(layer.json().with_filter(targets)).try_init(),
    };
    set.map_err(|e| usage_error(format!("cannot set up logs: {e}")))
}

fn parse_targets(text: &str) -> anyhow::Result<Targets> {
    let invalid = |why: &str| {
        usage_error(format!(
            "RUST_LOG is {text:?}, which is not valid ({why}). Use a level such as info, or pairs such as inroad_server=debug, \
             separated by commas."
        ))
    };
    // Without this, an empty word would set the level error for all targets.
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    // A word that is no level names a target, and turns off the logs of all others. A misspelt level must not do that.
    let is_level = |word: &str| LEVELS.contains(&word.to_lowercase().as_str());
    for word in words.iter().filter(|word| !word.contains('=') && !is_level(word) && !word.starts_with("inroad")) {
        if let Some(level) = most_similar(word, LEVELS) {
            return Err(invalid(&format!("did you mean {level}?")));
        }
        if !word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
            return Err(invalid(&format!("{word:?} is neither a level nor a target")));
        }
    }
    words.join(",").parse().map_err(|e: tracing_subscriber::filter::ParseError| invalid(&e.to_string()))
}

/// Waits for a signal, then shuts the server down after the calls in progress.
pub(crate) async fn run_until_signal(mut server: RunningServer, signals: &mut StopSignals) -> anyhow::Result<()> {
    tokio::select! {
        ended = server.wait() => ended?,
        signal = signals.next() => {
            tracing::info!(signal, "shutting down: new calls are refused, calls in progress finish");
        }
    }
    let _deadline = end_process_after(server.drain_timeout() + GRACE);
    tokio::select! {
        drained = server.shutdown() => Ok(drained?),
        signal = signals.next() => anyhow::bail!("stopped by a second {signal} before all calls finished. No acknowledged event is lost."),
    }
}

/// Ends the process after `limit`, unless the returned value is dropped before. The runtime's timers cannot do this: they
/// need a thread of the runtime, and all of them may be busy.
fn end_process_after(limit: Duration) -> std::sync::mpsc::Sender<()> {
    let (cancel, cancelled) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::Builder::new().name("shutdown-deadline".to_owned());
    let spawned = watchdog.spawn(move || {
        if cancelled.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the shutdown did not end in time, and is abandoned. No acknowledged event is lost");
            std::process::exit(0);
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "the shutdown has no deadline");
    }
    cancel
}

/// The signals that stop a server.
pub(crate) struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Listens from now on.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
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
    fn log_levels_are_set_for_all_or_single_targets() {
        for valid in ["info", "INFO", "warn,inroad_server=debug", "off", "inroad_server", "inroad", "0"] {
            assert!(parse_targets(valid).is_ok(), "{valid}");
        }
        let with_empty_words = parse_targets("info, ,").expect("valid");
        assert_eq!(with_empty_words, parse_targets("info").expect("valid"));
        let error = parse_targets("inroad_server=loud").expect_err("no such level").to_string();
        assert!(error.contains("RUST_LOG") && error.contains("inroad_server=debug"), "{error}");
        for (text, expected) in
            [("inof", "did you mean info?"), ("warn,debg", "did you mean debug?"), ("x y", "\"x y\" is neither")]
        {
            let error = parse_targets(text).expect_err("no such level").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
