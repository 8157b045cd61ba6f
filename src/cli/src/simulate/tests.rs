//! The command line selects scenarios and policies, or fails with a message that lists the valid ones.

use std::fs::File;
use std::path::Path;

use clap::Parser;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::*;
use crate::failure::UsageError;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

fn args(words: &[&str]) -> SimulateArgs {
    Line::try_parse_from([&["simulate"], words].concat()).unwrap().args
}

fn selected(words: &[&str]) -> Vec<Scenario> {
    select::scenarios(&args(words)).unwrap()
}

/// The message of an error, which must be a usage error.
fn error_text(words: &[&str]) -> String {
    let error = select::scenarios(&args(words)).unwrap_err();
    assert!(error.is::<UsageError>(), "{error:#} is not a usage error");
    error.to_string()
}

fn policies(scenario: &Scenario) -> Vec<&str> {
    scenario.policies().iter().map(|policy| policy.name.as_str()).collect()
}

#[test]
fn options_override_the_scenario() {
    let scenarios = selected(&["s1", "s2", "--replications", "3", "--seed", "9"]);
    assert_eq!(scenarios.iter().map(|s| s.doc().name.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
    assert!(scenarios.iter().all(|s| (s.doc().replications, s.doc().seed) == (3, 9)));
    assert_eq!(policies(&scenarios[0]), ["growth", "equal", "unconstrained"]);
    let earlier_name = selected(&["s1", "--policies", "thompson,growth"]);
    assert_eq!(policies(&earlier_name[0]), ["unconstrained", "growth"]);
    let ship = selected(&["s1", "--policies", "equal,growth,unconstrained", "--ship"]);
    assert_eq!(policies(&ship[0]), ["equal", "growth", "unconstrained", "equal+ship", "growth+ship"]);
    let set = selected(&["s1", "--set", "floor=0.02", "--set", "burn_in=12h"]);
    let settings = |i: usize| &set[0].policies()[i].settings;
    assert!((settings(0).floor - 0.02).abs() < 1e-12 && settings(0).burn_in.as_secs() == 12 * 3600);
    assert!((settings(1).floor - 0.05).abs() < 1e-12, "equal does not grow, so its floor is not set");
}

#[test]
fn unknown_name_is_answered_with_the_valid_ones() {
    let text = error_text(&["s99"]);
    assert!(text.contains("\"s99\"") && text.contains("s1, s2") && text.contains("revenue"), "{text}");
    let text = error_text(&["s1", "--policies", "groth"]);
    assert!(text.contains("\"groth\"") && text.contains("growth, equal, unconstrained"), "{text}");
    assert!(text.contains("Did you mean \"growth\"?"), "{text}");
    assert!(error_text(&["revenu"]).contains("Did you mean \"revenue\"?"));
    let text = error_text(&["s1", "--set", "flor=0.1"]);
    assert!(text.contains("unknown field `flor`") && text.contains("did you mean `floor`?"), "{text}");
    let text = error_text(&["s1", "--policies", "equal", "--set", "floor=0.1"]);
    assert!(text.contains("--set"), "{text}");
    assert!(error_text(&["nowhere/x.toml"]).contains("cannot read nowhere/x.toml"));
    assert!(error_text(&["s1", "s1"]).contains("another scenario"));
}

#[test]
fn error_in_a_file_names_file_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let good = "name = \"mine\"\nbase = 0.1\nper_day = 100.0\narms = [{ lift = 0.0 }, { lift = 0.1 }]\n";
    assert_eq!(selected(&[&write("good.toml", good)])[0].doc().name, "mine");
    let path = write("lift.toml", &good.replace("0.1 }", "-3.0 }"));
    let text = error_text(&[&path]);
    assert!(text.contains(&path) && text.contains("arms[1].lift"), "{text}");
    let path = write("word.toml", &good.replace("per_day", "perday"));
    let text = error_text(&[&path]);
    assert!(text.contains(&path) && text.contains("perday") && text.contains("line 3"), "{text}");
    assert!(text.contains("did you mean `per_day`?"), "{text}");
}

#[test]
fn printed_command_repeats_the_selection() {
    let words = ["s1", "--replications", "2", "--seed", "7", "--policies", "growth", "--set", "burn_in=12h", "--ship"];
    let command = select::command(&args(&words));
    assert_eq!(
        command,
        "inroad simulate s1 --replications 2 --seed 7 --policies growth --set 'burn_in=\"12h\"' --ship"
    );
    let again = args(&["s1", "--replications", "2", "--set", "burn_in=\"12h\""]);
    assert_eq!(again.set, args(&words).set);
    assert_eq!(select::command(&args(&["it's.toml"])), r"inroad simulate 'it'\''s.toml'");
}

#[test]
fn unwritable_paths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let check = |words: &[&str]| files::check_paths(&args(&[&["s1"], words].concat()));
    assert!(check(&["--report", &inside("r.html"), "--table", &inside("c.csv")]).is_ok());
    let no_folder = check(&["--report", &inside("no/r.html")]).unwrap_err();
    assert!(no_folder.is::<UsageError>() && no_folder.to_string().contains("does not exist"), "{no_folder}");
    assert!(check(&["--table", &inside("")]).unwrap_err().to_string().contains("it is a folder"));
    assert!(check(&["--table", &inside("c"), "--course-table", &inside("c")]).is_err());
}

