//! Coverage of the displayed intervals over a grid of lifts, sizes, numbers of arms, metrics and policies.
//!
//! A cell samples the tallies of each day directly, without single visitors: conversions are binomial, values are drawn for
//! the units that convert. Growth then decides by [`decide`], as the server would. The interval of the first variation is
//! compared with its true lift (or difference); the other variations are like control. Outcomes are known at once.

use std::error::Error;
use std::time::Duration;

use inroad_assignment::{ThompsonSettings, Timestamp, Width};
use inroad_policy::{
    ArmState, ArmTally, BetterDirection, Decider, EVIDENCE_SHARE, EpochKey, EpochTally, Estimator, LiftEstimate,
    Measure, Moments, SampleRatioRule, TickInput, TickScope, normal_cdf, shown_lifts,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, LogNormal, Poisson};
use rayon::prelude::*;

use crate::run::TableRun;

const LIFTS: [f64; 5] = [-0.6, -0.3, 0.0, 0.5, 1.5];
/// Expected conversions of control under an even split.
const CONTROL_CONVERSIONS: [f64; 5] = [20.0, 60.0, 200.0, 600.0, 2_000.0];
const ARMS: [usize; 3] = [2, 4, 12];
const METRICS: [Metric; 5] = [Metric::Conversion, Metric::Count, Metric::Revenue, Metric::Ratio, Metric::Profit];
const DAYS: i64 = 14;
const DAY: Duration = Duration::from_secs(86_400);
/// Conversions per unit; for a ratio, per denominator.
const BASE: f64 = 0.05;
/// Mean, spread (of the logarithm) and cap of the value of a conversion.
const VALUE: f64 = 40.0;
const SIGMA: f64 = 1.0;
const CAP: f64 = 400.0;
/// Cost per unit, which makes the mean profit negative.
const COST: f64 = 3.0;
/// Mean denominator of a unit beyond the first.
const MORE_DENOMINATORS: f64 = 2.0;
/// The part of the line that variations without a declared share start with, together.
const INITIAL_SHARES: f64 = 0.4;
/// Draws of a decision, as a power of two: fewer than by default, because the grid has a million decisions.
const DRAWS_LOG2: u32 = 10;
/// Factor for the number of runs of a cell whose coverage is in doubt.
const MORE_RUNS: u32 = 10;
/// One-sided 99% quantile of the standard normal distribution.
const Z_99: f64 = 2.326;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    Conversion,
    Count,
    /// Capped value per unit.
    Revenue,
    Ratio,
    /// Capped value less a cost per unit.
    Profit,
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Self::Conversion => "conversion",
            Self::Count => "count",
            Self::Revenue => "capped mean",
            Self::Ratio => "ratio",
            Self::Profit => "profit below 0",
        }
    }

    fn measure(self) -> Measure {
        match self {
            Self::Conversion => Measure::Conversion,
            Self::Count | Self::Revenue | Self::Profit => Measure::Mean,
            Self::Ratio => Measure::Ratio,
        }
    }

    /// The true difference of the means for a relative lift of the rate.
    fn difference(self, lift: f64) -> f64 {
        let value = match self {
            Self::Conversion | Self::Count | Self::Ratio => 1.0,
            Self::Revenue | Self::Profit => {
                let a = ((CAP / VALUE).ln() + 0.5 * SIGMA * SIGMA) / SIGMA;
                VALUE * normal_cdf(a - SIGMA) + CAP * normal_cdf(-a)
            }
        };
        BASE * lift * value
    }

    /// The tally of `n` units at this rate.
    fn draw(self, rng: &mut ChaCha8Rng, n: u64, rate: f64) -> ArmTally {
        let (mut moments, mut s) = (Moments::default(), 0);
        match self {
            Self::Conversion => {
                s = binomial(rng, n, rate);
                return ArmTally { first: n, n, s, early: 0, moments: None };
            }
            Self::Count => {
                for (x, units) in poisson_counts(rng, n, rate) {
                    add(&mut moments, units, x, 0.0);
                    s += if x > 0.0 { units } else { 0 };
                }
            }
            Self::Ratio => {
                for (more, units) in poisson_counts(rng, n, MORE_DENOMINATORS) {
                    for (x, units) in poisson_counts(rng, units, rate * (1.0 + more)) {
                        add(&mut moments, units, x, 1.0 + more);
                    }
                }
                // Every unit has a denominator, and so an outcome.
                s = n;
            }
            Self::Revenue | Self::Profit => {
                let cost = if self == Self::Profit { COST } else { 0.0 };
                let converted = binomial(rng, n, rate);
                if let Ok(values) = LogNormal::new(VALUE.ln() - 0.5 * SIGMA * SIGMA, SIGMA) {
                    for _ in 0..converted {
                        add(&mut moments, 1, values.sample(rng).min(CAP) - cost, 0.0);
                    }
                }
                add(&mut moments, n - converted, -cost, 0.0);
                s = if self == Self::Profit { n } else { converted };
            }
        }
        ArmTally { first: n, n, s, early: 0, moments: Some(moments) }
    }
}

