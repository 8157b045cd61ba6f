//! Drives a log through a server, tick by tick. Every call may be repeated: assignments are pure, events carry ids made
//! of their rows, and the clock stands still when it is moved to where it is.

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

use super::matching::{Target, matched};
use super::plan::Tick;
use crate::connect::{Connection, Patience, retrying};
use crate::output::{instant, percent};
use crate::parse::Attribute;
use crate::record::send;
use crate::trial::{Log, Row, Tally};
use crate::views;

/// The most rows in a batch.
const BATCH: usize = 1_000;
/// The most ticks that the clock is moved over in one call.
const TICKS_PER_CALL: u32 = 500;

/// What this run of a replay has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Rows that counted, by arm.
    pub(crate) used: Vec<Tally>,
    /// Rows that were passed over.
    pub(crate) skipped: u64,
    /// Events that were refused, by reason.
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Seen {
    /// Nothing yet.
    pub(crate) fn new(arms: usize) -> Self {
        Self { used: vec![Tally::default(); arms], ..Self::default() }
    }
}

/// A replay under way.
pub(crate) struct Drive<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) patience: Patience<'a>,
    pub(crate) target: Target,
    pub(crate) log: &'a Log,
    pub(crate) times: &'a [Timestamp],
    pub(crate) tick: Duration,
    /// Where the clock stands.
    pub(crate) now: Timestamp,
    pub(crate) bar: &'a ProgressBar,
    pub(crate) seen: Seen,
}

impl Drive<'_> {
    /// Replays these ticks; if the last of them is whole, the clock goes past it and the policy decides once more.
    pub(crate) async fn run(&mut self, ticks: &[Tick], whole: bool) -> anyhow::Result<()> {
        for tick in ticks {
            self.advance(tick.last).await?;
            for first in tick.rows.clone().step_by(BATCH) {
                let rows = first..(first + BATCH).min(tick.rows.end);
                let batch: Vec<(&Row, Timestamp)> = rows.clone().map(|i| (&self.log.rows[i], self.times[i])).collect();
                self.replay(&batch).await?;
                self.bar.set_position(rows.end as u64);
            }
        }
        match ticks.last().filter(|_| whole) {
            Some(tick) => self.advance(tick.last.plus(Duration::from_micros(1))).await,
            None => Ok(()),
        }
    }

    async fn replay(&mut self, batch: &[(&Row, Timestamp)]) -> anyhow::Result<()> {
        let answers = self.assign(batch).await?;
        let matched = matched(self.log, &self.target, batch, &answers)?;
        self.seen.skipped += (batch.len() - matched.used.len()) as u64;
        if matched.used.is_empty() {
            return Ok(());
        }
        for request in parts(matched.request) {
            let response = send(self.connection, &request, &self.patience).await?;
            for rejection in response.rejections {
                *self.seen.refused.entry(rejection.reason).or_default() += 1;
            }
        }
        for i in matched.used {
            let row = batch[i].0;
            self.seen.used[row.arm].add(row);
        }
        Ok(())
    }

    async fn assign(&self, batch: &[(&Row, Timestamp)]) -> anyhow::Result<Vec<AssignResponse>> {
        let question = |(row, _): &(&Row, Timestamp)| {
            let mut context = Map::new();
            Attribute::text(&self.target.unit, &row.unit_key()).insert_into(&mut context);
            AssignRequest {
                experiment: self.target.experiment.clone(),
                context: Some(json_to_struct(&context)),
                // Only the rows that match were really exposed; they are recorded by themselves.
                exposure: ExposureMode::None.into(),
            }
        };
        let request = BatchAssignRequest { requests: batch.iter().map(question).collect() };
        let answer = retrying(&self.patience, || {
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
            let advanced = retrying(&self.patience, || {
                let (mut client, request) = (self.connection.experiments(), request.clone());
                async move { client.advance_clock(request).await }
            });
            let experiment = advanced.await?.experiment.unwrap_or_default();
            self.now = views::time(experiment.now.as_ref()).unwrap_or(step).max(step);
            let shares = experiment.variations.iter().map(|v| format!("{} {}", v.key, percent(v.share)));
            self.bar.set_message(format!("{} {}", instant(self.now), shares.collect::<Vec<_>>().join(" ")));
            if step >= to {
                return Ok(());
            }
        }
    }

    /// The server's results, once it has counted everything.
    pub(crate) async fn results(&self) -> anyhow::Result<GetResultsResponse> {
        let request = GetResultsRequest { key: self.target.experiment.clone(), generation: 0, wait: true };
        let results = retrying(&self.patience, || {
            let (mut client, request) = (self.connection.results(), request.clone());
            async move { client.get_results(request).await }
        });
        Ok(results.await?)
    }
}

/// Events in calls that a server takes, exposures first: each row of a batch may have an outcome in every column.
fn parts(RecordRequest { exposures, outcomes }: RecordRequest) -> Vec<RecordRequest> {
    let mut outcomes = outcomes.into_iter();
    let room = MAX_BATCH_EVENTS.saturating_sub(exposures.len());
    let mut parts = vec![RecordRequest { exposures, outcomes: outcomes.by_ref().take(room).collect() }];
    loop {
        let more: Vec<_> = outcomes.by_ref().take(MAX_BATCH_EVENTS).collect();
        if more.is_empty() {
            return parts;
        }
        parts.push(RecordRequest { exposures: Vec::new(), outcomes: more });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_wire::v1::{Exposure, Outcome};

    #[test]
    fn however_many_columns_a_call_has_no_more_events_than_a_server_takes() {
        let whole = |columns: usize| RecordRequest {
            exposures: vec![Exposure::default(); BATCH],
            outcomes: (0..columns * BATCH).map(|i| Outcome { event_id: i.to_string(), ..Outcome::default() }).collect(),
        };
        let sizes = |columns| -> Vec<_> {
            parts(whole(columns)).iter().map(|part| (part.exposures.len(), part.outcomes.len())).collect()
        };
        assert_eq!(sizes(0), [(1_000, 0)]);
        assert_eq!(sizes(9), [(1_000, 9_000)]);
        assert_eq!(sizes(25), [(1_000, 9_000), (0, 10_000), (0, 6_000)]);
        let outcomes: Vec<_> = parts(whole(25)).into_iter().flat_map(|part| part.outcomes).collect();
        assert_eq!(outcomes, whole(25).outcomes, "all of them, in order");
    }
}
