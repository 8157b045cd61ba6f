//! An assignment computed in this process, with the same SDK that services embed.

use std::time::Duration;

use anyhow::bail;
use inroad_sdk::Client;
use inroad_wire::v1::AssignResponse;
use inroad_wire::{context_from_json, payload_to_wire, reason_to_wire};
use serde_json::{Map, Value};

use crate::connect::ServerArgs;

/// The longest wait for the first snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// The assignment that the server's snapshot gives to the unit in `context`.
pub(crate) async fn assign(
    server: &ServerArgs,
    key: &str,
    context: &Map<String, Value>,
) -> anyhow::Result<AssignResponse> {
    let url = server.url()?;
    let client = Client::builder(&url).client_name("inroad assign --local").build()?;
    if !client.ready(SNAPSHOT_TIMEOUT).await {
        bail!("no snapshot arrived from {url} within {SNAPSHOT_TIMEOUT:?}. Check that the server is running.");
    }
    let decision = client.evaluate(key, &context_from_json(context)?);
    Ok(AssignResponse {
        variation: decision.variation().unwrap_or_default().to_owned(),
        payload: decision.payload().map(payload_to_wire),
        reason: reason_to_wire(decision.reason()).into(),
        generation: decision.generation(),
        revision: decision.revision(),
        point: decision.point().map(|point| point.get()),
        exposure_recorded: false,
    })
}
