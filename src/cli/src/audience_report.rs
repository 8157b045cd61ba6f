//! The report on an audience that was saved or checked: facts on standard output, warnings on standard error.

use inroad_wire::audience_report::describe_audience;
use inroad_wire::v1::AudienceReport;
use serde_json::{Value, json};

use crate::output::Output;

/// Prints the report on the audience of an experiment. Warnings go to standard error, also under `--json`.
pub(crate) fn print(report: &AudienceReport, key: &str, out: Output) -> std::io::Result<()> {
    for fact in describe_audience(report) {
        out.print_text(format!("  audience: {fact}"))?;
    }
    for warning in &report.warnings {
        eprintln!("inroad: warning: {key}: {}: {}", warning.field, warning.message);
    }
    Ok(())
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
