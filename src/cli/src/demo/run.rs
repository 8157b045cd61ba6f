//! The days of the demo, by real calls.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inroad_assignment::definition::{Direction, Lifetime};
use inroad_assignment::document::{ClockDoc, MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{
    Allocation, Arm, DefinitionDoc, Kills, MetricKind, Payload, TARGETING_KEY, Target, ThompsonSettings, Timestamp,
};
use inroad_wire::v1::{self, ExposureMode, GetResultsResponse};
use inroad_wire::{allocation_from_wire, definition_to_wire, json_to_struct, timestamp_to_wire};
use serde_json::{Map, Value, json};

use super::KEY;
use super::strip::{coloured, letters, strip};
use super::world::{Ledger, RATES, Report, Visit, World};
use crate::connect::{Connection, Patience};
use crate::output::{Output, count, rate};
use crate::parse::Attribute;
use crate::record::{said_pausing, send};
use crate::results::decision_metric;

const DAY: Duration = Duration::from_secs(86_400);
/// 2026-01-01T00:00:00Z, so that the same seed shows the same four weeks.
const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
/// The most assignments, or events, in a call.
const BATCH: usize = 1_000;
/// How many cells the line is drawn in.
const CELLS: usize = 48;
/// How long a call is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A demo about to run.
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
    /// Lets the days go by and says how it went.
    pub(super) async fn run(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.declare().await?;
        let keys = RATES.map(|(key, _)| key);
        self.head(&keys)?;
        let mut world = World::new(self.seed);
        let mut results = GetResultsResponse::default();
        for day in 0..self.days {
            let start = START.plus(DAY * day);
            // To the day's last instant: its boundaries hold all day, and nothing of the day is in the future.
            let now = start.plus(DAY - Duration::from_micros(1));
            self.advance(now).await?;
            let visits = world.day(start);
            self.serve(&mut world, &visits).await?;
            self.report(world.reports(now)).await?;
            results = self.results().await?;
            self.tell_day(day + 1, &keys, &results).await?;
        }
        self.tell_end(&world, &results, begun.elapsed())
    }

    async fn declare(&self) -> anyhow::Result<()> {
        let experiment = Some(definition_to_wire(&definition(self.seed)));
        let mut experiments = self.connection.experiments();
        let request = v1::CreateExperimentRequest { experiment, validate_only: false };
        experiments.create_experiment(request).await.context("cannot declare the demo's experiment")?;
        experiments.start_experiment(v1::StartExperimentRequest { key: KEY.to_owned(), etag: String::new() }).await?;
        Ok(())
    }

    async fn advance(&self, to: Timestamp) -> anyhow::Result<()> {
        let request = v1::AdvanceClockRequest { key: KEY.to_owned(), to: Some(timestamp_to_wire(to)) };
        self.connection.experiments().advance_clock(request).await?;
        Ok(())
    }

    async fn serve(&self, world: &mut World, visits: &[Visit]) -> anyhow::Result<()> {
        let patience = Patience { limit: PATIENCE, pausing: &said_pausing };
        for visits in visits.chunks(BATCH) {
            let question = |visit: &Visit| {
                let mut context = Map::new();
                Attribute::text(TARGETING_KEY, &visit.unit).insert_into(&mut context);
                v1::AssignRequest {
                    experiment: KEY.to_owned(),
                    context: Some(json_to_struct(&context)),
                    exposure: ExposureMode::None.into(),
                }
            };
            let request = v1::BatchAssignRequest { requests: visits.iter().map(question).collect() };
            let answers = self.connection.assignments().batch_assign(request).await?.into_inner().responses;
            let mut exposures = Vec::with_capacity(visits.len());
            for (visit, answer) in visits.iter().zip(answers) {
                let served = RATES.iter().position(|(key, _)| *key == answer.variation);
                world.serve(visit, served.with_context(|| format!("served {:?}", answer.variation))?);
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
            taken(&send(self.connection, &request, &patience).await?)?;
        }
        Ok(())
    }

    async fn report(&self, reports: Vec<Report>) -> anyhow::Result<()> {
        let patience = Patience { limit: PATIENCE, pausing: &said_pausing };
        for reports in reports.chunks(BATCH) {
            let outcome = |report: &Report| v1::Outcome {
                units: [(TARGETING_KEY.to_owned(), report.unit.clone())].into(),
                event: "visit".to_owned(),
                value: 1.0,
                occurred_at: Some(timestamp_to_wire(report.occurred_at)),
                event_id: report.event_id.clone(),
                clock: KEY.to_owned(),
            };
            let request = v1::RecordRequest { exposures: Vec::new(), outcomes: reports.iter().map(outcome).collect() };
            taken(&send(self.connection, &request, &patience).await?)?;
        }
        Ok(())
    }

    async fn results(&self) -> anyhow::Result<GetResultsResponse> {
        let request = v1::GetResultsRequest { key: KEY.to_owned(), generation: 0, wait: true };
        Ok(self.connection.results().get_results(request).await?.into_inner())
    }

    async fn line(&self) -> anyhow::Result<Allocation> {
        let request = v1::ListRevisionsRequest { key: KEY.to_owned(), generation: 0 };
        let revisions = self.connection.experiments().list_revisions(request).await?.into_inner().revisions;
        let newest = revisions.last().context("the experiment has no revision")?;
        Ok(allocation_from_wire(&newest.buckets)?)
    }

    fn head(&self, keys: &[&str]) -> anyhow::Result<()> {
        let marks = letters(keys);
        let colours = self.out.colours();
        let legend = keys.iter().zip(&marks).enumerate().map(|(i, (key, mark))| {
            let mark = format!(" {mark} ");
            let mark = Arm::new(i).filter(|_| colours).map_or_else(|| mark.clone(), |arm| coloured(arm, &mark));
            format!("{mark} {key}")
        });
        self.out.line(format!("{KEY} at {}: {}\n", self.url, legend.collect::<Vec<_>>().join("  ")))?;
        let arms = keys.iter().map(|key| format!("{key:>22}")).collect::<String>();
        self.out.line(format!("day  {:CELLS$}{arms}", "the line"))?;
        let columns = format!("{:>8}{:>7}{:>7}", "share", "rate", "best").repeat(keys.len());
        Ok(self.out.line(format!("     {:CELLS$}{columns}", ""))?)
    }

    async fn tell_day(&self, day: u32, keys: &[&str], results: &GetResultsResponse) -> anyhow::Result<()> {
        let allocation = self.line().await?;
        let killed = results.arms.iter().enumerate().filter(|(_, arm)| arm.killed).filter_map(|(i, _)| Arm::new(i));
        let kills = killed.fold(Kills::default(), |kills, arm| kills.with(Target::Variation(arm), true));
        let marks = letters(keys);
        let mut words = String::new();
        let mut arms = Vec::new();
        for arm in &results.arms {
            let metric = decision_metric(results, arm);
            let seen = metric.map_or(f64::NAN, |m| rate(m.converted, m.units));
            words += &format!("{:>8}{:>7}{:>7}", brief(arm.share), brief(seen), brief(arm.p_best));
            arms.push(json!({
                "variation": arm.variation, "share": arm.share, "units": arm.units, "p_best": arm.p_best,
                "rate": if seen.is_finite() { json!(seen) } else { Value::Null }, "killed": arm.killed,
            }));
        }
        let drawn = |colours| strip(&allocation, kills, &marks, CELLS, colours);
        self.out.item(&json!({"day": day, "revision": results.revision, "line": drawn(false), "arms": arms}))?;
        Ok(self.out.line(format!("{day:>3}  {}{words}", drawn(self.out.colours())))?)
    }

    fn tell_end(&self, world: &World, results: &GetResultsResponse, took: Duration) -> anyhow::Result<()> {
        let Ledger { visits, moved, crossed, returned, outcomes, late, twice } = world.ledger;
        let visitors = world.visitors() as u64;
        self.out.item(&json!({
            "days": self.days, "visits": visits, "visitors": visitors, "outcomes": outcomes, "late": late,
            "twice": twice, "units_moved": moved, "units_moved_by_server": results.units_moved,
            "crossovers": crossed, "returned_to_control": returned, "verdict": results.verdict,
            "seconds": took.as_secs_f64(),
        }))?;
        self.out.line(format!(
            "\n{} days in {:.1} s: {} visits by {} visitors, {} outcomes ({} reported late, {} twice)",
            self.days,
            took.as_secs_f64(),
            count(visits),
            count(visitors),
            count(outcomes),
            count(late),
            count(twice)
        ))?;
        self.out.line(format!(
            "{} units moved between variations, by what {} visitors remember; the server counts {}",
            count(moved),
            count(visitors),
            count(results.units_moved)
        ))?;
        self.out.line(format!("{} units crossed over from control into a variation", count(crossed)))?;
        self.out.line(&results.verdict)?;
        if moved > 0 || results.units_moved > 0 {
            bail!(
                "units were moved between variations, which must never happen: report this, with --seed {}",
                self.seed
            );
        }
        Ok(())
    }
}

/// A refusal has no place in the demo.
fn taken(response: &v1::RecordResponse) -> anyhow::Result<()> {
    match response.rejections.first() {
        None => Ok(()),
        Some(refused) => bail!("the server refused an event of the demo: {} ({})", refused.message, refused.reason),
    }
}

/// A share with one digit after the point.
fn brief(share: f64) -> String {
    if share.is_finite() { format!("{:.1}%", share * 100.0) } else { "–".to_owned() }
}
