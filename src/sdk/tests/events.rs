//! Exposures and outcomes: sent once, retried until they are acknowledged, and never blocking the caller.

mod support;

use std::time::{Duration, Instant};

use inroad_assignment::Timestamp;
use inroad_sdk::{Client, Context, Error, Outcome};
use inroad_wire::{timestamp_from_wire, v1};
use support::{
    ScriptedServer, TIMEOUT, TestExperiment, fast_builder, full_snapshot, unused_address, user, wait_until,
    wall_clock_now,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The answer of a server whose queue is full.
fn full_queue(retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

async fn server_and_client() -> (ScriptedServer, Client) {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.client().await;
    (server, client)
}

#[tokio::test]
async fn exposure_contains_unit_variation_revision_time_and_context() {
    let (server, client) = server_and_client().await;
    let before = wall_clock_now();
    let context = Context::new("user-1").with("country", "fr").with("bulk", "x".repeat(4000));
    assert_eq!(client.assign("colour", &context).string("blue"), "green");
    assert!(client.flush(TIMEOUT).await.is_complete());
    let batches = server.wait_for_batches(1).await;
    let [exposure] = batches[0].exposures.as_slice() else { panic!("{batches:?}") };
    assert_eq!((exposure.experiment.as_str(), exposure.unit.as_str()), ("colour", "user-1"));
    assert_eq!((exposure.variation.as_str(), exposure.generation, exposure.revision), ("green", 1, 1));
    let at = timestamp_from_wire(exposure.occurred_at.as_ref().unwrap()).unwrap();
    assert!(at >= before.minus(Duration::from_secs(1)) && at <= wall_clock_now().plus(Duration::from_secs(1)));
    let attributes: Vec<_> = exposure.context.as_ref().unwrap().fields.keys().collect();
    assert_eq!(attributes, ["country"], "the large attribute and the unit key are left out");
}

#[tokio::test]
async fn exposure_has_no_context_if_that_is_disabled() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.builder().exposure_context(false).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    client.assign("colour", &Context::new("user-1").with("country", "fr"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    assert_eq!(server.wait_for_batches(1).await[0].exposures[0].context, None);
}

#[tokio::test]
async fn events_of_an_experiment_with_a_manual_clock_have_its_time() {
    let manual_now = Some(Timestamp::from_micros(5_000_000));
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment { manual_now, ..TestExperiment::all_in_variation("colour", 1) }.wire()],
    ))
    .await;
    let client = server.client().await;
    client.assign("colour", &user());
    client.track(Outcome::new("purchase").targeting_key("user-1").manual_clock("colour"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    let batches = server.wait_for_batches(1).await;
    let exposed = batches[0].exposures[0].occurred_at.as_ref().map(timestamp_from_wire);
    let happened = batches.iter().flat_map(|b| &b.outcomes).next().unwrap();
    assert_eq!(exposed, Some(Ok(Timestamp::from_micros(5_000_000))));
    assert_eq!(happened.occurred_at.as_ref().map(timestamp_from_wire), exposed);
}

#[tokio::test]
async fn repeated_assignment_records_one_exposure_and_evaluation_records_none() {
    let (server, client) = server_and_client().await;
    for _ in 0..1000 {
        client.assign("colour", &user());
        client.evaluate("colour", &Context::new("user-2"));
    }
    client.assign("colour", &Context::new("user-3"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    let units: Vec<_> =
        server.wait_for_batches(1).await.into_iter().flat_map(|b| b.exposures).map(|e| e.unit).collect();
    assert_eq!(units, ["user-1", "user-3"]);
    assert_eq!((client.status().duplicates, client.status().sent), (999, 2));
}

#[tokio::test]
async fn expose_records_the_exposure_of_an_earlier_evaluation() {
    let (server, client) = server_and_client().await;
    let decision = client.evaluate("colour", &user());
    assert_eq!(client.status().queue_depth, 0);
    client.expose(&decision, &user());
    assert!(client.flush(TIMEOUT).await.is_complete());
    assert_eq!(server.wait_for_batches(1).await[0].exposures[0].unit, "user-1");
}

#[tokio::test]
async fn events_beyond_the_queue_capacity_are_dropped_and_counted() {
    let client = fast_builder(&format!("http://{}", unused_address().await)).queue_capacity(10).build().unwrap();
    let queued = (0..25).filter(|n| client.track(Outcome::new("purchase").targeting_key(format!("user-{n}")))).count();
    assert_eq!(queued, 10);
    let status = client.status();
    assert_eq!((status.queue_depth, status.dropped), (10, 15));
    let flushed = client.shutdown(Duration::from_millis(50)).await;
    assert_eq!((flushed.unacknowledged, flushed.dropped, flushed.sent), (10, 15, 0));
}

#[tokio::test]
async fn unlimited_waits_do_not_block_flush_record_or_shutdown() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    let client = server.builder().flush_interval(Duration::MAX).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    client.track(Outcome::new("purchase").targeting_key("user-1"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    let receipt = client.record(vec![Outcome::new("purchase").targeting_key("user-2")], Duration::MAX).await;
    assert_eq!(receipt.unwrap().accepted, 1);
    client.track(Outcome::new("purchase").targeting_key("user-3"));
    let flushed = client.shutdown(Duration::MAX).await;
    assert_eq!((flushed.unacknowledged, flushed.dropped), (0, 0));
    assert_eq!(server.wait_for_batches(3).await.len(), 3);
}

#[tokio::test]
async fn dropped_exposure_is_recorded_at_the_next_assignment() {
    let server =
        ScriptedServer::with_first_message(full_snapshot(1, &[TestExperiment::all_in_variation("colour", 1).wire()]))
            .await;
    server.answer_next_batch(|_| Err(full_queue(Duration::from_millis(300))));
    let client = server.builder().queue_capacity(1).build().unwrap();
    assert!(client.ready(TIMEOUT).await);
    client.assign("colour", &Context::new("user-1"));
    client.assign("colour", &Context::new("user-2"));
    assert_eq!(client.status().dropped, 1);
    assert!(client.flush(TIMEOUT).await.is_complete());
    client.assign("colour", &Context::new("user-2"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    let units: Vec<_> =
        server.wait_for_batches(3).await.into_iter().flat_map(|b| b.exposures).map(|e| e.unit).collect();
    assert_eq!(units, ["user-1", "user-1", "user-2"], "the first batch was retried");
}

#[tokio::test]
async fn retry_waits_for_the_delay_that_the_server_requested() {
    let (server, client) = server_and_client().await;
    let requested = Duration::from_millis(400);
    server.answer_next_batch(move |_| Err(full_queue(requested)));
    client.track(Outcome::new("purchase").targeting_key("user-1"));
    server.wait_for_batches(1).await;
    let refused = Instant::now();
    let batches = server.wait_for_batches(2).await;
    // 50 ms of tolerance: this clock starts before the client has received the answer.
    assert!(refused.elapsed() >= requested - Duration::from_millis(50), "{:?}", refused.elapsed());
    assert_eq!(batches[0], batches[1], "the same batch, with the same event ids");
    wait_until("the event is counted as sent", || client.status().sent == 1).await;
    assert_eq!(client.status().retries, 1);
    assert!(client.status().last_error.unwrap().contains("the queue is full"));
}

#[tokio::test]
async fn events_are_sent_once_an_unreachable_server_comes_back() {
    let address = unused_address().await;
    let client = fast_builder(&format!("http://{address}")).build().unwrap();
    assert!(client.track(Outcome::new("purchase").targeting_key("user-1").value(2.5).id("order-1")));
    wait_until("two attempts failed", || client.status().retries >= 2).await;
    let server = ScriptedServer::at(address).await;
    assert!(client.flush(TIMEOUT).await.is_complete());
    let batches = server.wait_for_batches(1).await;
    let [outcome] = batches[0].outcomes.as_slice() else { panic!("{batches:?}") };
    assert_eq!((outcome.event.as_str(), outcome.value, outcome.event_id.as_str()), ("purchase", 2.5, "order-1"));
    assert_eq!(outcome.units["targetingKey"], "user-1");
    assert!(outcome.occurred_at.is_some(), "the time of the event is set by the client");
}

#[tokio::test]
async fn refused_events_are_counted_by_reason_and_not_retried() {
    let (server, client) = server_and_client().await;
    server.answer_next_batch(|batch| {
        let rejection =
            |index| v1::Rejection { index, outcome: true, reason: "INVALID_VALUE".into(), message: "no".into() };
        let rejections = (0..batch.outcomes.len() as u32).filter(|i| i % 2 == 0).map(rejection).collect();
        Ok(v1::RecordResponse { accepted: 2, rejections, ..v1::RecordResponse::default() })
    });
    for n in 0..4 {
        client.track(Outcome::new("purchase").targeting_key(format!("user-{n}")).value(f64::NAN));
    }
    let flushed = client.flush(TIMEOUT).await;
    assert_eq!((flushed.unacknowledged, flushed.sent, flushed.rejected), (0, 2, 2));
    assert_eq!(client.status().rejected["INVALID_VALUE"], 2);
    assert_eq!(server.wait_for_batches(1).await.len(), 1);
}

#[tokio::test]
async fn permanently_refused_batch_does_not_block_the_next() {
    let (server, client) = server_and_client().await;
    server.answer_next_batch(|_| Err(Status::invalid_argument("invalid")));
    client.track(Outcome::new("bad").targeting_key("user-1"));
    assert!(client.flush(TIMEOUT).await.is_complete());
    client.track(Outcome::new("good").targeting_key("user-1"));
    let flushed = client.flush(TIMEOUT).await;
    assert_eq!((flushed.unacknowledged, flushed.sent, flushed.rejected), (0, 1, 1));
    assert_eq!(server.wait_for_batches(2).await[1].outcomes[0].event, "good");
}

#[tokio::test]
async fn batches_are_limited_by_count_and_by_bytes() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[])).await;
    let client = server.builder().batch_size(1500).flush_interval(Duration::from_secs(600)).build().unwrap();
    for n in 0..4000 {
        // Short events reach the limit of the count first, long events the limit of bytes.
        let name = if n < 2000 { "short".to_owned() } else { "l".repeat(4000) };
        client.track(Outcome::new(name).targeting_key(format!("user-{n}")));
    }
    assert!(client.flush(TIMEOUT).await.is_complete(), "a flush does not wait for the flush interval");
    let batches = server.wait_for_batches(1).await;
    let sizes: Vec<usize> = batches.iter().map(|b| b.outcomes.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 4000);
    assert!(sizes.iter().all(|n| *n <= 1500) && batches.len() > 3, "{sizes:?}");
    assert!(batches.iter().all(|b| prost::Message::encoded_len(b) < 4 << 20));
}

#[tokio::test]
async fn shutdown_ends_in_time_and_returns_the_number_of_unacknowledged_events() {
    let (server, client) = server_and_client().await;
    for _ in 0..1000 {
        server.answer_next_batch(|_| Err(Status::unavailable("not now")));
    }
    client.track(Outcome::new("purchase").targeting_key("user-1"));
    let started = Instant::now();
    let flushed = client.shutdown(Duration::from_millis(150)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((flushed.unacknowledged, flushed.is_complete()), (1, false));
    assert_eq!(client.evaluate("colour", &user()).string("blue"), "green", "evaluation still works");
    assert!(!client.track(Outcome::new("late").targeting_key("user-1")), "new events are dropped");
    assert_eq!(client.status().dropped, 1);
    let started = Instant::now();
    let _ = client.shutdown(TIMEOUT).await;
    assert!(started.elapsed() < Duration::from_secs(2), "a second shutdown returns immediately");
}

#[tokio::test]
async fn shutdown_sends_queued_events_before_the_flush_interval() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[])).await;
    let client = server.builder().flush_interval(Duration::from_secs(600)).build().unwrap();
    for n in 0..2500 {
        client.track(Outcome::new("purchase").targeting_key(format!("user-{n}")));
    }
    let flushed = client.shutdown(TIMEOUT).await;
    assert_eq!((flushed.unacknowledged, flushed.sent), (0, 2500));
}

#[tokio::test]
async fn dropping_the_last_client_sends_queued_events() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[])).await;
    let client = server.builder().flush_interval(Duration::from_secs(600)).build().unwrap();
    client.track(Outcome::new("purchase").targeting_key("user-1"));
    drop(client.clone());
    drop(client);
    assert_eq!(server.wait_for_batches(1).await[0].outcomes.len(), 1);
}

