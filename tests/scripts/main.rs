//! Readable test scripts: each describes one rule that users rely on, as commands of the real `inroad` program with their
//! expected output. They double as documentation. `head -qn1 tests/scripts/*/*.script` lists all rules.
//!
//! # How to read a script
//!
//! A script begins with a comment that states its rule. Then commands are followed by `---` and by what they print:
//!
//! ```text
//! # A killed variation serves control at once.
//! > inroad experiment kill button green
//! ---
//! green is killed: its 50.0% of button gets control from now on
//! ```
//!
//! | line | meaning |
//! |---|---|
//! | `> inroad …` | runs the program against a server that was started for this script only; a line that ends with `\` continues |
//! | `!> inroad …` | the same, but the command must fail: prints `Error: exit status N` and the messages |
//! | `[state,arms.green.units] > inroad …` | runs the command with `--json`, and prints only these fields of its output |
//! | `(…)` | a command in parentheses prints nothing |
//! | `file NAME '…'` | writes a file to the script's folder, where `inroad` runs |
//! | `units KEY [from=u1] [to=u200] [as=NAME] [ATTRIBUTE=VALUE…]` | asks which variation each of these units gets, and prints how many get each |
//! | `moved KEY [since=NAME]` | compares the answers of the last `units` with those before it, or with those of the `units` that had `as=NAME` |
//! | `events FILE KEY EVENT VARIATION=N… [from=u1] [to=u200] [value=V] [only=VARIATION]` | writes a file for `inroad record -f`: an exposure of each unit to the variation that it gets now, and an outcome of every Nth unit of a variation |
//! | `md5 TEXT` | prints the MD5 digest of a text, computed by `md5sum` |
//! | `restart-server` | kills the server with SIGKILL, and starts it again on the same data |
//!
//! Blank lines and spaces at the end of a line are left out of the output. A block without output prints `ok`. Commands run
//! as the user ann.
//!
//! Every script checks the central rule in addition to its own: `units` fails, whatever the expected output is, if a unit
//! moved from one variation to another within a run. Control is not a variation in this sense: growth takes units from it,
//! and a kill gives them back to it.
//!
//! Experiments use simulated time and a fixed salt, so that the same units get the same variations in every run. The few
//! parts of the output that differ between runs are replaced by placeholders such as `<time>`: `placeholders.rs` lists all.
//!
//! # How to add a script
//!
//! 1. Write `tests/scripts/FOLDER/NAME.script`: the rule, the commands, and `---` without output after each block.
//! 2. Add its name to the list of scripts in this file. A test fails if a script is not listed.
//! 3. Generate the output, and read it: it must show the rule.
//!
//! # How to generate the expected output
//!
//! ```text
//! UPDATE_GOLDENFILES=1 cargo test -p inroad-tests --test scripts
//! git diff tests/scripts
//! ```
//!
//! This is safe to run after texts have changed. A script is rewritten only if each command still succeeds or fails as the
//! script says, every selected field still exists, no unit moved between variations, and two runs print the same.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test reports a failure by panicking")]

mod assignments;
mod event_file;
#[path = "../e2e/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the end-to-end tests, which need more of it")]
mod harness;
mod json_fields;
mod placeholders;
mod program;
mod runner;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use runner::ScriptRunner;

