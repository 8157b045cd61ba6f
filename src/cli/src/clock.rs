//! `inroad clock`: shows whether a server trusts its machine's clock, and accepts a jump of it.

use std::time::Duration;

use clap::{Args, Subcommand};
use inroad_wire::v1::{AcceptClockRequest, GetClockRequest};
use serde_json::json;

use crate::connect::{ActorArgs, Connection, ServerArgs};
use crate::output::Output;
use crate::response_json::timestamp_json;
use crate::wire_text::timestamp_text;

/// What to do with the clock.
#[derive(Debug, Args)]
pub(crate) struct ClockArgs {
    #[command(subcommand)]
    action: Option<ClockAction>,
}

#[derive(Debug, Subcommand)]
enum ClockAction {
    /// Accept the new reading of the machine's clock after a jump
    ///
    /// Do this when you know that the clock is right now. Otherwise the server accepts it after 5 minutes without
    /// another jump.
    Accept(ActorArgs),
}

/// Shows the clock, or accepts it.
pub(crate) async fn run(args: ClockArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let (clock, was_accepted) = match args.action {
        None => {
            let connection = Connection::open(server).await?;
            (connection.server().get_clock(GetClockRequest {}).await?.into_inner(), false)
        }
        Some(ClockAction::Accept(actor)) => {
            let connection = Connection::open_as(server, &actor).await?;
            let before = connection.server().get_clock(GetClockRequest {}).await?.into_inner();
            let after = connection.server().accept_clock(AcceptClockRequest {}).await?.into_inner();
            (after, before.jump.is_some())
        }
    };
    let text = match &clock.jump {
        Some(jump) => {
            let ahead = seconds_of(jump.ahead.as_ref());
            let direction = if ahead < 0 { "back" } else { "ahead" };
            format!(
                "the machine's clock jumped {} {direction}, to {}. Inroad's time continues by the steady clock: {}.\n\
                 Assignments, events and kills work as usual; decisions, starts and growth wait for {}, or until \
                 `inroad clock accept`",
                duration_text(ahead.unsigned_abs()),
                timestamp_text(clock.machine.as_ref()),
                timestamp_text(clock.now.as_ref()),
                duration_text(seconds_of(jump.resumes_in.as_ref()).unsigned_abs()),
            )
        }
        None if was_accepted => format!("accepted: the time is {}", timestamp_text(clock.now.as_ref())),
        None => format!("the machine's clock is trusted: the time is {}", timestamp_text(clock.now.as_ref())),
    };
    out.print_text(text)?;
    let jump = clock.jump.map(|jump| {
        let (ahead, resumes_in) = (seconds_of(jump.ahead.as_ref()), seconds_of(jump.resumes_in.as_ref()));
        json!({"ahead_seconds": ahead, "resumes_in_seconds": resumes_in})
    });
    let (now, machine) = (timestamp_json(clock.now.as_ref()), timestamp_json(clock.machine.as_ref()));
    Ok(out.print_json(&json!({"now": now, "machine": machine, "jump": jump, "accepted": was_accepted}))?)
}

/// Whole seconds, negative if the duration is.
fn seconds_of(duration: Option<&prost_types::Duration>) -> i64 {
    duration.map_or(0, |duration| duration.seconds)
}

fn duration_text(seconds: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(seconds))
}
