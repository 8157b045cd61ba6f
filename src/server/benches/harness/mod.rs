//! The harness of the server's benches: arguments, statistics of paired rounds, and the printed report.

#![allow(dead_code, clippy::print_stdout)]

pub(crate) mod baseline;
pub(crate) mod bench_server;

use std::error::Error;

use serde_json::{Value, json};

/// The result of a bench step; an error stops the bench.
pub(crate) type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The command-line arguments of a bench.
#[derive(Debug, Clone)]
pub(crate) struct BenchArgs {
    words: Vec<String>,
}

impl BenchArgs {
    /// The arguments of this process.
    pub(crate) fn read() -> Self {
        Self { words: std::env::args().skip(1).collect() }
    }

    /// Whether an argument was given.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// Whether to run fewer and shorter rounds, which show that the bench works but give no figures to quote.
    pub(crate) fn quick(&self) -> bool {
        self.has("--quick")
    }

    /// The number after an argument, or the default.
    pub(crate) fn number(&self, word: &str, default: usize) -> usize {
        let at = self.words.iter().position(|w| w == word);
        at.and_then(|at| self.words.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    }
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The `q` quantile, linearly interpolated.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len().max(1) - 1) as f64;
    let at = |i: f64| sorted.get(i as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

/// The target for a ratio of Inroad to the baseline.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// At least this ratio.
    AtLeast(f64),
    /// At most this ratio.
    AtMost(f64),
}

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
        }
    }
}

/// One figure of both sides, round by round.
#[derive(Debug, Default, Clone)]
pub(crate) struct PairedRounds {
    inroad: Vec<f64>,
    baseline: Vec<f64>,
}

impl PairedRounds {
    /// Adds a round.
    pub(crate) fn push(&mut self, inroad: f64, baseline: f64) {
        self.inroad.push(inroad);
        self.baseline.push(baseline);
    }
}

/// The findings of a bench.
pub(crate) struct BenchReport {
    bench: &'static str,
    args: BenchArgs,
    rows: Vec<Value>,
    notes: Vec<String>,
}

impl BenchReport {
    /// An empty report.
    pub(crate) fn new(bench: &'static str, args: &BenchArgs) -> Self {
        Self { bench, args: args.clone(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row: the medians of both sides, and the median and quartiles of the rounds' ratios.
    pub(crate) fn add_comparison(&mut self, what: &str, unit: &str, pairs: &PairedRounds, target: Option<Target>) {
        let ratios: Vec<f64> =
            pairs.inroad.iter().zip(&pairs.baseline).map(|(inroad, baseline)| inroad / baseline).collect();
        let ratio = median(&ratios);
        self.rows.push(json!({
            "what": what,
            "unit": unit,
            "inroad": median(&pairs.inroad),
            "floor": median(&pairs.baseline),
            "ratio": ratio,
            "ratio_low": quantile(&ratios, 0.25),
            "ratio_high": quantile(&ratios, 0.75),
            "rounds": ratios.len(),
            "target": target.map(Target::shown),
            "met": target.map(|target| target.is_met(ratio)),
        }));
    }

    /// Adds a remark below the table.
    pub(crate) fn add_note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints a table, or one line of JSON with `--json`.
    pub(crate) fn print(&self) {
        if self.args.has("--json") {
            let quick = self.args.quick();
            println!("{}", json!({ "bench": self.bench, "quick": quick, "rows": self.rows, "notes": self.notes }));
            return;
        }
        println!("| {} | Inroad | baseline | ratio (quartiles) | target | |", self.bench);
        println!("|---|---|---|---|---|---|");
        for row in &self.rows {
            let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
            let (unit, target) = (row["unit"].as_str().unwrap_or(""), row["target"].as_str().unwrap_or(""));
            let verdict = match row["met"].as_bool() {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            println!(
                "| {} | {} {unit} | {} {unit} | {:.3} ({:.3} – {:.3}) | {target} | {verdict} |",
                row["what"].as_str().unwrap_or(""),
                shown(number("inroad")),
                shown(number("floor")),
                number("ratio"),
                number("ratio_low"),
                number("ratio_high"),
            );
        }
        for note in &self.notes {
            println!("\n{note}");
        }
    }
}

/// A number with about four significant digits.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The processor time that this process has used so far, in seconds. Other processes do not affect it.
pub(crate) fn cpu_seconds() -> f64 {
    // Clock ticks of 10 ms, after the process name in brackets, which may contain blanks.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The runtime of a bench: clients, server and baseline all run in it.
pub(crate) fn runtime() -> BenchResult<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
