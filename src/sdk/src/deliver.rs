//! Takes events from the queue to the server, in batches and in order, until the server has said what became of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use inroad_wire::{describe, retry_delay, v1};
use prost::Message;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::clock::deadline;
use crate::queue::Event;
use crate::shared::Shared;

/// How much of the server's limit for one message (4 MiB) a batch may use.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// Runs until the client ends; then sends what is left, as far as the time given allows.
pub(crate) async fn deliver(shared: Arc<Shared>, events: UnboundedReceiver<Event>) {
    let mut gatherer = Gatherer { shared: &shared, events, next: None };
    let work = async {
        while let Some((batch, count)) = gatherer.gather().await {
            send(&shared, batch, count).await;
            shared.queue.settle(count);
        }
    };
    let limit = async { sleep_until(shared.ending().await).await };
    tokio::select! {
        () = work => {}
        () = limit => {}
    }
}

struct Gatherer<'s> {
    shared: &'s Shared,
    events: UnboundedReceiver<Event>,
    /// What did not fit into the batch before.
    next: Option<Event>,
}

impl Gatherer<'_> {
    /// The next batch: full, or as old as the flush interval, or wanted at once. `None` when the client ends and
    /// nothing is left.
    async fn gather(&mut self) -> Option<(v1::RecordRequest, usize)> {
        let first = match self.next.take() {
            Some(event) => event,
            None => self.first().await?,
        };
        let mut batch = v1::RecordRequest::default();
        let (mut count, mut bytes) = (0, 0);
        let options = &self.shared.options;
        let full_at = deadline(options.flush_interval);
        let mut event = Some(first);
        while let Some(taken) = event.take() {
            let size = size_of(&taken);
            if count > 0 && bytes + size > MAX_BATCH_BYTES {
                self.next = Some(taken);
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
            match taken {
                Event::Exposure(exposure) => batch.exposures.push(exposure),
                Event::Outcome(outcome) => batch.outcomes.push(outcome),
            }
            if count < options.batch_size {
                event = self.another(full_at).await;
            }
        }
        Some((batch, count))
    }

    async fn first(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.events.recv() => event,
            _ = self.shared.ending() => {
                self.events.close();
                self.events.recv().await
            }
        }
    }

    /// One more event for a batch that has some.
    async fn another(&mut self, full_at: Instant) -> Option<Event> {
        loop {
            if let Ok(event) = self.events.try_recv() {
                return Some(event);
            }
            if self.shared.queue.in_a_hurry() {
                return None;
            }
            tokio::select! {
                biased;
                event = self.events.recv() => return event,
                () = self.shared.queue.hurry.notified() => {}
                () = sleep_until(full_at) => return None,
                _ = self.shared.ending() => return self.events.try_recv().ok(),
            }
        }
    }
}

fn size_of(event: &Event) -> usize {
    match event {
        Event::Exposure(exposure) => exposure.encoded_len(),
        Event::Outcome(outcome) => outcome.encoded_len(),
    }
}

/// Sends a batch until the server has taken it, or has said that it never will.
async fn send(shared: &Shared, batch: v1::RecordRequest, count: usize) {
    let options = &shared.options;
    let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
    loop {
        let status = match attempt(shared, batch.clone()).await {
            Ok(response) => {
                let refused = u64::try_from(response.rejections.len()).unwrap_or(u64::MAX);
                shared.report.sent.fetch_add((count as u64).saturating_sub(refused), Ordering::Relaxed);
                response.rejections.iter().for_each(|r| shared.report.reject(&r.reason, &r.message, 1));
                return;
            }
            Err(status) => status,
        };
        if is_final(&status) {
            shared.report.reject(&format!("{:?}", status.code()), &describe(&status), count as u64);
            return;
        }
        shared.report.retries.fetch_add(1, Ordering::Relaxed);
        shared.report.failed(describe(&status));
        tracing::debug!(events = count, code = ?status.code(), "events are not acknowledged yet; trying again");
        sleep(backoff.next(retry_delay(&status))).await;
    }
}

/// One attempt, bounded in time.
pub(crate) async fn attempt(shared: &Shared, batch: v1::RecordRequest) -> Result<v1::RecordResponse, Status> {
    let mut request = shared.transport.request(batch);
    request.set_timeout(shared.options.request_timeout);
    let mut client = shared.transport.events();
    let answer = timeout(shared.options.request_timeout, client.record(request)).await;
    let result = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the server has not answered in time")));
    if let Err(status) = &result
        && matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable)
    {
        shared.transport.renew_events();
    }
    result.map(tonic::Response::into_inner)
}

/// Whether the batch itself is at fault. Anything else may pass, even a refused token: somebody may be renewing it, and
/// the queue bounds how much is held meanwhile.
pub(crate) fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition)
}
