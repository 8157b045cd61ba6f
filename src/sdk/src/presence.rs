//! Tells the server how this client is doing: which version it has since when, and what it has dropped. A courtesy to
//! whoever runs the experiments: nothing here is waited for, and a server that does not understand it is left alone.
//!
//! A report goes over the stream's own connection, so that it reaches the server that holds the stream, and no sooner
//! than 50 ms after a change: a thousand clients must not answer a kill while it is still on its way to the others.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use inroad_assignment::Timestamp;
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::{timestamp_from_wire, timestamp_to_wire, v1};
use rand::random_range;
use tokio::time::{sleep_until, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::queue::Kind;
use crate::report::lock;
use crate::shared::Shared;

/// Within these a report follows a change, in milliseconds.
const JITTER: std::ops::RangeInclusive<u64> = 50..=300;
/// Within these it follows the report before, in milliseconds.
const INTERVAL: std::ops::RangeInclusive<u64> = 9_000..=11_000;
/// How long a report may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most versions that the server takes in one report.
const MAX_APPLIED: usize = 64;
/// For how long the best reading of the server's clock stands against slower ones: clocks drift.
const READING_AGE: Duration = Duration::from_secs(60);

/// What is to be told, and when.
#[derive(Debug)]
pub(crate) struct Presence {
    id: String,
    news: Mutex<News>,
}

#[derive(Debug)]
struct News {
    due: Instant,
    /// The version in use.
    current: Option<(u64, Instant)>,
    /// What was applied and not told yet, oldest first.
    applied: VecDeque<(u64, Instant)>,
    reading: Option<Reading>,
}

/// What a round trip told of the server's clock.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    round_trip: Duration,
    /// How far the server is ahead of this machine, in microseconds.
    offset: i64,
}

impl Presence {
    pub(crate) fn new() -> Self {
        let news = News { due: Instant::now(), current: None, applied: VecDeque::new(), reading: None };
        Self { id: format!("{:032x}", rand::random::<u128>()), news: Mutex::new(news) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Evaluations follow another version from now on.
    pub(crate) fn applied(&self, version: u64) {
        let now = Instant::now();
        let mut news = lock(&self.news);
        news.current = Some((version, now));
        if news.applied.len() >= MAX_APPLIED {
            news.applied.pop_front();
        }
        news.applied.push_back((version, now));
        news.due = news.due.min(soon(now));
    }

    /// A stream was opened. What came over another one is no news to this server, and its clock may be another.
    pub(crate) fn connected(&self) {
        let mut news = lock(&self.news);
        news.applied.clear();
        news.reading = None;
        news.due = soon(Instant::now());
    }

    /// Resolves when a report is due. That instant may come nearer meanwhile, but only in the task that polls this, and
    /// before it polls this.
    async fn due(&self) {
        let mut sleep = pin!(sleep_until(self.due_at()));
        poll_fn(|context| {
            let due = self.due_at();
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            sleep.as_mut().poll(context)
        })
        .await;
    }

    fn due_at(&self) -> tokio::time::Instant {
        lock(&self.news).due.into()
    }

    /// What there is to tell now; the next report is due a while later.
    fn report(&self, shared: &Shared) -> v1::ReportClientRequest {
        let mut news = lock(&self.news);
        news.due = Instant::now() + Duration::from_millis(random_range(INTERVAL));
        let offset = news.reading.map_or_else(|| shared.clock.offset_micros(), |reading| reading.offset);
        let told = |(version, at): &(u64, Instant)| {
            let at = Timestamp::from_micros(shared.clock.local_at(*at).saturating_add(offset));
            v1::AppliedVersion { version: *version, at: Some(timestamp_to_wire(at)) }
        };
        let applied = match news.applied.is_empty() {
            true => news.current.iter().map(told).collect(),
            false => news.applied.iter().map(told).collect(),
        };
        v1::ReportClientRequest {
            client_id: self.id.clone(),
            applied,
            dropped_exposures: shared.queue.dropped_of(Kind::Exposure),
            dropped_outcomes: shared.queue.dropped_of(Kind::Outcome),
            queued_events: shared.queue.depth() as u64,
        }
    }

    /// The server has taken what was told up to `version`.
    fn told(&self, version: u64) {
        lock(&self.news).applied.retain(|(applied, _)| *applied > version);
    }

    /// What a report's round trip tells of the server's clock: the shorter it was, the better.
    fn read(&self, shared: &Shared, sent: Instant, server_time: Timestamp) {
        let at = Instant::now();
        let round_trip = at.saturating_duration_since(sent);
        let middle = shared.clock.local_at(sent + round_trip / 2);
        let reading = Reading { at, round_trip, offset: server_time.as_micros().saturating_sub(middle) };
        let mut news = lock(&self.news);
        let old = |old: Reading| old.round_trip < round_trip && at.saturating_duration_since(old.at) < READING_AGE;
        if !news.reading.is_some_and(old) {
            news.reading = Some(reading);
        }
    }
}

fn soon(now: Instant) -> Instant {
    now + Duration::from_millis(random_range(JITTER))
}

/// Reports whenever it is due, as long as the stream lives. What the server did not take is told again the next time.
pub(crate) async fn keep_telling(shared: &Shared, mut client: AssignmentServiceClient<Channel>) -> Infallible {
    let presence = &shared.presence;
    loop {
        presence.due().await;
        let report = presence.report(shared);
        let newest = report.applied.last().map_or(0, |applied| applied.version);
        let sent = Instant::now();
        match timeout(PATIENCE, client.report_client(shared.transport.request(report))).await {
            Ok(Ok(answer)) => {
                presence.told(newest);
                if let Some(Ok(at)) = answer.into_inner().server_time.as_ref().map(timestamp_from_wire) {
                    presence.read(shared, sent, at);
                }
            }
            // An older server; the next stream may lead to a newer one.
            Ok(Err(status)) if status.code() == Code::Unimplemented => pending().await,
            Ok(Err(status)) => tracing::debug!(code = ?status.code(), "the server has not taken a report"),
            Err(_) => tracing::debug!("the server has not answered a report in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_due_soon_after_a_change_and_further_changes_do_not_put_it_off() {
        let presence = Presence::new();
        lock(&presence.news).due = Instant::now() + Duration::from_secs(10);
        presence.applied(1);
        let due = presence.due_at();
        let wait = due.duration_since(tokio::time::Instant::now());
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(300), "{wait:?}");
        presence.applied(2);
        assert!(presence.due_at() <= due);
        presence.told(1);
        assert_eq!(lock(&presence.news).applied.iter().map(|(version, _)| *version).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn what_is_not_told_is_bounded_and_the_newest_stay() {
        let presence = Presence::new();
        (0..1_000).for_each(|version| presence.applied(version));
        let news = lock(&presence.news);
        assert_eq!((news.applied.len(), news.applied.back().map(|(version, _)| *version)), (MAX_APPLIED, Some(999)));
    }

    #[test]
    fn no_two_clients_have_one_id() {
        assert_ne!(Presence::new().id(), Presence::new().id());
    }
}
