//! The experiment that a log is replayed through: created from the log and the flags, or an existing one that matches
//! them.

use std::time::Duration;

use anyhow::bail;
use inroad_assignment::definition::{Direction, Lifetime};
use inroad_assignment::document::{ClockDoc, MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{DefinitionDoc, MetricKind, Payload, ThompsonSettings, Timestamp};
use inroad_wire::definition_to_wire;
use inroad_wire::v1::{CreateExperimentRequest, Experiment, StartExperimentRequest, State};

use super::{PolicyArgs, ReplayArgs};
use crate::connect::Connection;
use crate::diff::diff;
use crate::failure::usage_error;
use crate::lookup::find_experiment;
use crate::parse::slug;
use crate::response_json;
use crate::trial::Log;
use crate::wire_text::state_name;

impl PolicyArgs {
    /// The settings, with defaults for flags that were not given.
    fn settings(&self) -> ThompsonSettings {
        let d = ThompsonSettings::default();
        ThompsonSettings {
            tick: self.tick.unwrap_or(d.tick),
            burn_in: self.burn_in.unwrap_or(d.burn_in),
            burn_in_units: self.burn_in_units.unwrap_or(d.burn_in_units),
            burn_in_conversions: self.burn_in_conversions.unwrap_or(d.burn_in_conversions),
            floor: self.floor.unwrap_or(d.floor),
            daily_cap: self.daily_cap.unwrap_or(d.daily_cap),
            min_step: self.min_step.unwrap_or(d.min_step),
            kill_probability: self.kill_probability.unwrap_or(d.kill_probability),
            ..d
        }
    }

    /// The names of the settings that were given.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("tick", self.tick.is_some()),
            ("burn_in", self.burn_in.is_some()),
            ("burn_in_units", self.burn_in_units.is_some()),
            ("burn_in_conversions", self.burn_in_conversions.is_some()),
            ("floor", self.floor.is_some()),
            ("daily_cap", self.daily_cap.is_some()),
            ("min_step", self.min_step.is_some()),
            ("kill_probability", self.kill_probability.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// The definition of the experiment, from the log and the flags.
pub(super) fn definition(key: &str, log: &Log, args: &ReplayArgs, start: Timestamp) -> DefinitionDoc {
    let variation = |arm: &crate::trial::Arm| VariationDoc {
        key: arm.key.clone(),
        payload: Payload::String(arm.label.clone()),
        description: String::new(),
        share: None,
    };
    let metric = |(i, name): (usize, &String)| MetricDoc {
        key: slug(name),
        event: name.clone(),
        kind: if log.binary.get(i) == Some(&true) {
            MetricKind::Conversion
        } else {
            MetricKind::Mean { cap: args.cap }
        },
        window: args.window,
        direction: Direction::Up,
        decision: i == 0,
        guardrail: None,
    };
    DefinitionDoc {
        key: key.to_owned(),
        description: format!("replay of {}", args.file.file_name().unwrap_or_default().to_string_lossy()),
        owner: String::new(),
        tags: vec!["replay".to_owned()],
        lifetime: Lifetime::Temporary,
        unit: None,
        audience: None,
        salt: args.salt.clone(),
        clock: ClockDoc::Manual { start: Some(start) },
        policy: PolicyDoc::Thompson(args.policy.settings()),
        variations: log.arms.iter().map(variation).collect(),
        overrides: Vec::new(),
        metrics: log.outcomes.iter().enumerate().map(metric).collect(),
    }
}

/// The running experiment, and whether this call created it.
pub(super) async fn ensure_running(
    connection: &Connection,
    doc: &DefinitionDoc,
    args: &ReplayArgs,
) -> anyhow::Result<(Experiment, bool)> {
    let mut experiments = connection.experiments();
    let (found, created) = match find_experiment(connection, &doc.key).await? {
        Some(found) => {
            check_matches(&found, doc, args)?;
            (found, false)
        }
        None => {
            let request = CreateExperimentRequest { experiment: Some(definition_to_wire(doc)), validate_only: false };
            (experiments.create_experiment(request).await?.into_inner(), true)
        }
    };
    match State::try_from(found.state) {
        Ok(State::Running) => Ok((found, created)),
        Ok(State::Draft) => {
            let request = StartExperimentRequest { key: doc.key.clone(), etag: String::new() };
            Ok((experiments.start_experiment(request).await?.into_inner(), created))
        }
        _ => bail!(
            "experiment {} is {}. Resume or restart it, or replay through another --experiment.",
            doc.key,
            state_name(found.state)
        ),
    }
}

/// Checks that an existing experiment has the variations, metric, salt and policy settings of this replay.
fn check_matches(found: &Experiment, doc: &DefinitionDoc, args: &ReplayArgs) -> anyhow::Result<()> {
    let mismatch = |what: String| {
        Err(usage_error(format!("experiment {} exists and {what}. Replay through another --experiment.", doc.key)))
    };
    let existing = response_json::definition_of(found)?;
    if !matches!(existing.clock, ClockDoc::Manual { .. }) {
        return mismatch("uses real time, but a replay needs simulated time".to_owned());
    }
    let keys = |doc: &DefinitionDoc| doc.variations.iter().map(|v| v.key.clone()).collect::<Vec<_>>();
    let (mut has, mut wants) = (keys(&existing), keys(doc));
    if has.first() != wants.first() || {
        has.sort();
        wants.sort();
        has != wants
    } {
        return mismatch(format!(
            "has the variations {}, but the log has {}",
            keys(&existing).join(", "),
            keys(doc).join(", ")
        ));
    }
    let primary = existing.metrics.iter().find(|m| m.decision);
    let first = doc.metrics.first().map(|m| m.event.as_str());
    if primary.map(|m| m.event.as_str()) != first {
        return mismatch(format!("has another primary metric than event {:?}", first.unwrap_or_default()));
    }
    let salt = if found.generation_salt.is_empty() { &found.salt } else { &found.generation_salt };
    if args.salt.as_ref().is_some_and(|wanted| wanted != salt) {
        return mismatch(format!("has the salt {salt}"));
    }
    let (has, wants) = (serde_json::to_value(&existing.policy)?, serde_json::to_value(&doc.policy)?);
    let differs = diff(Some(&has), Some(&wants)).into_iter().find(|c| args.policy.given().contains(&c.field.as_str()));
    match differs {
        None => Ok(()),
        Some(change) => {
            mismatch(format!("has another policy setting ({change}). Omit the flag, or use another experiment"))
        }
    }
}

/// The length of an experiment's ticks.
pub(super) fn tick_length(experiment: &Experiment) -> anyhow::Result<Duration> {
    Ok(match response_json::definition_of(experiment)?.policy {
        PolicyDoc::Manual { tick, .. } => tick,
        PolicyDoc::Thompson(settings) => settings.tick,
    })
}
