//! The experiment that a log is replayed through: declared as the log and the flags say, or found, checked and gone on
//! with.

use std::time::Duration;

use anyhow::bail;
use inroad_assignment::definition::{Direction, Lifetime};
use inroad_assignment::document::{ClockDoc, MetricDoc, PolicyDoc, VariationDoc};
use inroad_assignment::{DefinitionDoc, MetricKind, Payload, ThompsonSettings, Timestamp};
use inroad_wire::definition_to_wire;
use inroad_wire::v1::{CreateExperimentRequest, Experiment, StartExperimentRequest, State};

use super::{PolicyArgs, ReplayArgs};
use crate::apply::find;
use crate::connect::Connection;
use crate::diff::diff;
use crate::failure::usage;
use crate::parse::slug;
use crate::trial::Log;
use crate::views;

impl PolicyArgs {
    /// The settings, with defaults for what was not given.
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

    /// The names of those that were given.
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

/// The experiment as the log and the flags declare it.
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

/// The running experiment, and whether it is this call that made it.
pub(super) async fn running(
    connection: &Connection,
    doc: &DefinitionDoc,
    args: &ReplayArgs,
) -> anyhow::Result<(Experiment, bool)> {
    let mut experiments = connection.experiments();
    let (found, made) = match find(connection, &doc.key).await? {
        Some(found) => {
            check(&found, doc, args)?;
            (found, false)
        }
        None => {
            let request = CreateExperimentRequest { experiment: Some(definition_to_wire(doc)), validate_only: false };
            (experiments.create_experiment(request).await?.into_inner(), true)
        }
    };
    match State::try_from(found.state) {
        Ok(State::Running) => Ok((found, made)),
        Ok(State::Draft) => {
            let request = StartExperimentRequest { key: doc.key.clone(), etag: String::new() };
            Ok((experiments.start_experiment(request).await?.into_inner(), made))
        }
        _ => bail!(
            "experiment {} is {}: resume or restart it, or replay under another --experiment",
            doc.key,
            views::state_name(found.state)
        ),
    }
}

/// Whether an experiment that is there can take this log: what was asked for must be what it has.
fn check(found: &Experiment, doc: &DefinitionDoc, args: &ReplayArgs) -> anyhow::Result<()> {
    let other = |what: String| {
        Err(usage(format!("experiment {} is there, and {what}: replay under another --experiment", doc.key)))
    };
    let stands = views::declared(found)?;
    if !matches!(stands.clock, ClockDoc::Manual { .. }) {
        return other("lives by the wall's clock; a replay needs a manual one".to_owned());
    }
    let keys = |doc: &DefinitionDoc| doc.variations.iter().map(|v| v.key.clone()).collect::<Vec<_>>();
    let (mut has, mut wants) = (keys(&stands), keys(doc));
    if has.first() != wants.first() || {
        has.sort();
        wants.sort();
        has != wants
    } {
        return other(format!(
            "has the variations {}, where the log has {}",
            keys(&stands).join(", "),
            keys(doc).join(", ")
        ));
    }
    let decides = stands.metrics.iter().find(|m| m.decision);
    let first = doc.metrics.first().map(|m| m.event.as_str());
    if decides.map(|m| m.event.as_str()) != first {
        return other(format!("is not decided by event {:?}", first.unwrap_or_default()));
    }
    let salt = if found.generation_salt.is_empty() { &found.salt } else { &found.generation_salt };
    if args.salt.as_ref().is_some_and(|wanted| wanted != salt) {
        return other(format!("has the salt {salt}"));
    }
    let (has, wants) = (serde_json::to_value(&stands.policy)?, serde_json::to_value(&doc.policy)?);
    let differs = diff(Some(&has), Some(&wants)).into_iter().find(|c| args.policy.given().contains(&c.field.as_str()));
    match differs {
        None => Ok(()),
        Some(change) => other(format!("has another policy ({change}); leave the flag out")),
    }
}

/// The calendar tick that an experiment lives by.
pub(super) fn tick(experiment: &Experiment) -> anyhow::Result<Duration> {
    Ok(match views::declared(experiment)?.policy {
        PolicyDoc::Manual { tick, .. } => tick,
        PolicyDoc::Thompson(settings) => settings.tick,
    })
}
