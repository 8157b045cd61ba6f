//! Sends queued events to the server, in batches and in order, and retries until the server has acknowledged or refused
//! them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use inroad_wire::{describe_status, retry_delay, v1};
use prost::Message;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::client_state::ClientState;
use crate::deadline::deadline_after;
use crate::queue::Event;

/// The size limit of a batch, below the server's limit of 4 MiB for one message.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// Runs until the client shuts down, then sends the remaining events until the deadline of the shutdown.
pub(crate) async fn send_events(state: Arc<ClientState>, events: UnboundedReceiver<Event>) {
    let mut collector = BatchCollector { state: &state, events, carried_over: None };
    let work = async {
        while let Some((batch, count)) = collector.next_batch().await {
            send_with_retries(&state, batch, count).await;
            state.queue.complete(count);
        }
    };
    let limit = async { sleep_until(state.wait_for_shutdown().await).await };
    tokio::select! {
        () = work => {}
        () = limit => {}
    }
}

struct BatchCollector<'s> {
    state: &'s ClientState,
    events: UnboundedReceiver<Event>,
    /// The event that was too large for the previous batch.
    carried_over: Option<Event>,
}

impl BatchCollector<'_> {
    /// The next batch. It ends when it is full, when the flush interval has passed, or when a flush was requested.
    /// `None` if the client shuts down and no events are left.
    async fn next_batch(&mut self) -> Option<(v1::RecordRequest, usize)> {
        let first = match self.carried_over.take() {
            Some(event) => event,
            None => self.wait_for_first().await?,
        };
        let mut batch = v1::RecordRequest::default();
        let (mut count, mut bytes) = (0, 0);
        let settings = &self.state.settings;
        let deadline = deadline_after(settings.flush_interval);
        let mut next = Some(first);
        while let Some(event) = next.take() {
            let size = encoded_size(&event);
            if count > 0 && bytes + size > MAX_BATCH_BYTES {
                self.carried_over = Some(event);
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
            match event {
                Event::Exposure(exposure) => batch.exposures.push(exposure),
                Event::Outcome(outcome) => batch.outcomes.push(outcome),
            }
            if count < settings.batch_size {
                next = self.next_before(deadline).await;
            }
        }
        Some((batch, count))
    }

    async fn wait_for_first(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.events.recv() => event,
            _ = self.state.wait_for_shutdown() => {
                self.events.close();
                self.events.recv().await
            }
        }
    }

    /// Another event for a batch that is not empty.
    async fn next_before(&mut self, deadline: Instant) -> Option<Event> {
        loop {
            if let Ok(event) = self.events.try_recv() {
                return Some(event);
            }
            if self.state.queue.is_flushing() {
                return None;
            }
            tokio::select! {
                biased;
                event = self.events.recv() => return event,
                () = self.state.queue.flush_requested.notified() => {}
                () = sleep_until(deadline) => return None,
                _ = self.state.wait_for_shutdown() => return self.events.try_recv().ok(),
            }
        }
    }
}

fn encoded_size(event: &Event) -> usize {
    match event {
        Event::Exposure(exposure) => exposure.encoded_len(),
        Event::Outcome(outcome) => outcome.encoded_len(),
    }
}

/// Sends a batch until the server has acknowledged it or refused it for good.
async fn send_with_retries(state: &ClientState, batch: v1::RecordRequest, count: usize) {
    let settings = &state.settings;
    let mut backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
    loop {
        let status = match send_once(state, batch.clone()).await {
            Ok(response) => {
                let refused = u64::try_from(response.rejections.len()).unwrap_or(u64::MAX);
                state.recorder.sent.fetch_add((count as u64).saturating_sub(refused), Ordering::Relaxed);
                response.rejections.iter().for_each(|r| state.recorder.record_rejection(&r.reason, &r.message, 1));
                return;
            }
            Err(status) => status,
        };
        if is_permanent(&status) {
            state.recorder.record_rejection(&format!("{:?}", status.code()), &describe_status(&status), count as u64);
            return;
        }
        state.recorder.retries.fetch_add(1, Ordering::Relaxed);
        state.recorder.record_error(describe_status(&status));
        tracing::debug!(events = count, code = ?status.code(), "events are not acknowledged yet; trying again");
        sleep(backoff.next_delay(retry_delay(&status))).await;
    }
}

/// Makes one attempt, within the request timeout.
pub(crate) async fn send_once(state: &ClientState, batch: v1::RecordRequest) -> Result<v1::RecordResponse, Status> {
    let mut request = state.transport.authorize(batch);
    request.set_timeout(state.settings.request_timeout);
    let mut client = state.transport.event_client();
    let answer = timeout(state.settings.request_timeout, client.record(request)).await;
    let result = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the server did not answer in time")));
    if let Err(status) = &result
        && matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable)
    {
        state.transport.reset_event_channel();
    }
    result.map(tonic::Response::into_inner)
}

/// Whether the batch itself is wrong, so that a retry cannot help. Every other error may be temporary, even a refused
/// token: the token may be renewed, and the queue limits how many events wait meanwhile.
pub(crate) fn is_permanent(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition)
}
