//! The worlds: base rates, lifts, cycles, trends, delays and visitors, four ticks a day for 28 days.

use std::f64::consts::TAU;

/// Ticks in a day.
pub const TICKS_PER_DAY: u32 = 4;
/// Days in a run.
pub const DAYS: u32 = 28;

/// Who comes, and what they do.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Its name.
    pub name: &'static str,
    /// Control's conversion rate without cycles, 0 to 1.
    pub base: f64,
    /// Relative lifts over the base, control first.
    pub lifts: Vec<f64>,
    /// New units a day.
    pub per_day: f64,
    /// Amplitude of the daily cycle.
    pub diurnal: f64,
    /// Amplitude of the weekly cycle.
    pub weekly: f64,
    /// Relative change of the base over the run.
    pub trend: f64,
    /// Visits a tick of each unit that has come before.
    pub returning: f64,
    /// Mean hours from exposure to conversion, and the window that cuts them off; at once without.
    pub delay_hours: Option<(f64, f64)>,
    /// Whether arm 1 wears off: its lift is then −0.15 + 0.45·0.5^(2d/10).
    pub novelty: bool,
}

impl World {
    /// An arm's lift at day `day`.
    pub fn lift(&self, arm: usize, day: f64) -> f64 {
        if self.novelty && arm == 1 {
            return -0.15 + 0.45 * (2.0 * day / 10.0 * 0.5_f64.ln()).exp();
        }
        self.lifts.get(arm).copied().unwrap_or(0.0)
    }

    /// An arm's conversion rate at a tick.
    pub fn rate(&self, arm: usize, tick: u32) -> f64 {
        let hours = f64::from(tick) * 24.0 / f64::from(TICKS_PER_DAY);
        let day = hours / 24.0;
        let cycles = (1.0 + self.diurnal * (TAU * day).sin()) * (1.0 + self.weekly * (TAU * day / 7.0).sin());
        let drift = 1.0 + self.trend * day / f64::from(DAYS);
        (self.base * cycles * drift * (1.0 + self.lift(arm, day))).clamp(0.0, 1.0)
    }

    /// How many new units a tick expects.
    pub fn arrivals(&self, tick: u32) -> f64 {
        let day = f64::from(tick) / f64::from(TICKS_PER_DAY);
        self.per_day / f64::from(TICKS_PER_DAY) * (1.0 + 0.5 * self.diurnal * (TAU * day).sin())
    }
}

/// All worlds, S1 to S8.
pub fn worlds() -> Vec<World> {
    let plain = World {
        name: "",
        base: 0.05,
        lifts: Vec::new(),
        per_day: 4_000.0,
        diurnal: 0.0,
        weekly: 0.0,
        trend: 0.0,
        returning: 0.0,
        delay_hours: None,
        novelty: false,
    };
    vec![
        World { name: "S1 classic", base: 0.10, lifts: vec![0.0, 0.10], per_day: 1_500.0, ..plain.clone() },
        World {
            name: "S2 cycles, delay",
            lifts: vec![0.0, 0.0, 0.10, 0.20],
            diurnal: 0.40,
            weekly: 0.25,
            returning: 0.01,
            delay_hours: Some((18.0, 72.0)),
            ..plain.clone()
        },
        World {
            name: "S3 ten arms",
            base: 0.03,
            lifts: vec![0.0, 0.30, 0.15, 0.10, 0.0, 0.0, -0.10, -0.15, -0.20, -0.30],
            per_day: 8_000.0,
            diurnal: 0.30,
            weekly: 0.15,
            ..plain.clone()
        },
        World {
            name: "S4 control best",
            base: 0.01,
            lifts: vec![0.0, -0.05, -0.10, -0.20, -0.30],
            per_day: 12_000.0,
            diurnal: 0.30,
            trend: 1.0,
            returning: 0.02,
            ..plain.clone()
        },
        World { name: "S5 novelty", lifts: vec![0.0, 0.0, 0.10], diurnal: 0.30, novelty: true, ..plain.clone() },
        World { name: "S6 A/A", lifts: vec![0.0; 4], diurnal: 0.40, weekly: 0.25, trend: 1.0, ..plain.clone() },
        World {
            name: "S7 check",
            base: 0.02,
            lifts: vec![0.0, 0.05, 0.10, 0.15, -0.10, 0.20],
            per_day: 6_000.0,
            diurnal: 0.40,
            weekly: 0.20,
            trend: -0.4,
            returning: 0.01,
            delay_hours: Some((12.0, 48.0)),
            ..plain.clone()
        },
        World {
            name: "S8 check",
            base: 0.08,
            lifts: vec![0.0, 0.08, -0.08],
            per_day: 2_500.0,
            diurnal: 0.30,
            weekly: 0.30,
            returning: 0.02,
            ..plain
        },
    ]
}

/// The world whose name starts so.
pub fn named(prefix: &str) -> Option<World> {
    worlds().into_iter().find(|world| world.name.starts_with(prefix))
}
