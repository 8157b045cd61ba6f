//! The days of the demo, with real calls to the server.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inroad_assignment::definition::{Direction, Lifetime};
use inroad_assignment::document::{ClockDoc, MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{
    Allocation, Arm, DefinitionDoc, KillTarget, Kills, MetricKind, Payload, TARGETING_KEY, ThompsonSettings, Timestamp,
};
use inroad_wire::v1::{self, ExposureMode, GetResultsResponse};
use inroad_wire::{allocation_from_wire, definition_to_wire, json_to_struct, timestamp_to_wire};
use serde_json::{Map, Value, json};

use super::KEY;
use super::allocation_bar::{coloured, draw_allocation, variation_letters};
use super::visitors::{OutcomeReport, RATES, Visit, VisitCounts, VisitorSimulation};
use crate::connect::{Connection, RetryPolicy};
use crate::output::{Output, count, plural, probability, rate};
use crate::parse::Attribute;
use crate::results::leader_note;
use crate::send_events::{report_pause, send_events};
use crate::wire_text::{is_ranked, primary_metric};

const DAY: Duration = Duration::from_secs(86_400);
/// 2026-01-01T00:00:00Z: fixed, so that the same seed gives the same four weeks.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// The most assignments or events in one call.
const BATCH: usize = 1_000;
/// The width of the drawn line, in characters.
const CELLS: usize = 48;
/// How long a call is retried.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// A demo and its settings.
pub(super) struct Demo<'a> {
    pub(super) connection: &'a Connection,
    pub(super) days: u32,
    pub(super) seed: u64,
    pub(super) url: &'a str,
    pub(super) out: Output,
}

fn definition(seed: u64) -> DefinitionDoc {
    let variation = |(key, _): &(&str, f64)| VariationDoc {
        key: (*key).to_owned(),
        payload: Payload::String((*key).to_owned()),
        description: String::new(),
        share: None,
    };
    let visit = MetricDoc {
        key: "visit".to_owned(),
        event: "visit".to_owned(),
        kind: MetricKind::Conversion,
        window: DAY,
        direction: Direction::Up,
        decision: true,
        guardrail: None,
    };
    DefinitionDoc {
        key: KEY.to_owned(),
        description: "which e-mail, if any, brings people into the shop".to_owned(),
        owner: "demo".to_owned(),
        tags: Vec::new(),
        lifetime: Lifetime::Temporary,
        unit: None,
        audience: None,
        salt: Some(format!("demo{seed}")),
        clock: ClockDoc::Manual { start: Some(START) },
        policy: PolicyDoc::Thompson(ThompsonSettings::default()),
        variations: RATES.iter().map(variation).collect(),
        overrides: Vec::new(),
        metrics: vec![visit],
    }
}

