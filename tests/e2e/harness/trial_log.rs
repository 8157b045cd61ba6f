//! A generated log of a randomised trial: an e-mail campaign with three equal arms, with the columns and rates of a
//! well-known public data set.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The arms, and the share of customers who visited the shop.
const ARMS: [(&str, f64); 3] = [("No E-Mail", 0.10617), ("Womens E-Mail", 0.15140), ("Mens E-Mail", 0.18276)];

/// Writes a CSV file with `rows` rows into a folder.
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
        writeln!(text, "{line}").expect("writing to a String never fails");
    }
    let path = folder.join("trial.csv");
    std::fs::write(&path, text).expect("the file can be written");
    path
}
