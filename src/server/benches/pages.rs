//! Measures the cost of the dashboard: pages with 200 running experiments of 8 variations, and 50 pages left open.
//!
//! ```text
//! cargo bench -p inroad-server --bench pages -- [--quick] [--json]
//! ```
//!
//! Every experiment has exposures of 250 units and outcomes of every tenth unit. A page is timed from the first byte of
//! the request to the last byte of the answer, with one connection per request. Readers share the list of the overview; the
//! path with a page number asks for another number each time, so that its list is rendered each time. The baseline is a bare axum server that
//! sends the same bytes. Open pages are 50 server-sent event streams, on the overview and on experiments in turn, while
//! nothing happens; their figure is the processor time of the whole process, including the readers of the streams. A note
//! says for how long requests kept an async worker busy, by the server's metric `inroad_worker_busy_seconds`.

#![allow(clippy::print_stdout)]

mod harness;

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use harness::bench_server::{BenchServer, assign_request, connect, key};
use harness::{BenchArgs, BenchReport, BenchResult, PairedRounds, cpu_seconds, median, quantile};
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::{BatchAssignRequest, ExposureMode, GetResultsRequest, Outcome, RecordRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const VARIATIONS: usize = 8;
/// The overview's last page under any number that is too high; each number has a list of its own.
const RENDERED: &str = "/?page=1";

/// The address to request in a round.
fn address_in(round: usize, path: &str) -> String {
    if path == RENDERED { format!("{path}{round:06}") } else { path.to_owned() }
}

/// Requests a page. Returns its body and the time from the first byte sent to the last received, in milliseconds.
async fn get_page(address: &str, path: &str) -> BenchResult<(Vec<u8>, f64)> {
    let authority = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let begun = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("the answer has no head")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&answer[..head.min(200)])).into());
    }
    Ok((answer.split_off(head + 4), took))
}