#[test]
fn simulations_have_a_table_each_and_share_one_csv() {
    let scenarios = selected(&["s1", "aa-revenue", "--replications", "1", "--policies", "equal"]);
    let simulations = simulate(&scenarios, &args(&["s1", "--threads", "1"]), Output { json: true }).unwrap();
    let csv = |table: &Table| String::from_utf8(files::encode_table(Path::new("t.csv"), table).unwrap()).unwrap();
    let policies = csv(&export::summaries(&simulations));
    assert_eq!(policies.matches("scenario,policy").count(), 1);
    assert!(policies.contains("\ns1,equal,") && policies.contains("\naa-revenue,equal,"), "{policies}");
    let runs = csv(&export::runs(&simulations));
    assert_eq!(runs.lines().count(), 3, "{runs}");
    let text = render::text(&simulations);
    assert!(text.contains("s1: S1 classic") && text.matches("\nequal ").count() == 2, "{text}");
    let json = render::json(&simulations, "again").unwrap();
    assert_eq!(json["simulations"][1]["summaries"][0]["policy"], "equal");
    let reference = selected(&["s1", "--replications", "1", "--policies", "unconstrained"]);
    let reference = simulate(&reference, &args(&["s1", "--threads", "1"]), Output { json: true }).unwrap();
    let reference = render::json(&reference, "again").unwrap();
    for field in ["prompted", "false_prompt", "roll_back", "false_roll_back"] {
        assert!(json["simulations"][0]["summaries"][0][field].is_object(), "{field} of an equal split");
        assert!(reference["simulations"][0]["summaries"][0][field].is_null(), "nobody asks the reference: {field}");
    }
    assert!(json["simulations"][0].get("runs").is_none(), "single runs are left out");
}

#[test]
fn csv_and_parquet_have_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let scenarios = selected(&["s1", "s4", "--replications", "2", "--policies", "growth,equal"]);
    let simulations = simulate(&scenarios, &args(&["s1", "--threads", "1"]), Output { json: true }).unwrap();
    for table in [export::summaries(&simulations), export::runs(&simulations), export::course(&simulations)] {
        let path = folder.path().join("t.parquet");
        files::write(&path, &files::encode_table(&path, &table).unwrap()).unwrap();
        let rows = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let mut csv = csv::Writer::from_writer(Vec::new());
        for (i, row) in rows.get_row_iter(None).unwrap().map(Result::unwrap).enumerate() {
            if i == 0 {
                csv.write_record(row.get_column_iter().map(|(name, _)| name)).unwrap();
            }
            let cell = |(_, field): (&String, &Field)| match field {
                Field::Null => String::new(),
                Field::Str(text) => text.clone(),
                Field::Long(count) => count.to_string(),
                Field::Double(number) => number.to_string(),
                Field::Bool(flag) => flag.to_string(),
                other => panic!("{other:?}"),
            };
            csv.write_record(row.get_column_iter().map(cell)).unwrap();
        }
        assert_eq!(csv.into_inner().unwrap(), files::encode_table(Path::new("t.csv"), &table).unwrap());
    }
}
