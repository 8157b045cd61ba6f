//! `inroad forget`: deletes a unit's raw key from the event log.

use clap::Args;
use inroad_wire::v1::ForgetUnitRequest;
use serde_json::json;

use crate::confirm::{ConfirmArgs, confirm};
use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::output::{Output, plural};
use crate::parse::{self, UnitRef};

/// The unit to forget.
#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Unit, as TYPE=KEY; a key without a type is the targeting key
    #[arg(long, value_name = "UNIT", value_parser = parse::unit)]
    unit: UnitRef,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    actor: ActorArgs,
}

/// Deletes the key. No output repeats it.
pub(crate) async fn run(args: ForgetArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open_as(server, &args.actor).await?;
    let UnitRef { kind, key } = args.unit;
    let what = format!(
        "This deletes the raw key of this unit (type {kind}) from every event in the log, permanently. Its counts are kept. \
         Earlier backups still contain the key."
    );
    confirm(args.confirm.yes, &what)?;
    let request = ForgetUnitRequest { unit_type: kind.clone(), unit: key };
    let forgotten = connection.events().forget_unit(request).await?.into_inner();
    let (digest, events, waiting) = (forgotten.digest, forgotten.events, forgotten.waiting);
    let events_text = plural(events, "event");
    let left = match waiting {
        0 => String::new(),
        _ => format!(". {} not counted yet: run the same command again later", plural(waiting, "more event")),
    };
    out.print_text(format!("the key was deleted from {events_text} ({kind}, digest {digest}){left}"))?;
    Ok(out.print_json(&json!({"unit_type": kind, "digest": digest, "events": events, "waiting": waiting}))?)
}