fn add(moments: &mut Moments, units: u64, x: f64, y: f64) {
    let units = units as f64;
    moments.x += units * x;
    moments.xx += units * x * x;
    moments.y += units * y;
    moments.yy += units * y * y;
    moments.xy += units * x * y;
}

fn binomial(rng: &mut ChaCha8Rng, n: u64, p: f64) -> u64 {
    Binomial::new(n, p.clamp(0.0, 1.0)).map_or(0, |binomial| binomial.sample(rng))
}

fn poisson(rng: &mut ChaCha8Rng, mean: f64) -> u64 {
    if mean > 0.0 { Poisson::new(mean).map_or(0, |poisson| poisson.sample(rng) as u64) } else { 0 }
}

/// How many of `n` units have each value of a Poisson variable: a multinomial, drawn value by value.
fn poisson_counts(rng: &mut ChaCha8Rng, n: u64, mean: f64) -> Vec<(f64, u64)> {
    let (mut counts, mut left, mut tail, mut mass, mut value) = (Vec::new(), n, 1.0, (-mean).exp(), 0.0);
    while left > 0 {
        let units = if tail > 1e-12 { binomial(rng, left, mass / tail) } else { left };
        counts.push((value, units));
        left -= units;
        tail -= mass;
        value += 1.0;
        mass *= mean / value;
    }
    counts
}

/// One cell of the grid.
#[derive(Debug, Clone, Copy)]
struct Cell {
    metric: Metric,
    lift: f64,
    control: f64,
    arms: usize,
    grows: bool,
}

/// What was displayed in a number of runs.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    runs: u32,
    intervals: u32,
    covered: u32,
}

impl Shown {
    fn add(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            intervals: self.intervals + other.intervals,
            covered: self.covered + other.covered,
        }
    }

    fn coverage(self) -> f64 {
        f64::from(self.covered) / f64::from(self.intervals)
    }

    /// Lower end of the one-sided 99% interval of the coverage.
    fn lower_limit(self) -> f64 {
        let (p, n) = (self.coverage(), f64::from(self.intervals));
        // Wilson's interval, which is also right where all intervals cover.
        let (centre, spread) =
            (p + Z_99 * Z_99 / (2.0 * n), Z_99 * (p * (1.0 - p) / n + (Z_99 / (2.0 * n)).powi(2)).sqrt());
        (centre - spread) / (1.0 + Z_99 * Z_99 / n)
    }

    fn share(self) -> f64 {
        f64::from(self.intervals) / f64::from(self.runs)
    }
}

impl Cell {
    fn name(&self) -> String {
        let policy = policy_name(self.grows);
        let Self { metric, lift, control, arms, .. } = self;
        format!(
            "{}, {policy}, lift {:+.0}%, {control} conversions of control, {arms} arms",
            metric.name(),
            100.0 * lift
        )
    }

