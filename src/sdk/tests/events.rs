//! Exposures and outcomes: sent once, sent again until they are acknowledged, and never at the caller's cost.

mod support;

use std::time::{Duration, Instant};

use inroad_assignment::Timestamp;
use inroad_sdk::{Client, Context, Error, Outcome};
use inroad_wire::{timestamp_from_wire, v1};
use support::{Made, SOON, Scripted, full, nobody, quick, until, user, wall};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a server answers whose queue is full.
fn full_queue(retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, "the queue is full", details)
}

async fn colour() -> (Scripted, Client) {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.client().await;
    (server, client)
}

#[tokio::test]
async fn an_exposure_says_who_saw_what_under_which_revision_and_when() {
    let (server, client) = colour().await;
    let before = wall();
    let context = Context::new("user-1").with("country", "fr").with("bulk", "x".repeat(4000));
    assert_eq!(client.assign("colour", &context).string("blue"), "green");
    assert!(client.flush(SOON).await.is_complete());
    let batches = server.batches(1).await;
    let [exposure] = batches[0].exposures.as_slice() else { panic!("{batches:?}") };
    assert_eq!((exposure.experiment.as_str(), exposure.unit.as_str()), ("colour", "user-1"));
    assert_eq!((exposure.variation.as_str(), exposure.generation, exposure.revision), ("green", 1, 1));
    let at = timestamp_from_wire(exposure.occurred_at.as_ref().unwrap()).unwrap();
    assert!(at >= before.minus(Duration::from_secs(1)) && at <= wall().plus(Duration::from_secs(1)));
    let kept: Vec<_> = exposure.context.as_ref().unwrap().fields.keys().collect();
    assert_eq!(kept, ["country"], "what is too large stays behind, and so does the unit's key");
}

#[tokio::test]
async fn an_exposure_carries_no_context_where_that_is_not_wanted() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.builder().exposure_context(false).build().unwrap();
    assert!(client.ready(SOON).await);
    client.assign("colour", &Context::new("user-1").with("country", "fr"));
    assert!(client.flush(SOON).await.is_complete());
    assert_eq!(server.batches(1).await[0].exposures[0].context, None);
}

#[tokio::test]
async fn an_exposure_by_a_manual_clock_has_that_clocks_time() {
    let manual_now = Some(Timestamp::from_micros(5_000_000));
    let server = Scripted::with(full(1, &[Made { manual_now, ..Made::everybody("colour", 1) }.wire()])).await;
    let client = server.client().await;
    client.assign("colour", &user());
    client.track(Outcome::new("purchase").by("user-1").clock("colour"));
    assert!(client.flush(SOON).await.is_complete());
    let batches = server.batches(1).await;
    let exposed = batches[0].exposures[0].occurred_at.as_ref().map(timestamp_from_wire);
    let happened = batches.iter().flat_map(|b| &b.outcomes).next().unwrap();
    assert_eq!(exposed, Some(Ok(Timestamp::from_micros(5_000_000))));
    assert_eq!(happened.occurred_at.as_ref().map(timestamp_from_wire), exposed);
}

#[tokio::test]
async fn a_unit_that_asks_a_thousand_times_is_recorded_once_and_evaluating_records_nothing() {
    let (server, client) = colour().await;
    for _ in 0..1000 {
        client.assign("colour", &user());
        client.evaluate("colour", &Context::new("user-2"));
    }
    client.assign("colour", &Context::new("user-3"));
    assert!(client.flush(SOON).await.is_complete());
    let units: Vec<_> = server.batches(1).await.into_iter().flat_map(|b| b.exposures).map(|e| e.unit).collect();
    assert_eq!(units, ["user-1", "user-3"]);
    assert_eq!((client.status().duplicates, client.status().sent), (999, 2));
}

#[tokio::test]
async fn who_evaluates_first_and_shows_later_records_the_exposure_then() {
    let (server, client) = colour().await;
    let decision = client.evaluate("colour", &user());
    assert_eq!(client.status().queue_depth, 0);
    client.expose(&decision, &user());
    assert!(client.flush(SOON).await.is_complete());
    assert_eq!(server.batches(1).await[0].exposures[0].unit, "user-1");
}

#[tokio::test]
async fn what_finds_no_room_is_dropped_and_counted_and_the_caller_goes_on() {
    let client = quick(&format!("http://{}", nobody().await)).queue_capacity(10).build().unwrap();
    let taken = (0..25).filter(|n| client.track(Outcome::new("purchase").by(format!("user-{n}")))).count();
    assert_eq!(taken, 10);
    let status = client.status();
    assert_eq!((status.queue_depth, status.dropped), (10, 15));
    let flushed = client.shutdown(Duration::from_millis(50)).await;
    assert_eq!((flushed.left, flushed.dropped, flushed.sent), (10, 15, 0));
}

