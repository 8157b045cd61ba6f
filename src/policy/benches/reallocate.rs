//! Processor time of a tick: 1,000 experiments of 5 arms × 28 ticks, each estimated, compared with 2¹⁴ draws and
//! decided, in one thread. `benches/numpy/reallocate.py` computes the same estimates and draws from the same tallies in
//! NumPy.
//!
//! ```text
//! cargo bench -p inroad-policy --bench reallocate -- --json
//! ```
//!
//! It reports the wall time of one thread in the best of five rounds, to exclude the load of other processes.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use inroad_assignment::{ThompsonSettings, Timestamp, Width};
use inroad_policy::{
    ArmState, ArmTally, BetterDirection, Decider, EpochKey, EpochTally, Measure, SampleRatioRule, TickInput, TickScope,
};

const EXPERIMENTS: usize = 1000;
const ARMS: usize = 5;
const TICKS: usize = 28;
const ROUNDS: usize = 5;

/// The random number generator that the NumPy version also uses: a linear congruential generator with Knuth's MMIX
/// constants, of which it returns the upper 31 bits.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn experiment(lcg: &mut Lcg) -> TickInput {
    let line = Width::LINE.get();
    let foothold = Width::new(line / 20).unwrap_or(Width::ZERO);
    let control = Width::new(line - 4 * (line / 20)).unwrap_or(Width::ZERO);
    let epoch = |tick: usize, lcg: &mut Lcg| {
        let arms: Vec<ArmTally> = (0..ARMS)
            .map(|arm| {
                let n = if arm == 0 { 3200 } else { 200 } + lcg.next() % 64;
                let s = n / 20 + lcg.next() % (n / 100 * (1 + arm as u64) + 1);
                ArmTally { first: n, n, s, ..ArmTally::default() }
            })
            .collect();
        // The average shares of the tallies, so that the sample ratio check runs and finds no mismatch.
        let mut shares = vec![231.5 / 4157.5; ARMS];
        shares[0] = 3231.5 / 4157.5;
        EpochTally { epoch: EpochKey { tick: tick as i64, revision: 1 }, arms, shares }
    };
    let day = Duration::from_secs(86_400).as_micros() as i64;
    TickInput {
        now: Timestamp::from_micros(TICKS as i64 * day),
        generation_started_at: Timestamp::from_micros(0),
        last_growth_at: Timestamp::from_micros((TICKS as i64 - 1) * day),
        seed: 20_240_607,
        settings: ThompsonSettings::default(),
        arms: (0..ARMS)
            .map(|arm| ArmState {
                owned: if arm == 0 { control } else { foothold },
                foothold,
                killed: false,
                kill_exempt: false,
                guardrail_alerted: false,
            })
            .collect(),
        floor: Width::from_share(0.05).unwrap_or(Width::ZERO),
        evidence_share: Width::ZERO,
        data_late: false,
        sample_ratio: SampleRatioRule::Mixed,
        exposures: Vec::new(),
        // The NumPy version uses the same measure.
        measure: Measure::Poisson,
        better: BetterDirection::Higher,
        scope: TickScope::Growth,
        guardrails: Vec::new(),
        epochs: (0..TICKS).map(|tick| epoch(tick, lcg)).collect(),
    }
}

fn main() {
    let mut lcg = Lcg(42);
    let inputs: Vec<TickInput> = (0..EXPERIMENTS).map(|_| experiment(&mut lcg)).collect();
    let mut best = f64::INFINITY;
    let (mut checksum, mut grown) = (0.0, 0);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        // A new decider in each round, because making the draws is part of the cost of a tick.
        let mut decider = Decider::default();
        (checksum, grown) = (0.0, 0);
        for input in &inputs {
            match decider.decide(black_box(input)) {
                Ok(decision) => {
                    checksum += decision.arms.iter().zip(1..).map(|(arm, k)| arm.p_best * f64::from(k)).sum::<f64>();
                    grown += usize::from(decision.grows());
                    black_box(decision);
                }
                Err(error) => println!("{error}"),
            }
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    if std::env::args().any(|argument| argument == "--json") {
        println!(
            "{{\"experiments\":{EXPERIMENTS},\"arms\":{ARMS},\"ticks\":{TICKS},\"cpu_seconds\":{best:.6},\
             \"checksum\":{checksum:.6},\"grown\":{grown}}}"
        );
    } else {
        println!("{EXPERIMENTS} experiments × {ARMS} arms × {TICKS} ticks: {:.1} ms, {grown} grow", best * 1e3);
    }
}
