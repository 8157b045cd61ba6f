//! Sends a log through a server, tick by tick. Every call is safe to repeat: assignments are pure, event ids are made from
//! row numbers, and advancing simulated time to its current value changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use inroad_assignment::Timestamp;
use inroad_server::config::MAX_BATCH_EVENTS;
use inroad_wire::v1::{
    AdvanceClockRequest, AssignRequest, AssignResponse, BatchAssignRequest, ExposureMode, GetResultsRequest,
    GetResultsResponse, RecordRequest,
};
use inroad_wire::{json_to_struct, timestamp_to_wire};
use serde_json::Map;

use super::matching::{ReplayTarget, match_rows};
use super::schedule::Tick;
use crate::connect::{Connection, RetryPolicy, call_with_retries};
use crate::output::{instant, percent};
use crate::parse::Attribute;
use crate::send_events::send_events;
use crate::trial::{Log, Row, Tally};
use crate::wire_text::timestamp_of;

/// Most rows in a batch.
const BATCH: usize = 1_000;
/// Most ticks to advance in one call.
const TICKS_PER_CALL: u32 = 500;

/// The counts of this replay.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplayCounts {
    /// Rows used, by arm.
    pub(crate) used: Vec<Tally>,
    /// Rows skipped.
    pub(crate) skipped: u64,
    /// Refused events, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
}

impl ReplayCounts {
    /// Zero for every arm.
    pub(crate) fn new(arms: usize) -> Self {
        Self { used: vec![Tally::default(); arms], ..Self::default() }
    }
}

/// A replay in progress.
pub(crate) struct ReplayDriver<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) retry: RetryPolicy<'a>,
    pub(crate) target: ReplayTarget,
    pub(crate) log: &'a Log,
    pub(crate) times: &'a [Timestamp],
    pub(crate) tick: Duration,
    /// The current simulated time.
    pub(crate) now: Timestamp,
    pub(crate) bar: &'a ProgressBar,
    pub(crate) counts: ReplayCounts,
}

impl ReplayDriver<'_> {
    /// Replays ticks. If the last tick is complete, time advances past it, so that the policy decides once more.
    pub(crate) async fn run(&mut self, ticks: &[Tick], last_is_complete: bool) -> anyhow::Result<()> {
        for tick in ticks {
            self.advance(tick.last).await?;
            for first in tick.rows.clone().step_by(BATCH) {
                let rows = first..(first + BATCH).min(tick.rows.end);
                let batch: Vec<(&Row, Timestamp)> = rows.clone().map(|i| (&self.log.rows[i], self.times[i])).collect();
                self.replay_batch(&batch).await?;
                self.bar.set_position(rows.end as u64);
            }
        }
        match ticks.last().filter(|_| last_is_complete) {
            Some(tick) => self.advance(tick.last.plus(Duration::from_micros(1))).await,
            None => Ok(()),
        }
    }

    async fn replay_batch(&mut self, batch: &[(&Row, Timestamp)]) -> anyhow::Result<()> {
        let answers = self.assign(batch).await?;
        let matched = match_rows(self.log, &self.target, batch, &answers)?;
        self.counts.skipped += (batch.len() - matched.used.len()) as u64;
        if matched.used.is_empty() {
            return Ok(());
        }
        for request in split_request(matched.request) {
            let response = send_events(self.connection, &request, &self.retry).await?;
            for rejection in response.rejections {
                *self.counts.refused.entry(rejection.reason).or_default() += 1;
            }
        }
        for i in matched.used {
            let row = batch[i].0;
            self.counts.used[row.arm].add(row);
        }
        Ok(())
    }

    async fn assign(&self, batch: &[(&Row, Timestamp)]) -> anyhow::Result<Vec<AssignResponse>> {
        let to_request = |(row, _): &(&Row, Timestamp)| {
            let mut context = Map::new();
            Attribute::from_text(&self.target.unit, &row.unit_key()).insert_into(&mut context);
            AssignRequest {
                experiment: self.target.experiment.clone(),
                context: Some(json_to_struct(&context)),
                // Only rows that match were exposed; their exposures are sent separately.
                exposure: ExposureMode::None.into(),
            }
        };
        let request = BatchAssignRequest { requests: batch.iter().map(to_request).collect() };
        let answer = call_with_retries(&self.retry, || {
            let (mut client, request) = (self.connection.assignments(), request.clone());
            async move { client.batch_assign(request).await }
        });
        Ok(answer.await?.responses)
    }

    async fn advance(&mut self, to: Timestamp) -> anyhow::Result<()> {
        loop {
            let step = to.min(self.now.plus(self.tick * TICKS_PER_CALL));
            let request =
                AdvanceClockRequest { key: self.target.experiment.clone(), to: Some(timestamp_to_wire(step)) };
            let advanced = call_with_retries(&self.retry, || {
                let (mut client, request) = (self.connection.experiments(), request.clone());
                async move { client.advance_clock(request).await }
            });
            let experiment = advanced.await?.experiment.unwrap_or_default();
            self.now = timestamp_of(experiment.now.as_ref()).unwrap_or(step).max(step);
            let shares = experiment.variations.iter().map(|v| format!("{} {}", v.key, percent(v.share)));
            self.bar.set_message(format!("{} {}", instant(self.now), shares.collect::<Vec<_>>().join(" ")));
            if step >= to {
                return Ok(());
            }
        }
    }

    /// The server's results after it has counted all events.
    pub(crate) async fn results(&self) -> anyhow::Result<GetResultsResponse> {
        let request = GetResultsRequest { key: self.target.experiment.clone(), generation: 0, wait: true };
        let results = call_with_retries(&self.retry, || {
            let (mut client, request) = (self.connection.results(), request.clone());
            async move { client.get_results(request).await }
        });
        Ok(results.await?)
    }
}

/// Splits events into requests within the server's limit, exposures first. A batch can exceed the limit because each row
/// may have an outcome in every column.
fn split_request(RecordRequest { exposures, outcomes }: RecordRequest) -> Vec<RecordRequest> {
    let mut outcomes = outcomes.into_iter();
    let room = MAX_BATCH_EVENTS.saturating_sub(exposures.len());
    let mut requests = vec![RecordRequest { exposures, outcomes: outcomes.by_ref().take(room).collect() }];
    loop {
        let more: Vec<_> = outcomes.by_ref().take(MAX_BATCH_EVENTS).collect();
        if more.is_empty() {
            return requests;
        }
        requests.push(RecordRequest { exposures: Vec::new(), outcomes: more });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_wire::v1::{Exposure, Outcome};

    #[test]
    fn no_request_exceeds_the_limit_of_the_server() {
        let whole = |columns: usize| RecordRequest {
            exposures: vec![Exposure::default(); BATCH],
            outcomes: (0..columns * BATCH).map(|i| Outcome { event_id: i.to_string(), ..Outcome::default() }).collect(),
        };
        let sizes = |columns| -> Vec<_> {
            split_request(whole(columns))
                .iter()
                .map(|request| (request.exposures.len(), request.outcomes.len()))
                .collect()
        };
        assert_eq!(sizes(0), [(1_000, 0)]);
        assert_eq!(sizes(9), [(1_000, 9_000)]);
        assert_eq!(sizes(25), [(1_000, 9_000), (0, 10_000), (0, 6_000)]);
        let outcomes: Vec<_> = split_request(whole(25)).into_iter().flat_map(|request| request.outcomes).collect();
        assert_eq!(outcomes, whole(25).outcomes, "all outcomes, in order");
    }
}