#[tokio::test]
async fn whoever_waits_for_ever_waits_for_nothing_else() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    let client = server.builder().flush_interval(Duration::MAX).build().unwrap();
    assert!(client.ready(SOON).await);
    client.track(Outcome::new("purchase").by("user-1"));
    assert!(client.flush(SOON).await.is_complete());
    let receipt = client.record(vec![Outcome::new("purchase").by("user-2")], Duration::MAX).await;
    assert_eq!(receipt.unwrap().accepted, 1);
    client.track(Outcome::new("purchase").by("user-3"));
    let flushed = client.shutdown(Duration::MAX).await;
    assert_eq!((flushed.left, flushed.dropped), (0, 0));
    assert_eq!(server.batches(3).await.len(), 3);
}

#[tokio::test]
async fn an_exposure_that_found_no_room_is_recorded_the_next_time() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire()])).await;
    server.answer(|_| Err(full_queue(Duration::from_millis(300))));
    let client = server.builder().queue_capacity(1).build().unwrap();
    assert!(client.ready(SOON).await);
    client.assign("colour", &Context::new("user-1"));
    client.assign("colour", &Context::new("user-2"));
    assert_eq!(client.status().dropped, 1);
    assert!(client.flush(SOON).await.is_complete());
    client.assign("colour", &Context::new("user-2"));
    assert!(client.flush(SOON).await.is_complete());
    let units: Vec<_> = server.batches(3).await.into_iter().flat_map(|b| b.exposures).map(|e| e.unit).collect();
    assert_eq!(units, ["user-1", "user-1", "user-2"], "the first was sent again");
}

#[tokio::test]
async fn a_delay_that_the_server_asks_for_is_honoured() {
    let (server, client) = colour().await;
    let asked = Duration::from_millis(400);
    server.answer(move |_| Err(full_queue(asked)));
    client.track(Outcome::new("purchase").by("user-1"));
    server.batches(1).await;
    let refused = Instant::now();
    let batches = server.batches(2).await;
    // A little less, for the answer that travels while the clock already runs.
    assert!(refused.elapsed() >= asked - Duration::from_millis(50), "{:?}", refused.elapsed());
    assert_eq!(batches[0], batches[1], "the same batch, with the same ids");
    until("it is counted", || client.status().sent == 1).await;
    assert_eq!(client.status().retries, 1);
    assert!(client.status().last_error.unwrap().contains("the queue is full"));
}

#[tokio::test]
async fn events_outlast_a_server_that_is_away() {
    let address = nobody().await;
    let client = quick(&format!("http://{address}")).build().unwrap();
    assert!(client.track(Outcome::new("purchase").by("user-1").value(2.5).id("order-1")));
    until("it has been tried", || client.status().retries >= 2).await;
    let server = Scripted::at(address).await;
    assert!(client.flush(SOON).await.is_complete());
    let batches = server.batches(1).await;
    let [outcome] = batches[0].outcomes.as_slice() else { panic!("{batches:?}") };
    assert_eq!((outcome.event.as_str(), outcome.value, outcome.event_id.as_str()), ("purchase", 2.5, "order-1"));
    assert_eq!(outcome.units["targetingKey"], "user-1");
    assert!(outcome.occurred_at.is_some(), "when it happened, not when it arrived");
}

#[tokio::test]
async fn what_the_server_refuses_is_counted_by_its_reason_and_not_sent_again() {
    let (server, client) = colour().await;
    server.answer(|batch| {
        let rejection =
            |index| v1::Rejection { index, outcome: true, reason: "INVALID_VALUE".into(), message: "no".into() };
        let rejections = (0..batch.outcomes.len() as u32).filter(|i| i % 2 == 0).map(rejection).collect();
        Ok(v1::RecordResponse { accepted: 2, rejections, contexts_trimmed: 0 })
    });
    for n in 0..4 {
        client.track(Outcome::new("purchase").by(format!("user-{n}")).value(f64::NAN));
    }
    let flushed = client.flush(SOON).await;
    assert_eq!((flushed.left, flushed.sent, flushed.rejected), (0, 2, 2));
    assert_eq!(client.status().rejected["INVALID_VALUE"], 2);
    assert_eq!(server.batches(1).await.len(), 1);
}

#[tokio::test]
async fn a_batch_that_can_never_be_taken_does_not_block_the_next() {
    let (server, client) = colour().await;
    server.answer(|_| Err(Status::invalid_argument("no such thing")));
    client.track(Outcome::new("bad").by("user-1"));
    assert!(client.flush(SOON).await.is_complete());
    client.track(Outcome::new("good").by("user-1"));
    let flushed = client.flush(SOON).await;
    assert_eq!((flushed.left, flushed.sent, flushed.rejected), (0, 1, 1));
    assert_eq!(server.batches(2).await[1].outcomes[0].event, "good");
}