    /// Runs the cell once.
    fn run(&self, seed: u64) -> Result<Shown, Box<dyn Error + Send + Sync>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut decider = Decider::default();
        let even = Width::LINE.get() / self.arms as u128;
        let settings = ThompsonSettings { tick: DAY, draws_log2: DRAWS_LOG2, ..ThompsonSettings::default() };
        let foothold = match self.grows {
            true => Width::from_share(INITIAL_SHARES / (self.arms - 1) as f64),
            false => Width::new(even),
        }
        .ok_or("a share is out of range")?;
        let control = Width::new(Width::LINE.get() - foothold.get() * (self.arms as u128 - 1));
        let mut owned = vec![foothold; self.arms];
        owned[0] = control.ok_or("a share is out of range")?;
        let (mut live, mut epochs) = (vec![true; self.arms], Vec::new());
        let mut last_growth_at = Timestamp::default();
        for day in 0..DAYS {
            if self.grows && day > 0 {
                let now = Timestamp::start_of_tick(day, DAY);
                let input = self.tick_input(&settings, &owned, foothold, &live, &epochs, now, last_growth_at, seed)?;
                let decision = decider.decide(&input)?;
                decision.kill.iter().for_each(|arm| live[*arm] = false);
                for (arm, decided) in decision.arms.iter().enumerate().skip(1) {
                    owned[arm] = owned[arm].saturating_add(decided.grow_by);
                    owned[0] = owned[0].saturating_sub(decided.grow_by);
                }
                if decision.resets_growth_allowance() {
                    last_growth_at = now;
                }
            }
            epochs.push(self.draw_day(&mut rng, day, &owned, &live));
        }
        let measure = self.metric.measure().suited_to(&epochs);
        let shown = shown_lifts(&mut Estimator::default(), measure, &epochs, &live)?;
        let covered = match shown[1].map(|shown| shown.estimate) {
            Some(LiftEstimate::Measured(lift)) => Some(lift.contains(self.lift)),
            Some(LiftEstimate::Difference { difference, .. }) => {
                Some(difference.contains(self.metric.difference(self.lift)))
            }
            _ => None,
        };
        let count = |is_true: bool| u32::from(is_true);
        Ok(Shown { runs: 1, intervals: count(covered.is_some()), covered: count(covered == Some(true)) })
    }

    #[allow(clippy::too_many_arguments, reason = "the state of one run")]
    fn tick_input(
        &self,
        settings: &ThompsonSettings,
        owned: &[Width],
        foothold: Width,
        live: &[bool],
        epochs: &[EpochTally],
        now: Timestamp,
        last_growth_at: Timestamp,
        seed: u64,
    ) -> Result<TickInput, Box<dyn Error + Send + Sync>> {
        let arm = |(owned, live): (&Width, &bool)| ArmState {
            owned: *owned,
            foothold,
            killed: !live,
            kill_exempt: false,
            guardrail_alerted: false,
        };
        Ok(TickInput {
            now,
            generation_started_at: Timestamp::default(),
            last_growth_at,
            seed,
            settings: settings.clone(),
            arms: owned.iter().zip(live).map(arm).collect(),
            floor: Width::from_share(settings.floor).ok_or("the floor is out of range")?,
            evidence_share: Width::from_share(EVIDENCE_SHARE).ok_or("the share is out of range")?,
            data_late: false,
            sample_ratio: SampleRatioRule::Mixed,
            exposures: Vec::new(),
            measure: self.metric.measure().suited_to(epochs),
            better: BetterDirection::Higher,
            scope: TickScope::Growth,
            epochs: epochs.to_vec(),
            guardrails: Vec::new(),
        })
    }

    /// The units of one day. The points of killed arms serve control.
    fn draw_day(&self, rng: &mut ChaCha8Rng, day: i64, owned: &[Width], live: &[bool]) -> EpochTally {
        let per_unit = if self.metric == Metric::Ratio { BASE * (1.0 + MORE_DENOMINATORS) } else { BASE };
        let units = self.control / per_unit * self.arms as f64 / DAYS as f64;
        let mut shares: Vec<f64> = owned.iter().map(|width| width.share()).collect();
        for arm in (1..self.arms).filter(|arm| !live[*arm]) {
            shares[0] += std::mem::take(&mut shares[arm]);
        }
        let arms = shares.iter().enumerate().map(|(arm, share)| {
            let n = poisson(rng, units * share);
            self.metric.draw(rng, n, BASE * if arm == 1 { 1.0 + self.lift } else { 1.0 })
        });
        EpochTally { epoch: EpochKey { tick: day, revision: 1 }, arms: arms.collect(), shares }
    }
}

