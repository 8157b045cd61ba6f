//! The command without a process: equal results from both formats, and error messages.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: CounterfactualArgs,
}

/// 1,500 customers in three arms; arm and visit depend on hashes of the row number.
struct Trial {
    arms: Vec<&'static str>,
    visits: Vec<i64>,
    spends: Vec<f64>,
    times: Vec<i64>,
}

fn trial() -> Trial {
    let rows = 0..1500_u64;
    // The mixing function of SplitMix64, so that neighbouring rows are unrelated.
    let mixed = |i: u64| {
        let x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let arm = |i: u64| mixed(i) as usize % 3;
    let visit = |i: u64| (mixed(i) >> 32) % 100 < [10, 30, 15][arm(i)];
    Trial {
        arms: rows.clone().map(|i| ["No E-Mail", "Womens E-Mail", "Mens E-Mail"][arm(i)]).collect(),
        visits: rows.clone().map(|i| i64::from(visit(i))).collect(),
        spends: rows.clone().map(|i| if visit(i) { 9.5 + i as f64 / 7.0 } else { 0.0 }).collect(),
        // Fifty rows per day from 2026-01-01.
        times: rows.map(|i| 1_767_225_600_000_000 + i as i64 * 1_728_000_000).collect(),
    }
}

fn write_csv(folder: &Path) -> PathBuf {
    let trial = trial();
    let mut text = "ignored,segment,visit,spend,p,when\n".to_owned();
    for i in 0..trial.arms.len() {
        let at = crate::output::instant(inroad_assignment::Timestamp::from_micros(trial.times[i]));
        writeln!(text, "x,{},{},{},{},{at}", trial.arms[i], trial.visits[i], trial.spends[i], 1.0 / 3.0).unwrap();
    }
    let path = folder.join("trial.csv");
    std::fs::write(&path, text).unwrap();
    path
}

/// The same rows in two row groups.
fn write_parquet(folder: &Path, compression: Compression) -> PathBuf {
    let trial = trial();
    let column = |name: &str, physical, logical| {
        let column = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        Arc::new(column.with_logical_type(logical).build().unwrap())
    };
    let when = LogicalType::timestamp(true, parquet::basic::TimeUnit::NANOS);
    let fields = vec![
        column("when", Physical::INT64, Some(when)),
        column("p", Physical::DOUBLE, None),
        column("segment", Physical::BYTE_ARRAY, Some(LogicalType::String)),
        column("spend", Physical::DOUBLE, None),
        column("visit", Physical::INT64, None),
    ];
    let schema = Arc::new(Type::group_type_builder("trial").with_fields(fields).build().unwrap());
    let path = folder.join("trial.parquet");
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut file = SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, properties).unwrap();
    for rows in [0..700, 700..1500] {
        let mut group = file.next_row_group().unwrap();
        let nanos: Vec<i64> = trial.times[rows.clone()].iter().map(|micros| micros * 1000).collect();
        let arms: Vec<ByteArray> = trial.arms[rows.clone()].iter().map(|arm| ByteArray::from(*arm)).collect();
        let mut place = 0;
        while let Some(mut column) = group.next_column().unwrap() {
            match place {
                0 => column.typed::<Int64Type>().write_batch(&nanos, None, None),
                1 => column.typed::<DoubleType>().write_batch(&vec![1.0 / 3.0; rows.len()], None, None),
                2 => column.typed::<ByteArrayType>().write_batch(&arms, None, None),
                3 => column.typed::<DoubleType>().write_batch(&trial.spends[rows.clone()], None, None),
                _ => column.typed::<Int64Type>().write_batch(&trial.visits[rows.clone()], None, None),
            }
            .unwrap();
            column.close().unwrap();
            place += 1;
        }
        group.close().unwrap();
    }
    file.close().unwrap();
    path
}

fn analysis_of(file: &Path, more: &[&str]) -> anyhow::Result<Analysis> {
    let file = file.to_string_lossy();
    let mut words = vec!["counterfactual", &file];
    words.extend(more);
    analyse(&Line::try_parse_from(words).unwrap().args, Output { json: true })
}

fn json(file: &Path, more: &[&str]) -> String {
    format!("{:#}", report::Report(&analysis_of(file, more).unwrap()).json().unwrap())
}

#[test]
fn csv_and_parquet_with_the_same_rows_give_the_same_json() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write_csv(folder.path());
    let control = ["--control", "No E-Mail"];
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW] {
        let parquet = write_parquet(folder.path(), compression);
        for more in [
            vec!["--propensity", "uniform"],
            vec!["--propensity-column", "p", "--time-column", "when", "--ticks-per-day", "2"],
            vec!["--outcome", "spend", "--propensity-column", "p"],
        ] {
            let more = [control.as_slice(), &more].concat();
            assert_eq!(json(&csv, &more), json(&parquet, &more), "{more:?}");
        }
    }
}

#[test]
fn time_column_and_equal_rows_per_day_give_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write_csv(folder.path());
    let timed = analysis_of(&csv, &["--control", "No E-Mail", "--time-column", "when"]).unwrap();
    let even = analysis_of(&csv, &["--control", "No E-Mail", "--rows-per-day", "50"]).unwrap();
    assert_eq!(timed.result, even.result);
    assert_eq!(timed.result.ticks, 30);
    assert!(timed.result.policies[0].dr.is_none() && timed.result.policies[0].lift.is_some());
}