#[tokio::test]
async fn many_events_go_in_batches_bounded_by_count_and_by_bytes() {
    let server = Scripted::with(full(1, &[])).await;
    let client = server.builder().batch_size(1500).flush_interval(Duration::from_secs(600)).build().unwrap();
    for n in 0..4000 {
        // Short ones, then long ones, which fill a message before the count does.
        let name = if n < 2000 { "short".to_owned() } else { "l".repeat(4000) };
        client.track(Outcome::new(name).by(format!("user-{n}")));
    }
    assert!(client.flush(SOON).await.is_complete(), "a flush does not wait for the interval");
    let batches = server.batches(1).await;
    let sizes: Vec<usize> = batches.iter().map(|b| b.outcomes.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 4000);
    assert!(sizes.iter().all(|n| *n <= 1500) && batches.len() > 3, "{sizes:?}");
    assert!(batches.iter().all(|b| prost::Message::encoded_len(b) < 4 << 20));
}

#[tokio::test]
async fn a_shutdown_ends_in_time_and_tells_what_is_left() {
    let (server, client) = colour().await;
    for _ in 0..1000 {
        server.answer(|_| Err(Status::unavailable("not now")));
    }
    client.track(Outcome::new("purchase").by("user-1"));
    let begun = Instant::now();
    let flushed = client.shutdown(Duration::from_millis(150)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((flushed.left, flushed.is_complete()), (1, false));
    assert_eq!(client.evaluate("colour", &user()).string("blue"), "green", "it still answers");
    assert!(!client.track(Outcome::new("late").by("user-1")), "and takes no more events");
    assert_eq!(client.status().dropped, 1);
    let begun = Instant::now();
    let _ = client.shutdown(SOON).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "a second one has nothing to wait for");
}

#[tokio::test]
async fn a_shutdown_sends_what_is_queued_at_once() {
    let server = Scripted::with(full(1, &[])).await;
    let client = server.builder().flush_interval(Duration::from_secs(600)).build().unwrap();
    for n in 0..2500 {
        client.track(Outcome::new("purchase").by(format!("user-{n}")));
    }
    let flushed = client.shutdown(SOON).await;
    assert_eq!((flushed.left, flushed.sent), (0, 2500));
}

#[tokio::test]
async fn dropping_the_last_client_sends_what_is_queued() {
    let server = Scripted::with(full(1, &[])).await;
    let client = server.builder().flush_interval(Duration::from_secs(600)).build().unwrap();
    client.track(Outcome::new("purchase").by("user-1"));
    drop(client.clone());
    drop(client);
    assert_eq!(server.batches(1).await[0].outcomes.len(), 1);
}

#[tokio::test]
async fn recording_waits_for_the_acknowledgement_and_names_what_was_refused() {
    let server = Scripted::with(full(1, &[])).await;
    let client = server.builder().batch_size(2).build().unwrap();
    server.answer(|_| Err(Status::unavailable("not now")));
    server.answer(|_| Ok(v1::RecordResponse { accepted: 2, ..Default::default() }));
    server.answer(|_| {
        let rejection = v1::Rejection { index: 1, outcome: true, reason: "INVALID_UNIT".into(), message: "no".into() };
        Ok(v1::RecordResponse { accepted: 1, rejections: vec![rejection], contexts_trimmed: 0 })
    });
    let outcomes = (0..4).map(|n| Outcome::new("purchase").by(format!("user-{n}")));
    let receipt = client.record(outcomes, SOON).await.unwrap();
    assert_eq!((receipt.accepted, receipt.rejections.len()), (3, 1));
    assert_eq!((receipt.rejections[0].index, receipt.rejections[0].reason.as_str()), (3, "INVALID_UNIT"));

    server.answer(|_| Err(Status::invalid_argument("no")));
    let error = client.record([Outcome::new("purchase")], SOON).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let alone = quick(&format!("http://{}", nobody().await)).build().unwrap();
    let error = alone.record([Outcome::new("purchase")], Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::NotAcknowledged { .. }), "{error}");
}

#[tokio::test]
async fn an_outcome_names_every_unit_that_the_context_has_and_an_experiment_asks_for() {
    let by_account = Made { unit: "account", ..Made::new("plan", 1) };
    let server = Scripted::with(full(1, &[Made::new("colour", 1).wire(), by_account.wire()])).await;
    let client = server.client().await;
    let context = Context::new("user-1").with("account", "acme").with("country", "fr");
    let outcome = client.outcome("purchase", &context).value(3.0);
    assert_eq!(outcome.event_id().len(), 32);
    client.track(outcome);
    assert!(client.flush(SOON).await.is_complete());
    let units = server.batches(1).await[0].outcomes[0].units.clone();
    assert_eq!(
        units.into_iter().collect::<Vec<_>>(),
        [("account".to_owned(), "acme".to_owned()), ("targetingKey".to_owned(), "user-1".to_owned())]
    );
}
