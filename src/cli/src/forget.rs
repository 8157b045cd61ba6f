//! `inroad forget`: takes a unit's raw key out of the event log.

use clap::Args;
use inroad_wire::v1::ForgetUnitRequest;
use serde_json::json;

use crate::confirm::confirm;
use crate::connect::{Connection, ServerArgs};
use crate::experiment::Sure;
use crate::output::{Output, count};
use crate::parse::{self, UnitRef};

/// Whom to forget.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// The unit, as TYPE=KEY; a bare key is the targeting key
    #[arg(long, value_name = "UNIT", value_parser = parse::unit)]
    unit: UnitRef,
    #[command(flatten)]
    sure: Sure,
}

/// Has it forgotten. Whatever is said of the unit, its key is not repeated.
pub(crate) async fn run(args: ForgetArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let UnitRef { kind, key } = args.unit;
    let what = format!(
        "This takes the raw key of that {kind} out of every event in the log, for good; what was counted of it stays. \
         Copies made before still have it."
    );
    confirm(args.sure.yes, &what)?;
    let request = ForgetUnitRequest { unit_type: kind.clone(), unit: key };
    let forgotten = connection.events().forget_unit(request).await?.into_inner();
    let (digest, events, waiting) = (forgotten.digest, forgotten.events, forgotten.waiting);
    let left = match waiting {
        0 => String::new(),
        _ => format!("; {} more have yet to be read by somebody: repeat this later", count(waiting)),
    };
    out.line(format!("forgotten: {} events no longer have the key of {kind} {digest}{left}", count(events)))?;
    Ok(out.value(&json!({"unit_type": kind, "digest": digest, "events": events, "waiting": waiting}))?)
}