impl Demo<'_> {
    /// Simulates the days and prints the results.
    pub(super) async fn run(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.create_experiment().await?;
        let keys = RATES.map(|(key, _)| key);
        self.print_head(&keys)?;
        let mut simulation = VisitorSimulation::new(self.seed);
        let mut results = GetResultsResponse::default();
        for day in 0..self.days {
            let start = START.plus(DAY * day);
            // The last instant of the day: the shares are constant all day, and no event of the day is in the future.
            let now = start.plus(DAY - Duration::from_micros(1));
            self.advance(now).await?;
            let visits = simulation.visits_of_day(start);
            self.serve(&mut simulation, &visits).await?;
            self.send_outcomes(simulation.take_reports(now)).await?;
            results = self.results().await?;
            self.print_day(day + 1, &keys, &results).await?;
        }
        self.print_summary(&simulation, &results, begun.elapsed())
    }

    async fn create_experiment(&self) -> anyhow::Result<()> {
        let experiment = Some(definition_to_wire(&definition(self.seed)));
        let mut experiments = self.connection.experiments();
        let request = v1::CreateExperimentRequest { experiment, validate_only: false };
        experiments.create_experiment(request).await.context("cannot create the experiment of the demo")?;
        experiments.start_experiment(v1::StartExperimentRequest { key: KEY.to_owned(), etag: String::new() }).await?;
        Ok(())
    }

    async fn advance(&self, to: Timestamp) -> anyhow::Result<()> {
        let request = v1::AdvanceClockRequest { key: KEY.to_owned(), to: Some(timestamp_to_wire(to)) };
        self.connection.experiments().advance_clock(request).await?;
        Ok(())
    }

    async fn serve(&self, simulation: &mut VisitorSimulation, visits: &[Visit]) -> anyhow::Result<()> {
        let retry = RetryPolicy { limit: RETRY_LIMIT, on_pause: &report_pause };
        for visits in visits.chunks(BATCH) {
            let to_request = |visit: &Visit| {
                let mut context = Map::new();
                Attribute::from_text(TARGETING_KEY, &visit.unit).insert_into(&mut context);
                v1::AssignRequest {
                    experiment: KEY.to_owned(),
                    context: Some(json_to_struct(&context)),
                    exposure: ExposureMode::None.into(),
                }
            };
            let request = v1::BatchAssignRequest { requests: visits.iter().map(to_request).collect() };
            let answers = self.connection.assignments().batch_assign(request).await?.into_inner().responses;
            let mut exposures = Vec::with_capacity(visits.len());
            for (visit, answer) in visits.iter().zip(answers) {
                let served = RATES.iter().position(|(key, _)| *key == answer.variation);
                simulation.serve(visit, served.with_context(|| format!("served {:?}", answer.variation))?);
                exposures.push(v1::Exposure {
                    experiment: KEY.to_owned(),
                    generation: answer.generation,
                    unit: visit.unit.clone(),
                    variation: answer.variation,
                    revision: answer.revision,
                    occurred_at: Some(timestamp_to_wire(visit.at)),
                    context: None,
                });
            }
            let request = v1::RecordRequest { exposures, outcomes: Vec::new() };
            check_accepted(&send_events(self.connection, &request, &retry).await?)?;
        }
        Ok(())
    }

    async fn send_outcomes(&self, reports: Vec<OutcomeReport>) -> anyhow::Result<()> {
        let retry = RetryPolicy { limit: RETRY_LIMIT, on_pause: &report_pause };
        for reports in reports.chunks(BATCH) {
            let to_outcome = |report: &OutcomeReport| v1::Outcome {
                units: [(TARGETING_KEY.to_owned(), report.unit.clone())].into(),
                event: "visit".to_owned(),
                value: 1.0,
                occurred_at: Some(timestamp_to_wire(report.occurred_at)),
                event_id: report.event_id.clone(),
                clock: KEY.to_owned(),
            };
            let request =
                v1::RecordRequest { exposures: Vec::new(), outcomes: reports.iter().map(to_outcome).collect() };
            check_accepted(&send_events(self.connection, &request, &retry).await?)?;
        }
        Ok(())
    }

    async fn results(&self) -> anyhow::Result<GetResultsResponse> {
        let request = v1::GetResultsRequest { key: KEY.to_owned(), generation: 0, wait: true };
        Ok(self.connection.results().get_results(request).await?.into_inner())
    }

    async fn newest_allocation(&self) -> anyhow::Result<Allocation> {
        let request = v1::ListRevisionsRequest { key: KEY.to_owned(), ..Default::default() };
        let revisions = self.connection.experiments().list_revisions(request).await?.into_inner().revisions;
        let newest = revisions.last().context("the experiment has no revision")?;
        Ok(allocation_from_wire(&newest.buckets)?)
    }

    fn print_head(&self, keys: &[&str]) -> anyhow::Result<()> {
        let letters = variation_letters(keys);
        let colours = self.out.colours();
        let legend = keys.iter().zip(&letters).enumerate().map(|(i, (key, letter))| {
            let letter = format!(" {letter} ");
            let letter = Arm::new(i).filter(|_| colours).map_or_else(|| letter.clone(), |arm| coloured(arm, &letter));
            format!("{letter} {key}")
        });
        self.out.print_text(format!("{KEY} at {}: {}\n", self.url, legend.collect::<Vec<_>>().join("  ")))?;
        let arms = keys.iter().map(|key| format!("{key:>22}")).collect::<String>();
        self.out.print_text(format!("day  {:CELLS$}{arms}", "traffic allocation"))?;
        let columns = format!("{:>8}{:>7}{:>7}", "share", "rate", "best").repeat(keys.len());
        Ok(self.out.print_text(format!("     {:CELLS$}{columns}", ""))?)
    }

    async fn print_day(&self, day: u32, keys: &[&str], results: &GetResultsResponse) -> anyhow::Result<()> {
        let allocation = self.newest_allocation().await?;
        let killed = results.arms.iter().enumerate().filter(|(_, arm)| arm.killed).filter_map(|(i, _)| Arm::new(i));
        let kills = killed.fold(Kills::default(), |kills, arm| kills.with_change(KillTarget::Variation(arm), true));
        let letters = variation_letters(keys);
        let mut columns = String::new();
        let mut arms = Vec::new();
        let is_ranked = is_ranked(results);
        for arm in &results.arms {
            let p_best = is_ranked.then_some(arm.p_best);
            let metric = primary_metric(results, arm);
            let observed = metric.map_or(f64::NAN, |m| rate(m.converted, m.units));
            columns +=
                &format!("{:>8}{:>7}{:>7}", brief(arm.share), brief(observed), probability(p_best.unwrap_or(f64::NAN)));
            arms.push(json!({
                "variation": arm.variation, "share": arm.share, "units": arm.units, "p_best": p_best,
                "rate": if observed.is_finite() { json!(observed) } else { Value::Null }, "killed": arm.killed,
            }));
        }
        let bar = |colours| draw_allocation(&allocation, kills, &letters, CELLS, colours);
        self.out
            .print_json_line(&json!({"day": day, "revision": results.revision, "line": bar(false), "arms": arms}))?;
        Ok(self.out.print_text(format!("{day:>3}  {}{columns}", bar(self.out.colours())))?)
    }

    fn print_summary(
        &self,
        simulation: &VisitorSimulation,
        results: &GetResultsResponse,
        took: Duration,
    ) -> anyhow::Result<()> {
        let VisitCounts { visits, moved, crossed, returned, outcomes, late, twice } = simulation.counts;
        let visitors = simulation.visitor_count() as u64;
        self.out.print_json_line(&json!({
            "days": self.days, "visits": visits, "visitors": visitors, "outcomes": outcomes, "late": late,
            "twice": twice, "units_moved": moved, "units_moved_by_server": results.units_moved,
            "crossovers": crossed, "returned_to_control": returned, "verdict": results.verdict,
            "seconds": took.as_secs_f64(),
        }))?;
        self.out.print_text(format!(
            "\n{} days in {:.1} s: {} visits by {} visitors, {} outcomes ({} reported late, {} twice)",
            self.days,
            took.as_secs_f64(),
            count(visits),
            count(visitors),
            count(outcomes),
            count(late),
            count(twice)
        ))?;
        self.out.print_text(format!(
            "{} moved between variations, counted by the {} visitors; counted by the server: {}",
            plural(moved, "unit"),
            count(visitors),
            count(results.units_moved)
        ))?;
        self.out.print_text(format!("{} from control into a variation", plural(crossed, "crossover")))?;
        self.out.print_text(&results.verdict)?;
        if let Some(note) = leader_note(results) {
            self.out.print_text(format!("By the rates above, {note}."))?;
        }
        if moved > 0 || results.units_moved > 0 {
            bail!(
                "units moved between variations, which must never happen. Please report this bug, with --seed {}.",
                self.seed
            );
        }
        Ok(())
    }
}

/// Fails if the server refused an event: every event of the demo is valid.
fn check_accepted(response: &v1::RecordResponse) -> anyhow::Result<()> {
    match response.rejections.first() {
        None => Ok(()),
        Some(refused) => bail!("the server refused an event of the demo: {} ({})", refused.message, refused.reason),
    }
}

/// A share with one decimal.
fn brief(share: f64) -> String {
    if share.is_finite() { format!("{:.1}%", share * 100.0) } else { "–".to_owned() }
}
