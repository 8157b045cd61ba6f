//! Logs with every way of writing that people use, and the messages for what cannot be read.

use super::*;

const CELLS: CellArgs = CellArgs { empty_outcome: EmptyOutcome::Exclude, decimal_comma: false };
const ZERO: CellArgs = CellArgs { empty_outcome: EmptyOutcome::Zero, ..CELLS };

const TRIAL: &str = "id,when,segment,visit,spend\n\
    a,2026-01-02,Mens E-Mail,1,9.5\n\
    b,2026-01-01,No E-Mail,0,0\n\
    c,2026-01-03,Womens E-Mail,0,\n";

fn columns<'a>(outcomes: &'a [String], control: Option<&'a str>) -> Columns<'a> {
    Columns { arm: "segment", control, arms: None, outcomes, unit: None, time: None, propensity: None, cells: ZERO }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn control_is_first_and_other_arms_are_sorted_by_key() {
    let outcomes = names(&["visit", "spend"]);
    let log = Log::parse(TRIAL.as_bytes(), &columns(&outcomes, Some("No E-Mail"))).unwrap();
    let keys: Vec<&str> = log.arms.iter().map(|arm| arm.key.as_str()).collect();
    assert_eq!(keys, ["no-e-mail", "mens-e-mail", "womens-e-mail"]);
    assert_eq!(log.rows.iter().map(|row| row.arm).collect::<Vec<_>>(), [1, 0, 2]);
    assert_eq!(log.binary, [true, false]);
    assert_eq!(*log.rows[0].values, [1.0, 9.5]);
    assert_eq!(log.rows[2].unit_key(), "3");
    assert_eq!(log.tallies()[1], Tally { rows: 1, converted: 1 });
}

#[test]
fn declared_arms_keep_their_order_after_control() {
    let outcomes = names(&["visit"]);
    let arms = names(&["Womens E-Mail", "Post", "No E-Mail", "Mens E-Mail"]);
    let declared = Columns { arms: Some(&arms), ..columns(&outcomes, Some("No E-Mail")) };
    let log = Log::parse(TRIAL.as_bytes(), &declared).unwrap();
    let labels: Vec<&str> = log.arms.iter().map(|arm| arm.label.as_str()).collect();
    assert_eq!(labels, ["No E-Mail", "Womens E-Mail", "Post", "Mens E-Mail"]);
    assert_eq!(log.rows.iter().map(|row| row.arm).collect::<Vec<_>>(), [3, 0, 1]);
}

#[test]
fn time_column_sets_the_order_of_rows() {
    let outcomes = names(&["visit"]);
    let with = Columns { time: Some("when"), unit: Some("id"), ..columns(&outcomes, Some("No E-Mail")) };
    let log = Log::parse(TRIAL.as_bytes(), &with).unwrap();
    assert_eq!(log.rows.iter().map(Row::unit_key).collect::<Vec<_>>(), ["b", "a", "c"]);
}

#[test]
fn errors_name_the_valid_values() {
    let visit = names(&["visit"]);
    let error_text = |columns: &Columns<'_>| format!("{:#}", Log::parse(TRIAL.as_bytes(), columns).unwrap_err());
    assert!(error_text(&columns(&visit, None)).contains("--control; the file has \"Mens E-Mail\""));
    assert!(error_text(&columns(&visit, Some("no e-mail"))).contains("Did you mean \"No E-Mail\"?"));
    assert!(error_text(&columns(&names(&["visits"]), Some("No E-Mail"))).contains("The file has id, when, segment"));
    let spend = names(&["spend"]);
    let log = Log::parse(TRIAL.as_bytes(), &columns(&spend, Some("No E-Mail"))).unwrap();
    assert!(log.check_first_outcome_is_conversion().unwrap_err().to_string().contains("0/1"));
    let known = Columns { propensity: Some("spend"), ..columns(&visit, Some("No E-Mail")) };
    assert!(error_text(&known).contains("row 1: spend is 9.5, but a propensity is above 0 and at most 1"));
    let two = names(&["No E-Mail", "Mens E-Mail"]);
    let declared = Columns { arms: Some(&two), ..columns(&visit, Some("No E-Mail")) };
    assert!(error_text(&declared).contains("row 3: the arm \"Womens E-Mail\" is not in --arms, which has No E-Mail"));
    assert!(error_text(&columns(&names(&["when"]), Some("No E-Mail"))).contains("row 1: when is \"2026-01-02\""));
}

#[test]
fn labels_with_the_same_key_are_refused() {
    let visit = names(&["visit"]);
    let text = "segment,visit\nControl,0\nA b,1\na-b,0\n";
    let error = format!("{:#}", Log::parse(text.as_bytes(), &columns(&visit, None)).unwrap_err());
    assert!(error.contains("would both be variation a-b"), "{error}");
}

/// 600 customers in random order: two arms, 10% convert. `cell` writes the outcome of a row.
fn log_text(order: impl Fn(&mut Vec<(usize, bool)>), cell: impl Fn(usize, bool) -> String) -> String {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let mut rows: Vec<(usize, bool)> = (0..600).map(|_| (rng.random_range(0..2), rng.random_bool(0.1))).collect();
    order(&mut rows);
    let line = |(i, (arm, converted)): (usize, &(usize, bool))| {
        format!("u{i},{},{}\n", ["control", "green"][*arm], cell(i, *converted))
    };
    "who,shown,bought\n".to_owned() + &rows.iter().enumerate().map(line).collect::<String>()
}

/// Reads such a log.
fn read_log(text: &str, cells: CellArgs) -> anyhow::Result<Log> {
    let outcomes = names(&["bought"]);
    let all = Columns { arm: "shown", unit: Some("who"), cells, ..columns(&outcomes, None) };
    Log::parse(text.as_bytes(), &all)
}

fn digit(_: usize, converted: bool) -> String {
    u8::from(converted).to_string()
}

#[test]
fn log_in_random_order_has_no_findings() {
    let log = read_log(&log_text(|_| {}, digit), CELLS).unwrap();
    assert_eq!((log.rows.len(), log.findings), (600, Findings::default()));
}

#[test]
fn words_for_yes_and_no_are_read_and_reported_once() {
    let plain = read_log(&log_text(|_| {}, digit), CELLS).unwrap();
    for (yes, no) in [("TRUE", "FALSE"), ("yes", "No"), ("t", "f")] {
        let words = |_: usize, converted: bool| (if converted { yes } else { no }).to_owned();
        let log = read_log(&log_text(|_| {}, words), CELLS).unwrap();
        assert_eq!((&log.rows, &log.binary), (&plain.rows, &plain.binary));
        assert_eq!(log.findings.notes, ["bought: true or yes is read as 1, false or no as 0 (600 rows)"]);
        assert!(log.findings.warnings.is_empty());
    }
}

#[test]
fn row_with_an_empty_outcome_is_left_out_or_0_as_declared() {
    let gaps = |i: usize, converted: bool| if i % 20 == 3 { "NA".to_owned() } else { digit(i, converted) };
    let text = log_text(|_| {}, gaps);
    let log = read_log(&text, CELLS).unwrap();
    assert_eq!((log.rows.len(), log.findings.excluded), (570, 30));
    assert!(log.rows.iter().all(|row| row.number % 20 != 4));
    let warning = &log.findings.warnings[..];
    assert!(warning.len() == 1 && warning[0].starts_with("30 rows left out because an outcome is empty (bought 30)."));
    let log = read_log(&text, ZERO).unwrap();
    assert_eq!((log.rows.len(), log.findings), (600, Findings::default()));
    let error = read_log(&log_text(|_| {}, |_, _| String::new()), CELLS).unwrap_err().to_string();
    assert!(error.contains("every row has an empty outcome") && error.contains("--empty-outcome zero"), "{error}");
}

#[test]
fn outcomes_that_are_empty_in_one_arm_only_are_reported() {
    let text = log_text(|_| {}, digit).replace("green,0", "green,");
    let warnings = read_log(&text, CELLS).unwrap().findings.warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("differs between the arms (χ² test, p < 0.001)")),
        "{warnings:?}"
    );
}

