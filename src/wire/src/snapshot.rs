//! Snapshots of experiments. Reading one is the gate of every client that decides by itself: nothing is believed,
//! everything is checked as if it had been typed in.

use std::sync::Arc;

use inroad_assignment::audience::Audience;
use inroad_assignment::definition::{Override, Pinned};
use inroad_assignment::served::{ServedParts, ServedRevision, ServedVariation};
use inroad_assignment::{Arm, ExperimentKey, Kills, Salt, ServedExperiment, Status, Target, UnitKey, VariationKey};

use crate::error::WireError;
use crate::payload::{payload_from_wire, payload_to_wire};
use crate::reason::{status_from_wire, status_to_wire};
use crate::revision::{allocation_from_wire, allocation_to_wire, arm_from_wire, wire_arm};
use crate::time::{self, timestamp_to_wire};
use crate::v1;

/// An experiment as it is served to clients.
pub fn served_to_wire(experiment: &ServedExperiment) -> v1::ExperimentSnapshot {
    let parts = experiment.parts();
    let shipped = match parts.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => shipped,
        Status::Draft | Status::Running | Status::Paused => Arm::CONTROL,
    };
    let variations = parts.variations.iter().enumerate().map(|(i, v)| v1::VariationSnapshot {
        key: v.key.to_string(),
        payload: Some(payload_to_wire(&v.payload)),
        killed: Arm::new(i).is_some_and(|arm| parts.kills.arm(arm)),
    });
    v1::ExperimentSnapshot {
        key: parts.key.to_string(),
        version: parts.version,
        state: status_to_wire(parts.status).into(),
        generation: parts.generation,
        salt: parts.salt.as_ref().map(Salt::to_string).unwrap_or_default(),
        unit: parts.unit.clone(),
        audience: parts.audience.as_ref().map(|a| a.source().to_owned()).unwrap_or_default(),
        overrides: parts.overrides.iter().map(override_to_wire).collect(),
        variations: variations.collect(),
        killed: parts.kills.everything,
        revisions: parts.revisions.iter().map(revision_to_wire).collect(),
        manual_now: parts.manual_now.map(timestamp_to_wire),
        shipped: wire_arm(shipped),
    }
}

fn override_to_wire(o: &Override) -> v1::OverrideSnapshot {
    let (units, when) = match &o.who {
        Pinned::Units(units) => (units.iter().cloned().collect(), String::new()),
        Pinned::Audience(audience) => (Vec::new(), audience.source().to_owned()),
    };
    v1::OverrideSnapshot { units, when, variation: wire_arm(o.arm) }
}

fn revision_to_wire(revision: &ServedRevision) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        effective_at: Some(timestamp_to_wire(revision.effective_at)),
        buckets: allocation_to_wire(&revision.allocation),
        created_at: None,
        cause: String::new(),
        has_decision: false,
    }
}

/// An experiment that was sent, checked whole. Whether it may take the place of the one that is known is for
/// [`ServedExperiment::check_follows`] to say.
///
/// # Errors
/// Anything in it that the server's own checks would not let pass.
pub fn served_from_wire(sent: v1::ExperimentSnapshot) -> Result<ServedExperiment, WireError> {
    let key = ExperimentKey::try_from(sent.key).map_err(|e| WireError::field("key", e))?;
    let shipped = arm_from_wire(sent.shipped, || "shipped".to_owned())?;
    let status = status_from_wire(sent.state, shipped)?;
    let salt = match sent.salt.as_str() {
        "" => None,
        _ => Some(Salt::try_from(sent.salt).map_err(|e| WireError::field("salt", e))?),
    };
    check_generation(status, sent.generation, salt.is_some())?;
    if !(1..=128).contains(&sent.unit.len()) {
        return Err(WireError::field("unit", "name a context attribute, 1 to 128 bytes"));
    }
    let (variations, kills) = variations_from_wire(sent.variations, sent.killed)?;
    let overrides = sent.overrides.into_iter().enumerate();
    let overrides = overrides.map(|(i, o)| override_from_wire(o).map_err(|e| e.within(&format!("overrides[{i}]"))));
    let revisions = sent.revisions.iter().enumerate();
    let revisions = revisions.map(|(i, r)| revision_from_wire(r).map_err(|e| e.within(&format!("revisions[{i}]"))));
    let parts = ServedParts {
        key,
        version: sent.version,
        status,
        generation: sent.generation,
        salt,
        unit: sent.unit,
        audience: audience_from_wire(&sent.audience).map_err(|e| e.within("audience"))?,
        overrides: overrides.collect::<Result<_, _>>()?,
        variations,
        kills,
        revisions: revisions.collect::<Result<_, _>>()?,
        manual_now: time::optional(sent.manual_now.as_ref(), "manual_now")?,
    };
    Ok(ServedExperiment::new(parts)?)
}

