//! Writes a [`Definition`] as a document. A definition is serialised as its document.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{ClockDoc, DefinitionDoc, MetricDoc, OverrideDoc, PolicyDoc, VariationDoc};
use crate::allocation::Arm;
use crate::definition::{ClockKind, Definition, OverrideTarget};
use crate::settings::Policy;

impl From<Definition> for DefinitionDoc {
    fn from(d: Definition) -> Self {
        let key = |arm: Arm| d.variations.get(arm.index()).map(|v| v.key.to_string()).unwrap_or_default();
        let overrides = d.overrides.iter().map(|o| match &o.target {
            OverrideTarget::Units(units) => {
                OverrideDoc { units: units.iter().cloned().collect(), when: None, variation: key(o.arm) }
            }
            OverrideTarget::Audience(a) => {
                OverrideDoc { units: Vec::new(), when: Some(a.source().to_owned()), variation: key(o.arm) }
            }
        });
        let metrics = d.metrics.iter().enumerate().map(|(i, m)| MetricDoc {
            key: m.key.to_string(),
            event: m.event.clone(),
            kind: m.kind.clone(),
            window: m.window,
            direction: m.direction,
            decision: d.decision_metric == Some(i),
            guardrail: m.guardrail,
        });
        let variations = d.variations.iter().enumerate().map(|(i, v)| VariationDoc {
            key: v.key.to_string(),
            payload: v.payload.clone(),
            description: v.description.clone(),
            share: (i > 0).then(|| v.foothold.share()),
        });
        Self {
            overrides: overrides.collect(),
            metrics: metrics.collect(),
            variations: variations.collect(),
            key: d.key.to_string(),
            description: d.description,
            owner: d.owner,
            tags: d.tags,
            lifetime: d.lifetime,
            unit: Some(d.unit),
            audience: d.audience.map(|a| a.source().to_owned()),
            salt: d.salt.map(|s| s.to_string()),
            clock: match d.clock {
                ClockKind::Wall => ClockDoc::Wall,
                ClockKind::Manual(start) => ClockDoc::Manual { start },
            },
            policy: match d.policy {
                Policy::Manual { floor, tick } => PolicyDoc::Manual { floor: floor.share(), tick },
                Policy::Thompson(settings) => PolicyDoc::Thompson(settings),
            },
        }
    }
}

impl Serialize for Definition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DefinitionDoc::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Definition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(DefinitionDoc::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