#[test]
fn row_order_that_predicts_arm_or_outcome_is_reported_with_its_test() {
    let warning = |order: fn(&mut Vec<(usize, bool)>)| {
        let warnings = read_log(&log_text(order, digit), CELLS).unwrap().findings.warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        warnings[0].clone()
    };
    let by_arm = warning(|rows| rows.sort_by_key(|row| row.0));
    assert!(
        by_arm.starts_with("row order predicts the arm (Kruskal–Wallis test of row numbers, p < 0.001)"),
        "{by_arm}"
    );
    assert!(by_arm.contains("--time-column"), "{by_arm}");
    let in_blocks = warning(|rows| rows.chunks_mut(30).for_each(|block| block.sort_by_key(|row| row.0)));
    assert!(in_blocks.starts_with("row order predicts the arm (Wald–Wolfowitz runs test, p < 0.001)"), "{in_blocks}");
    let by_outcome = warning(|rows| rows.sort_by_key(|row| !row.1));
    assert!(by_outcome.starts_with("row order predicts bought (Spearman rank correlation"), "{by_outcome}");
}

#[test]
fn units_with_several_rows_or_arms_are_counted() {
    let text = log_text(|_| {}, digit);
    let text = format!("{text}u0,control,0\nu0,green,0\n");
    let findings = read_log(&text, CELLS).unwrap().findings;
    assert_eq!(findings.repeated, 2);
    assert!(findings.warnings.iter().any(|w| w.starts_with("1 row with a unit that had another arm before")));
}