/// Starts the baseline: a server that sends these pages.
async fn serve_static(pages: Vec<Vec<u8>>) -> BenchResult<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let router = pages.into_iter().enumerate().fold(Router::new(), |router, (i, page)| {
        let page = bytes::Bytes::from(page);
        router.route(&format!("/{i}"), get(move || async move { ([(header::CONTENT_TYPE, "text/html")], page) }))
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Records traffic for every experiment and waits until it is folded.
async fn record_traffic(server: &BenchServer, experiments: usize, units: usize) -> BenchResult<()> {
    let mut assign = AssignmentServiceClient::new(connect(&server.address).await?);
    let mut record = EventServiceClient::new(connect(&server.address).await?);
    for n in 0..experiments {
        let requests = (0..units).map(|unit| assign_request(n, unit, ExposureMode::Durable)).collect();
        assign.batch_assign(BatchAssignRequest { requests }).await?;
    }
    let outcome = |unit: usize| Outcome {
        units: [("targetingKey".to_owned(), format!("user-{unit:07}"))].into(),
        event: "purchase".to_owned(),
        event_id: format!("purchase-{unit}"),
        ..Outcome::default()
    };
    let outcomes = (0..units).step_by(10).map(outcome).collect();
    record.record(RecordRequest { outcomes, exposures: Vec::new() }).await?;
    let mut results = ResultServiceClient::new(connect(&server.address).await?);
    results.get_results(GetResultsRequest { key: key(0), generation: 0, wait: true }).await?;
    Ok(())
}

/// Reads the event stream of an open page, as a browser does.
async fn follow_live_events(address: String, query: &'static str) -> BenchResult<()> {
    let authority = address.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&authority).await?;
    stream.write_all(format!("GET /live?{query} HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut buffer = [0_u8; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// How often a call has kept an async worker busy for at most so many seconds: the buckets of the server's metric.
async fn busy_times(address: &str) -> BenchResult<Vec<(f64, u64)>> {
    let metrics = String::from_utf8(get_page(address, "/metrics").await?.0)?;
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix("inroad_worker_busy_seconds_bucket{le=\"")?.split_once("\"} ")?;
        // Parses +Inf as well.
        Some((bound.parse().ok()?, count.trim().parse().ok()?))
    };
    let buckets: Vec<_> = metrics.lines().filter_map(bucket).collect();
    if buckets.is_empty() { Err("the metric of busy times is missing".into()) } else { Ok(buckets) }
}

fn busy_note(before: &[(f64, u64)], after: &[(f64, u64)]) -> String {
    let added: Vec<_> = after.iter().zip(before).map(|((bound, n), (_, before))| (bound * 1e3, n - before)).collect();
    let all = added.last().map_or(0, |(_, count)| *count);
    let longest = added.iter().find(|(_, count)| *count == all).map_or(0.0, |(bound, _)| *bound);
    match all {
        0 => "Requests of pages kept no async worker busy for over 1 ms.".to_owned(),
        _ => format!(
            "Requests of pages kept an async worker busy for over 1 ms {all} times, none for over {longest} ms."
        ),
    }
}

async fn run(args: BenchArgs) -> BenchResult<()> {
    let quick = args.quick();
    let experiments = args.number("--experiments", if quick { 20 } else { 200 });
    let rounds = args.number("--rounds", if quick { 5 } else { 100 });
    let rest = Duration::from_secs(if quick { 2 } else { 20 });
    let server = BenchServer::with_variations(experiments, VARIATIONS).await?;
    record_traffic(&server, experiments, 250).await?;
    let busy_before = busy_times(&server.address).await?;
    let one = format!("/experiments/{}", key(0));
    let paths = ["/", RENDERED, one.as_str(), "/feed", "/new"];
    // The first request of a page computes what later ones find in a cache; it is reported separately.
    let (_, first) = get_page(&server.address, "/").await?;
    let (_, first_one) = get_page(&server.address, &one).await?;
    tokio::time::sleep(Duration::from_secs(if quick { 1 } else { 15 })).await;
    let mut pages = Vec::new();
    for path in paths {
        pages.push(get_page(&server.address, &address_in(0, path)).await?.0);
    }
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    let baseline = serve_static(pages).await?;
    let mut pairs = vec![PairedRounds::default(); paths.len()];
    let mut took = vec![Vec::new(); paths.len()];
    for round in 1..=rounds {
        for (i, path) in paths.into_iter().enumerate() {
            let inroad = get_page(&server.address, &address_in(round, path)).await?.1;
            pairs[i].push(inroad, get_page(&baseline, &format!("/{i}")).await?.1);
            took[i].push(inroad);
        }
    }
    let busy = busy_times(&server.address).await?;
    for i in 0..50 {
        tokio::spawn(follow_live_events(
            server.address.clone(),
            if i % 2 == 0 { "scope=overview" } else { "scope=experiment" },
        ));
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = cpu_seconds();
    tokio::time::sleep(rest).await;
    let used = 100.0 * (cpu_seconds() - before) / rest.as_secs_f64();

    let mut report = BenchReport::new("pages", &args);
    for (i, (path, pairs)) in paths.into_iter().zip(&pairs).enumerate() {
        report.add_comparison(&format!("GET {path}, {} KiB", sizes[i] / 1024), "ms", pairs, None);
    }
    report.add_note(format!(
        "{experiments} experiments of {VARIATIONS} variations. 99 of 100 answers within {}. First request: overview {first:.1} \
         ms, an experiment {first_one:.1} ms.",
        paths.iter().zip(&took).map(|(path, took)| format!("{path} {:.1} ms", quantile(took, 0.99))).collect::<Vec<_>>().join(", "),
    ));
    report.add_note(busy_note(&busy_before, &busy));
    report.add_note(format!("50 pages left open, nothing happening: {used:.2}% of a core over {} s.", rest.as_secs()));
    report.add_note(format!("Median of the overview: {:.2} ms (limit 50).", median(&took[0])));
    report.print();
    server.shutdown().await
}

fn main() -> BenchResult<()> {
    harness::runtime()?.block_on(run(BenchArgs::read()))
}
