//! `inroad serve`: runs the server in the foreground until a signal stops it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use inroad_server::{HostName, Server, ServerConfig, TraceExport};
use serde_json::json;

use crate::failure::usage_error;
use crate::output::Output;
use crate::parse;
use crate::server_process::{LogFormat, StopSignals, init_logging, run_until_signal};
use crate::store_args::StoreArgs;

/// The server's settings.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free port
    #[arg(long, env = "INROAD_LISTEN", default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Host name under which browsers may open the pages, besides IP addresses and localhost; repeat it for more names
    #[arg(long = "host", env = "INROAD_HOST", value_delimiter = ',', value_parser = HostName::parse, value_name = "NAME")]
    hosts: Vec<HostName>,
    #[command(flatten)]
    store: StoreArgs,
    /// Lead time: from the publication of a revision until it takes effect, so that all clients switch together
    #[arg(long, default_value = "2s", value_parser = parse::duration, value_name = "DURATION")]
    lead: Duration,
    /// Most snapshot streams that may be open together [default: 10000]
    #[arg(long, value_name = "N", value_parser = parse::positive_count)]
    max_streams: Option<usize>,
    /// Most acknowledged events that may wait to be counted before new events are refused; 0 refuses all [default: 5000000]
    #[arg(long, value_name = "N")]
    max_backlog: Option<u64>,
    /// How long to keep raw events after they are counted, such as 30d; counts are kept [default: for ever]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    retain_events: Option<Duration>,
    /// Longest time that a call may take [default: 60s]
    #[arg(long, value_parser = parse::positive_duration, value_name = "DURATION")]
    request_timeout: Option<Duration>,
    /// The longest that a shutdown takes: calls in progress may finish until 3 s before its end [default: 10s]
    #[arg(long, value_parser = parse::duration, value_name = "DURATION")]
    drain_timeout: Option<Duration>,
    /// Address of an OpenTelemetry collector (OTLP over gRPC), such as http://127.0.0.1:4317, to send traces to
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    traces: Option<String>,
    /// Format of the logs on standard error; RUST_LOG sets the level
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// Serves until SIGINT or SIGTERM, then finishes the calls in progress.
pub(crate) async fn run(args: ServeArgs, out: Output) -> anyhow::Result<()> {
    let traces = args.traces.as_deref().filter(|url| !url.is_empty()).map(start_traces).transpose()?;
    init_logging(args.log_format, "info", traces.as_ref())?;
    let defaults = ServerConfig::default();
    let config = ServerConfig {
        listen: args.listen,
        hosts: args.hosts,
        folder: args.store.folder(),
        lead: args.lead,
        max_streams: args.max_streams.unwrap_or(defaults.max_streams),
        max_backlog: args.max_backlog.unwrap_or(defaults.max_backlog),
        retain_events: args.retain_events,
        request_timeout: args.request_timeout.unwrap_or(defaults.request_timeout),
        drain_timeout: args.drain_timeout.unwrap_or(defaults.drain_timeout),
        traces,
        ..defaults
    };
    let mut signals = StopSignals::listen()?;
    let server = Server::start(config).await?;
    let address = server.local_addr();
    out.print_text(format!("inroad serves at http://{address}"))?;
    out.print_json_line(&json!({"serving": format!("http://{address}")}))?;
    run_until_signal(server, &mut signals).await
}

/// Starts to send traces.
fn start_traces(url: &str) -> anyhow::Result<TraceExport> {
    TraceExport::start(url).map_err(|error| {
        usage_error(format!(
            "traces cannot be sent to {url:?} ({error}). Give --traces, or OTEL_EXPORTER_OTLP_ENDPOINT, the address of a \
             collector for OTLP over gRPC, such as http://127.0.0.1:4317"
        ))
    })
}
