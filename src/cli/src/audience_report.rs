//! The report on an audience that was saved or checked: facts on standard output, warnings on standard error.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use inroad_wire::audience_report::describe_audience;
use inroad_wire::v1::{AppliedExperiment, ApplyExperimentsResponse, AudienceReport};
use serde_json::{Value, json};

use crate::output::{Output, count, plural};

/// The most experiments of one apply whose audiences are printed.
const MAX_PRINTED: usize = 20;

/// Prints the report on the audience of an experiment. Warnings go to standard error, also under `--json`.
pub(crate) fn print(report: &AudienceReport, key: &str, out: Output) -> std::io::Result<()> {
    print_facts(report, "  audience: ", out)?;
    for warning in &report.warnings {
        eprintln!("inroad: warning: {key}: {}: {}", warning.field, warning.message);
    }
    Ok(())
}

/// Prints each fact after a prefix.
pub(crate) fn print_facts(report: &AudienceReport, prefix: &str, out: Output) -> std::io::Result<()> {
    describe_audience(report).iter().try_for_each(|fact| out.print_text(format!("{prefix}{fact}")))
}

/// The indices of the experiments whose audiences are printed: those of started experiments first, then
/// those with warnings.
pub(crate) fn most_important(applied: &[AppliedExperiment]) -> BTreeSet<usize> {
    let mut changed: Vec<(usize, &AppliedExperiment)> =
        applied.iter().enumerate().filter(|(_, one)| changes_audience(one)).collect();
    changed.sort_by_key(|(_, one)| Reverse((!one.audience_change.is_empty(), has_warnings(one))));
    changed.into_iter().take(MAX_PRINTED).map(|(index, _)| index).collect()
}

/// Prints how many audiences were not printed, and why.
pub(crate) fn print_left_out(
    response: &ApplyExperimentsResponse,
    printed: &BTreeSet<usize>,
    out: Output,
) -> std::io::Result<()> {
    let all = response.experiments.iter().enumerate();
    let left_out: Vec<_> =
        all.filter(|(index, one)| changes_audience(one) && !printed.contains(index)).map(|(_, one)| one).collect();
    let number = |is_counted: &dyn Fn(&AppliedExperiment) -> bool| {
        count(left_out.iter().filter(|one| is_counted(one)).count() as u64)
    };
    if !left_out.is_empty() {
        out.print_text(format!(
            "not shown: the audiences of {}, {} of them with warnings and {} of started experiments. Use --json \
             to see all",
            plural(left_out.len() as u64, "more experiment"),
            number(&has_warnings),
            number(&|one| !one.audience_change.is_empty()),
        ))?;
    }
    if response.reports_left_out > 0 {
        eprintln!(
            "inroad: warning: the reports on {} do not fit into the answer of the server. Apply fewer files at once to see \
             them.",
            plural(response.reports_left_out, "audience")
        );
    }
    Ok(())
}

fn changes_audience(applied: &AppliedExperiment) -> bool {
    applied.audience_report.is_some() || !applied.audience_change.is_empty()
}

fn has_warnings(applied: &AppliedExperiment) -> bool {
    applied.audience_report.as_ref().is_some_and(|report| !report.warnings.is_empty())
}

/// The report as JSON; null if there is none.
pub(crate) fn to_json(report: Option<&AudienceReport>) -> Value {
    let Some(report) = report else { return Value::Null };
    let warning = |w: &inroad_wire::v1::AudienceWarning| json!({"field": w.field, "message": w.message});
    let missing = report.missing_attributes.iter().map(|m| (m.attribute.clone(), json!(m.contexts)));
    json!({
        "needed_attributes": report.needed_attributes,
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "contexts": report.contexts,
        "matching_contexts": report.matching_contexts,
        "missing_attributes": missing.collect::<serde_json::Map<_, _>>(),
        "failed_contexts": report.failed_contexts,
        "failure": report.failure,
    })
}

#[cfg(test)]
mod tests {
    use inroad_wire::v1::AudienceWarning;

    use super::*;

    #[test]
    fn audiences_with_units_that_leave_and_with_warnings_come_first() {
        let warnings = vec![AudienceWarning::default()];
        let plain = || AppliedExperiment { audience_report: Some(AudienceReport::default()), ..Default::default() };
        let mut applied: Vec<AppliedExperiment> = (0..30).map(|_| plain()).collect();
        applied[29].audience_change = "Of 2 units, 1 is outside the new audience.".to_owned();
        applied[28].audience_report = Some(AudienceReport { warnings, ..Default::default() });
        applied[0].audience_report = None;
        let expected: BTreeSet<usize> = (1..19).chain([28, 29]).collect();
        assert_eq!(most_important(&applied), expected);
        assert_eq!(most_important(&applied[..1]), BTreeSet::new());
    }
}