/// An experiment that runs, or ran, has a generation with a salt; a draft has neither.
fn check_generation(status: Status, generation: u32, has_salt: bool) -> Result<(), WireError> {
    let started = generation > 0;
    if started != has_salt {
        return Err(WireError::field("salt", "a salt and a generation come together, from the first start on"));
    }
    match status {
        Status::Draft if started => Err(WireError::field("generation", "a draft has none: send 0")),
        Status::Running | Status::Paused | Status::Concluded { .. } if !started => {
            Err(WireError::field("generation", "an experiment that has started has one: send it, from 1"))
        }
        _ => Ok(()),
    }
}

fn variations_from_wire(
    sent: Vec<v1::VariationSnapshot>,
    everything: bool,
) -> Result<(Vec<ServedVariation>, Kills), WireError> {
    let mut kills = Kills::default().with(Target::Everything, everything);
    let mut variations: Vec<ServedVariation> = Vec::with_capacity(sent.len().min(1 + Arm::MAX_TREATED));
    for (i, v) in sent.into_iter().enumerate() {
        let at = |field: &str| format!("variations[{i}].{field}");
        let Some(arm) = Arm::new(i) else {
            return Err(WireError::TooMuch {
                field: "variations".to_owned(),
                what: "has too many beside control",
                max: Arm::MAX_TREATED,
                remedy: "split the experiment",
            });
        };
        let key = VariationKey::try_from(v.key).map_err(|e| WireError::field(at("key"), e))?;
        // There are 65 at the most: looking at each costs less than keeping them in order would.
        if variations.iter().any(|other| other.key == key) {
            return Err(WireError::field(at("key"), format!("{key} is there twice: name each once")));
        }
        let payload = v.payload.ok_or_else(|| WireError::field(at("payload"), "it is missing: give one"))?;
        let payload = payload_from_wire(payload).map_err(|e| e.within(&at("payload")))?;
        if variations.first().is_some_and(|control| control.payload.kind() != payload.kind()) {
            let message = "all payloads of an experiment have one type, that of control's";
            return Err(WireError::field(at("payload"), message));
        }
        if v.killed && arm.is_control() {
            return Err(WireError::field(at("killed"), "control cannot be killed: it is what a kill falls back to"));
        }
        kills = kills.with(Target::Variation(arm), v.killed);
        variations.push(ServedVariation { key, payload });
    }
    Ok((variations, kills))
}

fn audience_from_wire(text: &str) -> Result<Option<Audience>, WireError> {
    match text {
        "" => Ok(None),
        text => Audience::parse(text).map(Some).map_err(|e| WireError::field("", e)),
    }
}

fn override_from_wire(sent: v1::OverrideSnapshot) -> Result<Override, WireError> {
    let arm = arm_from_wire(sent.variation, || "variation".to_owned())?;
    let audience = audience_from_wire(&sent.when).map_err(|e| e.within("when"))?;
    let who = match (sent.units.is_empty(), audience) {
        (false, None) => {
            for (i, unit) in sent.units.iter().enumerate() {
                UnitKey::parse(unit).map_err(|e| WireError::field(format!("units[{i}]"), e))?;
            }
            Pinned::Units(sent.units.into_iter().collect())
        }
        (true, Some(audience)) => Pinned::Audience(audience),
        _ => return Err(WireError::field("units", "give either units or when")),
    };
    Ok(Override { who, arm })
}

fn revision_from_wire(sent: &v1::Revision) -> Result<ServedRevision, WireError> {
    if sent.number == 0 {
        return Err(WireError::field("number", "revisions are numbered from 1"));
    }
    let effective_at = time::optional(sent.effective_at.as_ref(), "effective_at")?;
    let effective_at =
        effective_at.ok_or_else(|| WireError::field("effective_at", "it is missing: give an instant"))?;
    let allocation = Arc::new(allocation_from_wire(&sent.buckets)?);
    Ok(ServedRevision { number: sent.number, effective_at, allocation })
}