#[tokio::test]
async fn record_waits_for_the_acknowledgement_and_returns_refused_outcomes() {
    let server = ScriptedServer::with_first_message(full_snapshot(1, &[])).await;
    let client = server.builder().batch_size(2).build().unwrap();
    server.answer_next_batch(|_| Err(Status::unavailable("not now")));
    server.answer_next_batch(|_| Ok(v1::RecordResponse { accepted: 2, ..Default::default() }));
    server.answer_next_batch(|_| {
        let rejection = v1::Rejection { index: 1, outcome: true, reason: "INVALID_UNIT".into(), message: "no".into() };
        Ok(v1::RecordResponse { accepted: 1, rejections: vec![rejection], ..v1::RecordResponse::default() })
    });
    let outcomes = (0..4).map(|n| Outcome::new("purchase").targeting_key(format!("user-{n}")));
    let receipt = client.record(outcomes, TIMEOUT).await.unwrap();
    assert_eq!((receipt.accepted, receipt.rejections.len()), (3, 1));
    assert_eq!((receipt.rejections[0].index, receipt.rejections[0].reason.as_str()), (3, "INVALID_UNIT"));

    server.answer_next_batch(|_| Err(Status::invalid_argument("no")));
    let error = client.record([Outcome::new("purchase")], TIMEOUT).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let unconnected = fast_builder(&format!("http://{}", unused_address().await)).build().unwrap();
    let error = unconnected.record([Outcome::new("purchase")], Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::NotAcknowledged { .. }), "{error}");
}

#[tokio::test]
async fn outcome_has_every_unit_of_the_context_that_an_experiment_uses() {
    let by_account = TestExperiment { unit: "account", ..TestExperiment::new("plan", 1) };
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment::new("colour", 1).wire(), by_account.wire()],
    ))
    .await;
    let client = server.client().await;
    let context = Context::new("user-1").with("account", "acme").with("country", "fr");
    let outcome = client.outcome("purchase", &context).value(3.0);
    assert_eq!(outcome.event_id().len(), 32);
    client.track(outcome);
    assert!(client.flush(TIMEOUT).await.is_complete());
    let units = server.wait_for_batches(1).await[0].outcomes[0].units.clone();
    assert_eq!(
        units.into_iter().collect::<Vec<_>>(),
        [("account".to_owned(), "acme".to_owned()), ("targetingKey".to_owned(), "user-1".to_owned())]
    );
}
