//! What the benches of the server share: flags, figures of paired rounds, and how they are printed.

#![allow(dead_code, clippy::print_stdout)]

pub(crate) mod floor;
pub(crate) mod world;

use std::error::Error;

use serde_json::{Value, json};

/// What a bench ends with when something is not as it must be.
pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How a bench was called.
#[derive(Debug, Clone)]
pub(crate) struct Flags {
    words: Vec<String>,
}

impl Flags {
    /// As the process was.
    pub(crate) fn read() -> Self {
        Self { words: std::env::args().skip(1).collect() }
    }

    /// Whether a word was given.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// Fewer and shorter rounds: to see that it runs, not to quote.
    pub(crate) fn quick(&self) -> bool {
        self.has("--quick")
    }

    /// The number after a word.
    pub(crate) fn number(&self, word: &str, default: usize) -> usize {
        let at = self.words.iter().position(|w| w == word);
        at.and_then(|at| self.words.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value with a share `q` of the others below it, halfway between two where it falls between.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len().max(1) - 1) as f64;
    let at = |i: f64| sorted.get(i as usize).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

/// Which way, and how far, a ratio must go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// This much of the floor, or more.
    AtLeast(f64),
    /// This many times the floor, or less.
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
pub(crate) struct Pairs {
    ours: Vec<f64>,
    floor: Vec<f64>,
}

impl Pairs {
    /// One more round.
    pub(crate) fn push(&mut self, ours: f64, floor: f64) {
        self.ours.push(ours);
        self.floor.push(floor);
    }
}

/// What a bench found.
pub(crate) struct Report {
    bench: &'static str,
    flags: Flags,
    rows: Vec<Value>,
    notes: Vec<String>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(bench: &'static str, flags: &Flags) -> Self {
        Self { bench, flags: flags.clone(), rows: Vec::new(), notes: Vec::new() }
    }

    /// The medians of both sides, and the median of the rounds' ratios with its quartiles.
    pub(crate) fn compare(&mut self, what: &str, unit: &str, pairs: &Pairs, target: Option<Target>) {
        let ratios: Vec<f64> = pairs.ours.iter().zip(&pairs.floor).map(|(ours, floor)| ours / floor).collect();
        let ratio = median(&ratios);
        self.rows.push(json!({
            "what": what,
            "unit": unit,
            "inroad": median(&pairs.ours),
            "floor": median(&pairs.floor),
            "ratio": ratio,
            "ratio_low": quantile(&ratios, 0.25),
            "ratio_high": quantile(&ratios, 0.75),
            "rounds": ratios.len(),
            "target": target.map(Target::shown),
            "met": target.map(|target| target.is_met(ratio)),
        }));
    }

    /// Something worth knowing beside the figures.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// As a table, or with `--json` as one line.
    pub(crate) fn print(&self) {
        if self.flags.has("--json") {
            let quick = self.flags.quick();
            println!("{}", json!({ "bench": self.bench, "quick": quick, "rows": self.rows, "notes": self.notes }));
            return;
        }
        println!("| {} | Inroad | floor | ratio (quartiles) | target | |", self.bench);
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

/// A number with about four digits that count.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The processor time that this process has used so far, in seconds: what others on the machine do does not count.
pub(crate) fn cpu_seconds() -> f64 {
    // Clock ticks of 10 ms, after the name in brackets, which may hold blanks.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The runtime that everything of a bench runs in, client, server and floor alike.
pub(crate) fn runtime() -> Fallible<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
