//! The policies that a scenario compares, and their settings. The settings of `growth` are read by the same code as the
//! `policy` of a real experiment, so that every setting of the production policy can be simulated.

use std::time::Duration;

use inroad_assignment::ThompsonSettings;
use inroad_assignment::document::PolicyDoc as ProductionDoc;
use serde::{Deserialize, Serialize};

use crate::SimulationError;
use crate::error::check_range;

/// A policy as it is written in TOML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDoc {
    /// Its name in the results, 1 to 64 characters, unique in the scenario.
    pub name: String,
    /// How it allocates traffic.
    pub kind: PolicyKind,
    /// When it ships an arm, which then serves all units.
    #[serde(default)]
    pub ship: ShipRule,
    /// Settings of Thompson sampling, with the keys of an experiment's `policy`. A missing key has its default; the
    /// default of `tick` is the tick of the scenario. `growth` uses all settings, the other kinds use `tau` and
    /// `draws_log2`.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub settings: toml::Table,
    /// For `fixed`: the shares of all arms, which add up to 1. For `growth`: the footholds of all arms except control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Vec<f64>>,
}

/// When a policy ships an arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipRule {
    /// It never ships.
    #[default]
    Never,
    /// As soon as an arm is clearly best: its P(best) and its expected loss reach the default limits of the policy.
    ClearlyBest,
    /// When a person would be prompted to ship: the arm is clearly best and no check advises against it
    /// (docs/statistics.md). If control is clearly best, it is shipped: a roll back.
    Prompted,
}

/// How a policy allocates traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// The production policy: variations grow into control.
    Growth,
    /// All arms have the same share in the whole run.
    Equal,
    /// Each arm has the share given in `shares` in the whole run.
    Fixed,
    /// Unconstrained Thompson sampling, the reference: every tick it sets each share to P(best), and units move freely.
    /// Its earlier name, `thompson`, is still read; in declarations of experiments that name means the growing policy.
    #[serde(alias = "thompson")]
    Unconstrained,
}

impl PolicyKind {
    /// The kinds that need no shares, in the order of the default policies.
    pub const WITHOUT_SHARES: [Self; 3] = [Self::Growth, Self::Equal, Self::Unconstrained];

    /// The name in files, results and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Growth => "growth",
            Self::Equal => "equal",
            Self::Fixed => "fixed",
            Self::Unconstrained => "unconstrained",
        }
    }

    /// The kind with this name, or with the earlier name `thompson`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "thompson" => Some(Self::Unconstrained),
            _ => [Self::Growth, Self::Equal, Self::Fixed, Self::Unconstrained]
                .into_iter()
                .find(|kind| kind.name() == name),
        }
    }
}

impl PolicyDoc {
    /// A policy of this kind with default settings. Its name is that of the kind.
    #[must_use]
    pub fn with_defaults(kind: PolicyKind) -> Self {
        Self { name: kind.name().to_owned(), kind, ship: ShipRule::Never, settings: toml::Table::new(), shares: None }
    }

    /// The policies of a scenario that names none: growth, an equal split, and unconstrained Thompson sampling.
    #[must_use]
    pub fn default_policies() -> Vec<Self> {
        PolicyKind::WITHOUT_SHARES.map(Self::with_defaults).to_vec()
    }
}

/// A policy whose values have been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    /// Its name in the results.
    pub name: String,
    /// How it allocates traffic.
    pub kind: PolicyKind,
    /// When it ships an arm, which then serves all units.
    pub ship: ShipRule,
    /// The settings, defaults included.
    pub settings: ThompsonSettings,
    /// The shares of all arms, or the footholds of all arms except control; see [`PolicyDoc::shares`].
    pub shares: Option<Vec<f64>>,
    /// Ticks of the scenario per tick of the policy, at least 1.
    pub stride: u32,
}