#[test]
fn cell_that_cannot_be_read_is_refused_with_row_and_cause() {
    let error = |text: &str| format!("{:#}", read_log(text, CELLS).unwrap_err());
    let text = error("who,shown,bought\na,control,0\nb,green,\"9,5\"\n");
    assert!(
        text.starts_with("row 2: bought is \"9,5\", which has a comma.") && text.contains("--decimal-comma"),
        "{text}"
    );
    let text = error("who,shown,bought\na,control,0\nb,,1\n");
    assert!(text.contains("row 2: shown is empty, but each row needs its arm"), "{text}");
    let outcomes = names(&["bought", "bought"]);
    let twice = Columns { arm: "shown", ..columns(&outcomes, None) };
    let text = Log::parse(&b"who,shown,bought\n"[..], &twice).unwrap_err().to_string();
    assert!(text.contains("column \"bought\" is requested twice as an outcome"), "{text}");
}

#[test]
fn arm_that_depends_on_the_time_is_reported() {
    let outcomes = names(&["bought"]);
    let line = |i: usize| format!("{},{},2026-01-{:02}\n", ["control", "green"][i / 100], i % 3 / 2, 1 + i / 10);
    let text = "shown,bought,day\n".to_owned() + &(0..200).map(line).collect::<String>();
    let timed = Columns { arm: "shown", time: Some("day"), ..columns(&outcomes, None) };
    let findings = Log::parse(text.as_bytes(), &timed).unwrap().findings;
    assert!(findings.warnings[0].starts_with("the time predicts the arm (Kruskal–Wallis"), "{findings:?}");
    assert_eq!(findings.notes, ["200 times without a time zone: read as UTC"]);
}

#[test]
fn spaces_around_arms_are_removed_and_reported() {
    let outcomes = names(&["visit"]);
    let text = "segment,visit\ncontrol,1\n green ,0\ngreen,1\n\" control\",0\n";
    let log = Log::parse(text.as_bytes(), &columns(&outcomes, None)).unwrap();
    let keys: Vec<&str> = log.arms.iter().map(|arm| arm.key.as_str()).collect();
    assert_eq!(keys, ["control", "green"]);
    let note = "2 rows with spaces around the arm: they are removed, so \" a \" and \"a\" are one arm";
    assert!(log.findings.notes.iter().any(|found| found == note), "{:?}", log.findings.notes);
}
