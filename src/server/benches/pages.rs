//! What the dashboard costs: pages with 200 running experiments of 8 variations, and 50 pages that are left open.
//!
//! ```text
//! cargo bench -p inroad-server --bench pages -- [--quick] [--json]
//! ```
//!
//! Every experiment has exposures of 250 units and outcomes of every tenth. A page is timed from the request's first byte to
//! the answer's last, over one connection a request; the floor is a bare axum server that sends the very same bytes. Open
//! pages are 50 server-sent streams, on the overview and on experiments in turn, while nothing happens: what is
//! told is the processor time of the whole process, streams' other ends included.

#![allow(clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use common::world::{World, connect, key, question};
use common::{Fallible, Flags, Pairs, Report, cpu_seconds, median, quantile};
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::{BatchAssignRequest, ExposureMode, GetResultsRequest, Outcome, RecordRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const VARIATIONS: usize = 8;

/// Asks for a page; its body, and the time from the first byte sent to the last received, in milliseconds.
async fn ask(address: &str, path: &str) -> Fallible<(Vec<u8>, f64)> {
    let authority = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let begun = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no head came")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err(format!("{path}: {}", String::from_utf8_lossy(&answer[..head.min(200)])).into());
    }
    Ok((answer.split_off(head + 4), took))
}

/// A server that sends what it is given, and nothing else.
async fn bare(pages: Vec<Vec<u8>>) -> Fallible<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let router = pages.into_iter().enumerate().fold(Router::new(), |router, (i, page)| {
        let page = bytes::Bytes::from(page);
        router.route(&format!("/{i}"), get(move || async move { ([(header::CONTENT_TYPE, "text/html")], page) }))
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Traffic for every experiment, counted when this returns.
async fn visit(world: &World, experiments: usize, units: usize) -> Fallible<()> {
    let mut assign = AssignmentServiceClient::new(connect(&world.address).await?);
    let mut record = EventServiceClient::new(connect(&world.address).await?);
    for n in 0..experiments {
        let requests = (0..units).map(|unit| question(n, unit, ExposureMode::Durable)).collect();
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
    let mut results = ResultServiceClient::new(connect(&world.address).await?);
    results.get_results(GetResultsRequest { key: key(0), generation: 0, wait: true }).await?;
    Ok(())
}

/// Follows a page, as a browser that is left open does.
async fn follow(address: String, query: &'static str) -> Fallible<()> {
    let authority = address.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&authority).await?;
    stream.write_all(format!("GET /live?{query} HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut heard = [0_u8; 4096];
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

async fn run(flags: Flags) -> Fallible<()> {
    let quick = flags.quick();
    let experiments = flags.number("--experiments", if quick { 20 } else { 200 });
    let rounds = flags.number("--rounds", if quick { 5 } else { 100 });
    let rest = Duration::from_secs(if quick { 2 } else { 20 });
    let world = World::with_variations(experiments, VARIATIONS).await?;
    visit(&world, experiments, 250).await?;
    let one = format!("/experiments/{}", key(0));
    let paths = ["/", one.as_str(), "/feed", "/new"];
    // The first look at anything computes what later ones find ready; it is told apart.
    let (_, first) = ask(&world.address, "/").await?;
    let (_, first_one) = ask(&world.address, &one).await?;
    tokio::time::sleep(Duration::from_secs(if quick { 1 } else { 15 })).await;
    let mut pages = Vec::new();
    for path in paths {
        pages.push(ask(&world.address, path).await?.0);
    }
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    let floor = bare(pages).await?;
    let mut pairs = vec![Pairs::default(); paths.len()];
    let mut took = vec![Vec::new(); paths.len()];
    for _ in 0..rounds {
        for (i, path) in paths.into_iter().enumerate() {
            let ours = ask(&world.address, path).await?.1;
            pairs[i].push(ours, ask(&floor, &format!("/{i}")).await?.1);
            took[i].push(ours);
        }
    }
    for i in 0..50 {
        tokio::spawn(follow(world.address.clone(), if i % 2 == 0 { "scope=overview" } else { "scope=experiment" }));
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = cpu_seconds();
    tokio::time::sleep(rest).await;
    let used = 100.0 * (cpu_seconds() - before) / rest.as_secs_f64();

    let mut report = Report::new("pages", &flags);
    for (i, (path, pairs)) in paths.into_iter().zip(&pairs).enumerate() {
        report.compare(&format!("GET {path}, {} KiB", sizes[i] / 1024), "ms", pairs, None);
    }
    report.note(format!(
        "{experiments} experiments of {VARIATIONS} variations. 99 of 100 answers within {}. The first look ever: overview {first:.1} \
         ms, an experiment {first_one:.1} ms.",
        paths.iter().zip(&took).map(|(path, took)| format!("{path} {:.1} ms", quantile(took, 0.99))).collect::<Vec<_>>().join(", "),
    ));
    report.note(format!("50 pages left open, nothing happening: {used:.2}% of a core over {} s.", rest.as_secs()));
    report.note(format!("Median of the overview: {:.2} ms (limit 50).", median(&took[0])));
    report.print();
    world.shutdown().await
}

fn main() -> Fallible<()> {
    common::runtime()?.block_on(run(Flags::read()))
}