impl PolicySpec {
    /// Whether people are asked to ship under this policy: growth always computes it, other policies only if they ship
    /// when prompted.
    pub(crate) fn asks_to_ship(&self) -> bool {
        self.kind != PolicyKind::Unconstrained
    }

    /// Checks the policies that a scenario with `arms` arms compares.
    pub(crate) fn check_all(docs: &[PolicyDoc], arms: usize, ticks_per_day: u32) -> Result<Vec<Self>, SimulationError> {
        let specs = docs.iter().enumerate().map(|(i, doc)| Self::new(doc, i, arms, ticks_per_day));
        let policies = specs.collect::<Result<Vec<_>, _>>()?;
        for (i, policy) in policies.iter().enumerate() {
            if policies[..i].iter().any(|other| other.name == policy.name) {
                return Err(SimulationError::field(
                    format!("policies[{i}].name"),
                    "another policy has this name. Use another name",
                ));
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
        let settings = read_settings(&doc.settings, tick).map_err(|m| SimulationError::field(at("settings"), m))?;
        let stride = settings.tick.as_secs() / tick.as_secs();
        if settings.tick.is_zero() || settings.tick != tick * u32::try_from(stride).unwrap_or(u32::MAX) {
            let message = "use the tick of the scenario or a multiple of it";
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
                return Err(SimulationError::field(field, "give the share of every arm, control first"));
            }
            (_, None) => return Ok(()),
            (PolicyKind::Fixed, Some(_)) => (arms, 1.0),
            (PolicyKind::Growth, Some(shares)) => (arms - 1, shares.iter().sum()),
            (_, Some(_)) => {
                return Err(SimulationError::field(field, "only policies of kind fixed or growth have shares"));
            }
        };
        let shares = self.shares.as_deref().unwrap_or_default();
        if shares.len() != wanted {
            return Err(SimulationError::field(field, format!("there are {} shares. Give {wanted}", shares.len())));
        }
        shares.iter().try_for_each(|share| check_range(field, *share, 0.0, 1.0))?;
        let sum: f64 = shares.iter().sum();
        check_range(field, sum, 0.0, 1.0 + 1e-9)?;
        if (sum - total).abs() > 1e-9 {
            return Err(SimulationError::field(field, format!("the shares add up to {sum}. They must add up to 1")));
        }
        Ok(())
    }
}

/// The length of a tick.
pub(crate) fn tick_length(ticks_per_day: u32) -> Duration {
    Duration::from_secs(86_400 / u64::from(ticks_per_day.max(1)))
}

/// Reads the settings with the reader of the production policy, so that names and defaults are defined only once.
fn read_settings(table: &toml::Table, tick: Duration) -> Result<ThompsonSettings, String> {
    let mut table = table.clone();
    if let Some(kind) = table.insert("kind".to_owned(), "thompson".into()) {
        return Err(format!("remove kind = {kind}: these are always settings of Thompson sampling"));
    }
    let seconds = format!("{}s", tick.as_secs());
    table.entry("tick").or_insert_with(|| seconds.into());
    let read =
        |table: toml::Table| table.try_into::<ProductionDoc>().map_err(|error| error.to_string().trim_end().to_owned());
    let result = read(table.clone()).map_err(|message| {
        // The error does not name the key. Each key is read alone to find it.
        let is_wrong = |key: &str, value: &toml::Value| {
            let kind = ("kind".to_owned(), "thompson".into());
            read([kind, (key.to_owned(), value.clone())].into_iter().collect()).is_err()
        };
        let wrong = table.iter().find(|(key, value)| *key != "kind" && is_wrong(key, value));
        wrong.filter(|(key, _)| !message.contains(*key)).map_or(message.clone(), |(key, _)| format!("{key}: {message}"))
    });
    match result? {
        ProductionDoc::Thompson(settings) => Ok(settings),
        ProductionDoc::Manual { .. } => Err("these are not settings of Thompson sampling".to_owned()),
    }
}