/// One test for each script: its folder is a module, its name is the function.
macro_rules! scripts {
    ($($folder:ident { $($name:ident,)+ })+) => {
        $(mod $folder {
            $(#[test] fn $name() { super::run_script(stringify!($folder), stringify!($name)); })+
        })+

        const LISTED: &[(&str, &str)] = &[$($((stringify!($folder), stringify!($name)),)+)+];
    };
}

scripts! {
    assignment {
        draft_gives_control,
        point_is_an_md5_digest,
        same_unit_gets_same_variation,
        sdk_and_server_give_same_answer,
        unit_can_be_an_account,
        unknown_experiment_is_an_error_with_the_default,
        variation_comes_with_its_payload,
        unit_cannot_have_attributes_of_its_own,
    }
    audience {
        audience_compares_versions_times_and_patterns,
        audiences_of_many_files_are_reported,
        expression_can_be_tried_without_an_experiment,
        report_on_many_audiences_is_bounded,
        audience_is_an_expression_over_the_context,
        change_of_audience_moves_no_unit_between_variations,
        missing_and_null_attributes_are_the_same,
        saving_an_audience_warns_and_counts_recent_contexts,
        units_outside_the_audience_get_control,
        narrower_audience_says_who_leaves,
    }
    audit {
        every_change_is_in_the_audit_log,
    }
    errors {
        all_errors_of_a_file_are_listed_at_once,
        invalid_command_lines_exit_with_status_2,
        logs_are_read_in_any_usual_form,
        missing_server_is_reported,
        misspelt_names_get_suggestions,
        unknown_fields_are_refused,
    }
    events {
        acknowledged_events_survive_a_crash,
        assignment_can_record_its_exposure,
        duplicates_count_once,
        forgotten_unit_still_counts,
        good_events_of_a_file_are_accepted,
        only_outcomes_after_the_exposure_count,
        order_of_arrival_does_not_matter,
        outcome_names_units_not_experiments,
        outcome_shortly_before_the_exposure_counts,
        outcome_that_no_experiment_counts_gives_a_warning,
        wrong_exposure_is_refused,
    }
    growth {
        control_keeps_its_minimum_share,
        grow_to_by_or_times,
        growth_takes_units_from_control_only,
        manual_experiment_is_a_feature_flag,
        manual_revision_is_explained,
        new_variation_takes_its_share_from_control,
        revision_takes_effect_for_all_clients_at_once,
        variations_never_shrink,
        edited_share_grows_or_is_refused,
        share_can_grow_to_exactly_the_minimum,
    }
    guardrails {
        guardrail_can_freeze_growth,
        guardrail_can_only_alert,
        guardrail_kills_a_harmful_variation,
    }
    kills {
        control_cannot_be_killed,
        growth_never_takes_points_of_killed_variation,
        kill_that_is_undone_at_once_drops_nothing,
        killed_experiment_gives_control_to_all_units,
        killed_variation_gives_control_at_once,
        killed_variation_is_not_counted_as_seen,
        restored_variation_gets_its_units_back,
        results_of_a_killed_variation_are_kept,
        actions_on_a_killed_experiment_say_that_the_kill_remains,
        sample_ratio_alert_remains_after_a_kill,
        nothing_is_compared_if_all_variations_are_killed,
        kill_or_restore_without_effect_says_so,
        kill_of_the_shipped_variation_asks_first,
    }
    lifecycle {
        applying_a_file_again_changes_nothing,
        archived_experiment_cannot_change,
        changes_after_a_conclusion_say_what_they_do,
        dry_run_changes_nothing,
        pause_keeps_variations_and_stops_recording,
        restart_opens_a_new_run,
        rolling_back_gives_control_to_all_units,
        running_experiment_keeps_its_units_and_variations,
        shipping_gives_one_variation_to_all_units,
        simulated_time_only_goes_forward,
        toml_yaml_and_json_declare_the_same,
        whole_life_of_an_experiment,
        shipping_keeps_to_the_audience,
        shipping_to_everyone_is_a_choice,
    }
    metrics {
        crossover_is_counted_and_left_out_of_estimates,
        funnel_counts_steps_in_order,
        kinds_of_metrics,
        missing_lifts_are_explained,
        results_show_the_primary_metric_first,
        sample_ratio_mismatch_raises_an_alert,
    }
    overrides {
        first_matching_override_wins,
        kill_is_stronger_than_an_override,
        override_always_gives_its_variation,
    }
    policy {
        people_can_grow_what_the_policy_grows,
        policy_grows_the_best_variation,
        policy_waits_for_enough_data,
        shadow_policy_changes_nothing,
    }
}

fn scripts_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

fn script_path(folder: &str, name: &str) -> PathBuf {
    scripts_folder().join(folder).join(format!("{name}.script"))
}

/// Runs a script and compares its output with the expected one. With `UPDATE_GOLDENFILES=1`, replaces the expected output.
fn run_script(folder: &str, name: &str) {
    let path = script_path(folder, name);
    if !std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        return goldenscript::run(&mut ScriptRunner::start(), &path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let script = std::fs::read_to_string(&path).expect("the script can be read");
    let output = || {
        let output = goldenscript::generate(&mut ScriptRunner::start(), &script);
        output.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (first, second) = (output(), output());
    if let Some((one, other)) = first.lines().zip(second.lines()).find(|(one, other)| one != other) {
        panic!("{}: two runs differ, nothing was written:\n  {one}\n  {other}", path.display());
    }
    assert_eq!(first, second, "two runs differ, nothing was written");
    if first != script {
        std::fs::write(&path, first).expect("the script can be written");
    }
}

/// The scripts on disk, as (folder, name).
fn scripts_on_disk() -> BTreeSet<(String, String)> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("the folder can be read");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    let text = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).expect("a UTF-8 name").to_owned();
    let (sources, folders): (Vec<_>, Vec<_>) =
        entries(&scripts_folder()).into_iter().partition(|path| path.extension().is_some_and(|e| e == "rs"));
    let files = folders.into_iter().flat_map(|folder| {
        assert!(folder.is_dir(), "{} must be in a folder for its subject", folder.display());
        entries(&folder)
    });
    assert!(!sources.is_empty(), "the folder is found");
    let script = |path: PathBuf| {
        assert!(path.extension().is_some_and(|e| e == "script"), "{} is not named NAME.script", path.display());
        (text(path.parent().and_then(Path::file_name)), text(path.file_stem()))
    };
    files.map(script).collect()
}

#[test]
fn every_script_is_listed() {
    let listed: BTreeSet<_> = LISTED.iter().map(|(folder, name)| ((*folder).to_owned(), (*name).to_owned())).collect();
    let on_disk = scripts_on_disk();
    let missing: Vec<_> = on_disk.difference(&listed).collect();
    assert!(missing.is_empty(), "add these to the list of scripts in tests/scripts/main.rs: {missing:?}");
}

#[test]
fn every_script_begins_with_the_rule_that_it_shows() {
    for (folder, name) in scripts_on_disk() {
        let script = std::fs::read_to_string(script_path(&folder, &name)).expect("the script can be read");
        let comment: Vec<&str> = script.lines().map_while(|line| line.strip_prefix("# ")).collect();
        assert!(
            comment.first().is_some_and(|line| line.ends_with('.')),
            "{folder}/{name}: the first line is one sentence"
        );
    }
}
