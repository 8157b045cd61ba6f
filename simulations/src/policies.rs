//! Policies as data: who moves the boundaries in a run, and by which settings. Growth takes the production policy's own
//! document, so whatever that learns to read is understood here as well.

use std::time::Duration;

use inroad_assignment::ThompsonSettings;
use inroad_assignment::document::PolicyDoc as ProductionDoc;
use serde::{Deserialize, Serialize};

use crate::SimulationError;
use crate::scenario::within;

/// A policy as written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDoc {
    /// What its results are listed under, unique in the scenario.
    pub name: String,
    /// Which policy it is.
    pub kind: PolicyKind,
    /// When an arm gets everything from then on.
    #[serde(default)]
    pub ship: ShipRule,
    /// The settings of Thompson sampling, as an experiment's `policy` has them; what is missing has its default, and
    /// `tick` is the scenario's. Of growth all count, of the others `tau` and `draws_log2`.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub settings: toml::Table,
    /// Of `fixed`, all arms' shares, which add up to 1; of `growth`, the footholds of all arms but control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Vec<f64>>,
}

/// Who ships when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipRule {
    /// Nobody does.
    #[default]
    Never,
    /// Whatever arm is clearly best, at once: its P(best) and its expected loss are as a policy's defaults ask.
    ClearlyBest,
    /// The arm that a person is prompted to ship: when beside that nothing speaks against it (docs/statistics.md). Control,
    /// if that is to be rolled back to.
    Prompted,
}

/// Which policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// The production policy: variations grow by eating control.
    Growth,
    /// All arms have the same share throughout.
    Equal,
    /// Each arm has a share of its own throughout.
    Fixed,
    /// Unconstrained Thompson sampling, the reference: every tick all shares are set anew and units move.
    Thompson,
}

impl PolicyDoc {
    /// A policy of this kind with its defaults, named after it.
    #[must_use]
    pub fn plain(kind: PolicyKind) -> Self {
        let name = match kind {
            PolicyKind::Growth => "growth",
            PolicyKind::Equal => "equal",
            PolicyKind::Fixed => "fixed",
            PolicyKind::Thompson => "thompson",
        };
        Self { name: name.to_owned(), kind, ship: ShipRule::Never, settings: toml::Table::new(), shares: None }
    }

    /// Growth, an equal split, and the reference.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        [PolicyKind::Growth, PolicyKind::Equal, PolicyKind::Thompson].map(Self::plain).to_vec()
    }
}

/// A policy with nothing wrong in it.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    /// What its results are listed under.
    pub name: String,
    /// Which policy it is.
    pub kind: PolicyKind,
    /// When an arm gets everything from then on.
    pub ship: ShipRule,
    /// Settings with every default filled in.
    pub settings: ThompsonSettings,
    /// Shares of all arms, or the footholds of the treated ones; see [`PolicyDoc::shares`].
    pub shares: Option<Vec<f64>>,
    /// Ticks of the world in one of the policy's.
    pub stride: u32,
}

impl PolicySpec {
    /// Checks all policies that are to be compared in a world of so many arms and ticks a day.
    pub(crate) fn all(docs: &[PolicyDoc], arms: usize, ticks_per_day: u32) -> Result<Vec<Self>, SimulationError> {
        let specs = docs.iter().enumerate().map(|(i, doc)| Self::new(doc, i, arms, ticks_per_day));
        let policies = specs.collect::<Result<Vec<_>, _>>()?;
        for (i, policy) in policies.iter().enumerate() {
            if policies[..i].iter().any(|other| other.name == policy.name) {
                return Err(SimulationError::field(format!("policies[{i}].name"), "another policy has this name"));
            }
        }
        Ok(policies)
    }

    fn new(doc: &PolicyDoc, index: usize, arms: usize, ticks_per_day: u32) -> Result<Self, SimulationError> {
        let at = |field: &str| format!("policies[{index}].{field}");
        if doc.name.is_empty() || doc.name.len() > 64 {
            return Err(SimulationError::field(at("name"), "use 1 to 64 characters"));
        }
        let tick = tick_length(ticks_per_day);
        let settings = settings(&doc.settings, tick).map_err(|m| SimulationError::field(at("settings"), m))?;
        let stride = settings.tick.as_secs() / tick.as_secs();
        if settings.tick.is_zero() || settings.tick != tick * u32::try_from(stride).unwrap_or(u32::MAX) {
            let message = "a policy's tick is one or several of the world's";
            return Err(SimulationError::field(at("settings.tick"), message));
        }
        let spec = Self {
            name: doc.name.clone(),
            kind: doc.kind,
            ship: doc.ship,
            settings,
            shares: doc.shares.clone(),
            stride: stride as u32,
        };
        spec.check_shares(&at("shares"), arms)?;
        Ok(spec)
    }

    fn check_shares(&self, field: &str, arms: usize) -> Result<(), SimulationError> {
        let (wanted, total) = match (self.kind, &self.shares) {
            (PolicyKind::Fixed, None) => {
                return Err(SimulationError::field(field, "give the share of each arm, control first"));
            }
            (_, None) => return Ok(()),
            (PolicyKind::Fixed, Some(_)) => (arms, 1.0),
            (PolicyKind::Growth, Some(shares)) => (arms - 1, shares.iter().sum()),
            (_, Some(_)) => return Err(SimulationError::field(field, "only fixed and growth have shares")),
        };
        let shares = self.shares.as_deref().unwrap_or_default();
        if shares.len() != wanted {
            return Err(SimulationError::field(field, format!("{} shares, but {wanted} are needed", shares.len())));
        }
        shares.iter().try_for_each(|share| within(field, *share, 0.0, 1.0))?;
        let sum: f64 = shares.iter().sum();
        within(field, sum, 0.0, 1.0 + 1e-9)?;
        if (sum - total).abs() > 1e-9 {
            return Err(SimulationError::field(field, format!("the shares add up to {sum}, not to 1")));
        }
        Ok(())
    }
}

/// How long a tick lasts of which so many, at least 1, make a day.
pub(crate) fn tick_length(ticks_per_day: u32) -> Duration {
    Duration::from_secs(86_400 / u64::from(ticks_per_day.max(1)))
}

/// The production policy's settings: read by its own reader, so that no name and no default is written down twice.
fn settings(table: &toml::Table, tick: Duration) -> Result<ThompsonSettings, String> {
    let mut table = table.clone();
    if let Some(kind) = table.insert("kind".to_owned(), "thompson".into()) {
        return Err(format!("unknown field `kind` = {kind}"));
    }
    let seconds = format!("{}s", tick.as_secs());
    table.entry("tick").or_insert_with(|| seconds.into());
    match table.try_into::<ProductionDoc>().map_err(|error| error.to_string())? {
        ProductionDoc::Thompson(settings) => Ok(settings),
        ProductionDoc::Manual { .. } => Err("these are no settings of Thompson sampling".to_owned()),
    }
}
