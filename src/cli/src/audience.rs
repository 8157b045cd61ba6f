//! `inroad audience`: tries an audience against the contexts that the server has seen lately. Changes nothing.

use clap::Args;
use inroad_wire::v1::EvaluateAudienceRequest;

use crate::audience_report;
use crate::connect::{Connection, ServerArgs};
use crate::output::Output;

/// The audience to try.
#[derive(Debug, Args)]
pub(crate) struct AudienceArgs {
    /// Expression over the context, such as 'country == "fr" && seats > 2'
    expression: String,
    /// Context attribute that names the unit
    #[arg(long, value_name = "ATTRIBUTE", default_value = "targetingKey")]
    unit: String,
}

/// Prints how many recent contexts match, what they lack, and warnings.
pub(crate) async fn run(args: AudienceArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let request = EvaluateAudienceRequest { audience: args.expression, unit: args.unit.clone() };
    let report = connection.experiments().evaluate_audience(request).await?.into_inner();
    if report.contexts == 0 {
        out.print_text(format!("0 contexts with {} to check: name another unit with --unit", args.unit))?;
    }
    audience_report::print_facts(&report, "", out)?;
    for warning in &report.warnings {
        eprintln!("inroad: warning: {}", warning.message);
    }
    Ok(out.print_json(&audience_report::to_json(Some(&report)))?)
}