#[test]
fn table_has_every_policy_and_every_warning() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write_csv(folder.path());
    let text = |more: &[&str]| {
        let more = [&["--control", "No E-Mail"], more].concat();
        report::Report(&analysis_of(&csv, &more).unwrap()).text()
    };
    let plain = text(&[]);
    for word in ["growth", "equal", "unconstrained", "share of no-e-mail", "1,500 rows, 28 updates", "no propensities"]
    {
        assert!(plain.contains(word), "{word}:\n{plain}");
    }
    assert!(!text(&["--propensity", "uniform"]).contains("warning"));
    let more = text(&["--unit-column", "p", "--arms", "No E-Mail,Mens E-Mail,Post,Womens E-Mail"]);
    assert!(more.contains("1 unit in 1,500 rows") && more.contains("no row has post"), "{more}");
    let wrong = text(&["--propensity", "uniform", "--arms", "No E-Mail,Mens E-Mail,Womens E-Mail,Post"]);
    assert!(wrong.contains("times as often as its propensities say"), "{wrong}");
}

#[test]
fn policies_come_from_a_file_with_settings_added() {
    let folder = tempfile::tempdir().unwrap();
    let csv = write_csv(folder.path());
    let file = folder.path().join("policies.toml");
    let text = r#"
        [[policies]]
        name = "careful"
        kind = "growth"
        settings = { floor = 0.3 }

        [[policies]]
        name = "half"
        kind = "fixed"
        shares = [0.5, 0.25, 0.25]
    "#;
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let more = ["--control", "No E-Mail", "--policies-file", file, "--set", "burn_in=0s", "--set", "burn_in_units=10"];
    let found = analysis_of(&csv, &[&more[..], &["--set", "burn_in_conversions=1"]].concat()).unwrap().result;
    assert_eq!(found.policies.iter().map(|p| p.policy.as_str()).collect::<Vec<_>>(), ["careful", "half"]);
    assert!(found.policies[0].revisions > 0 && found.policies[0].shares[0] >= 0.3 - 1e-9, "{found:?}");
    assert_eq!(found.policies[1].shares, [0.5, 0.25, 0.25]);
}

#[test]
fn errors_name_the_valid_values() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, parquet) = (write_csv(folder.path()), write_parquet(folder.path(), Compression::SNAPPY));
    let error_text = |file: &Path, more: &[&str]| {
        let error = analysis_of(file, more).map(|_| ()).unwrap_err();
        (format!("{error:#}"), error.is::<crate::failure::UsageError>())
    };
    let control = |more: &[&'static str]| [&["--control", "No E-Mail"], more].concat();
    for (file, more, expected) in [
        (
            &csv,
            control(&["--outcome", "visits"]),
            "no column \"visits\". Did you mean \"visit\"? The file has ignored, segment, visit, spend, p, when",
        ),
        (
            &parquet,
            control(&["--outcome", "visits"]),
            "no column \"visits\". Did you mean \"visit\"? The file has when, p, segment, spend, visit",
        ),
        (
            &csv,
            control(&["--propensity-column", "spend"]),
            "row 1: spend is 9.5, but a propensity is above 0 and at most 1",
        ),
        (&parquet, control(&["--propensity-column", "spend"]), "row 1: spend is 9.5, but a propensity"),
        (&csv, control(&["--arms", "No E-Mail,Mens E-Mail"]), "the arm \"Womens E-Mail\" is not in --arms, which has"),
        (&csv, vec![], "no arm is named control. Name the control arm with --control; the file has \"Mens E-Mail\""),
        (
            &csv,
            control(&["--policies", "growht"]),
            "there is no policy \"growht\". Did you mean \"growth\"? Use growth, equal or unconstrained",
        ),
        (&csv, control(&["--policies", "fixed"]), "--policies-file"),
        (&csv, control(&["--policies", "equal,equal"]), "another policy has this name"),
        (&csv, control(&["--set", "flor=0.1"]), "unknown field `flor`, expected one of"),
        (&csv, control(&["--set", "flor=0.1"]), "did you mean `floor`?"),
        (&csv, control(&["--set", "tick=6h"]), "--ticks-per-day"),
        (&csv, control(&["--ticks-per-day", "5"]), "use 1, 2, 3, 4, 6, 8, 12 or 24"),
        (&csv, control(&["--salt", "a b"]), "--salt"),
    ] {
        let (message, is_usage_error) = error_text(file, &more);
        assert!(message.contains(expected) && is_usage_error, "{is_usage_error} {message}");
    }
    let text = folder.path().join("text.parquet");
    std::fs::copy(&csv, &text).unwrap();
    assert!(error_text(&text, &control(&[])).0.contains("this is not a Parquet file"));
    assert!(error_text(&folder.path().join("none.csv"), &control(&[])).0.contains("cannot read"));
    let (message, _) = error_text(&csv, &control(&["--outcome", "ignored"]));
    assert!(message.contains("row 1: ignored is \"x\", which is not a number"), "{message}");
}

#[test]
fn csv_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, to) = (write_csv(folder.path()), folder.path().join("out.csv"));
    let words = ["counterfactual", csv.to_str().unwrap(), "--control", "No E-Mail", "--csv", to.to_str().unwrap()];
    run(&Line::try_parse_from(words).unwrap().args, Output { json: true }).unwrap();
    let text = std::fs::read_to_string(to).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().next().is_some_and(|head| head.contains("share_no-e-mail")), "{text}");
}