fn policy_name(grows: bool) -> &'static str {
    if grows { "growth" } else { "even split" }
}

/// Prints the table of the grid, and every cell whose coverage may be below 93%.
pub(crate) fn print(run: &TableRun) -> Result<(), Box<dyn Error>> {
    let runs = run.replications_alone();
    println!("\n### Coverage of displayed intervals over a grid, %\n");
    println!(
        "{runs} runs per cell, 14 days; lifts {}; {} arms. Columns: expected conversions of control under an even split. Each \
         entry: the lowest coverage of the 15 cells (in parentheses the lower end of its one-sided 99% interval), the mean \
         coverage, and the range of the share of runs with an interval.\n",
        LIFTS.map(|lift| format!("{:+.0}%", 100.0 * lift)).join(", "),
        ARMS.map(|arms| arms.to_string()).join(", ")
    );
    println!("| | {} |", CONTROL_CONVERSIONS.map(|c| c.to_string()).join(" | "));
    println!("|---{}|", "|---".repeat(CONTROL_CONVERSIONS.len()));
    let mut doubtful = Vec::new();
    let rows = METRICS.into_iter().flat_map(|metric| [(metric, false), (metric, true)]);
    let name = |metric: Metric, grows: bool| format!("{}, {}", metric.name(), policy_name(grows));
    for (metric, grows) in rows.filter(|(metric, grows)| name(*metric, *grows).contains(&run.rows)) {
        let mut entries = Vec::new();
        for control in CONTROL_CONVERSIONS {
            let lifts = LIFTS.into_iter().flat_map(|lift| ARMS.map(|arms| (lift, arms)));
            let cells = lifts.map(|(lift, arms)| Cell { metric, lift, control, arms, grows });
            let found = cells
                .map(|cell| Ok((cell, run_cell(run, &cell, runs)?)))
                .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
            entries.push(entry(&found));
            doubtful.extend(found.into_iter().filter(|(_, shown)| shown.intervals > 0 && shown.lower_limit() < 0.93));
        }
        println!("| {} | {} |", name(metric, grows), entries.join(" | "));
    }
    // Where few runs have an interval, the limit says more about their number than about the coverage.
    let (many, found) = (MORE_RUNS * runs, doubtful.len());
    println!("\nCells whose lower limit is below 93%: {found}. In {many} runs of each:\n");
    for (cell, _) in doubtful {
        let shown = run_cell(run, &cell, many)?;
        println!(
            "- {}: {:.1}% ({:.1}%) of {} intervals",
            cell.name(),
            100.0 * shown.coverage(),
            100.0 * shown.lower_limit(),
            shown.intervals
        );
    }
    Ok(())
}

fn run_cell(run: &TableRun, cell: &Cell, runs: u32) -> Result<Shown, Box<dyn Error>> {
    let seed = run.seeds.seed_of(&cell.name())?;
    let shown = (0..runs).into_par_iter().map(|i| cell.run(seed.wrapping_add(u64::from(i))));
    let sum = shown.try_reduce(Shown::default, |a, b| Ok(a.add(b)));
    sum.map_err(|error| error.to_string().into())
}

/// One entry of the table.
fn entry(cells: &[(Cell, Shown)]) -> String {
    let shown = || cells.iter().map(|(_, shown)| shown).filter(|shown| shown.intervals > 0);
    let Some(lowest) = shown().min_by(|a, b| a.coverage().total_cmp(&b.coverage())) else { return "–".to_owned() };
    let all = shown().fold(Shown::default(), |all, shown| all.add(*shown));
    let shares = || cells.iter().map(|(_, shown)| 100.0 * shown.share());
    let (fewest, most) = (shares().fold(100.0, f64::min), shares().fold(0.0, f64::max));
    let range = if most - fewest < 0.5 { format!("{most:.0}") } else { format!("{fewest:.0}–{most:.0}") };
    format!(
        "{:.1} ({:.1}), {:.1}; {range}",
        100.0 * lowest.coverage(),
        100.0 * lowest.lower_limit(),
        100.0 * all.coverage()
    )
}
