//! The log of a randomised trial, made up: three equal arms of an e-mail campaign, with the shape and the rates of a
//! well known one.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What customers were sent, and how many of them visited the shop.
const ARMS: [(&str, f64); 3] = [("No E-Mail", 0.10617), ("Womens E-Mail", 0.15140), ("Mens E-Mail", 0.18276)];

/// Writes a CSV of so many rows into a folder.
pub(crate) fn write_trial(folder: &Path, rows: usize, seed: u64) -> PathBuf {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::from("recency,history,segment,visit,conversion,spend\n");
    for _ in 0..rows {
        let (segment, rate) = ARMS[rng.random_range(0..ARMS.len())];
        let visit = rng.random_bool(rate);
        let conversion = visit && rng.random_bool(0.06);
        let spend = if conversion { rng.random_range(20.0..300.0) } else { 0.0 };
        let (recency, history) = (rng.random_range(1..=12), rng.random_range(30.0..600.0));
        let line = format!("{recency},{history:.2},{segment},{},{},{spend:.2}", u8::from(visit), u8::from(conversion));
        writeln!(text, "{line}").expect("a String takes it");
    }
    let path = folder.join("trial.csv");
    std::fs::write(&path, text).expect("the folder takes a file");
    path
}
