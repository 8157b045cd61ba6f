//! What a change of the audience does to known units. While an experiment runs, units that leave the audience lose their
//! variation: they are counted by the exposures in the log, which have a part of the context. After a conclusion the change
//! decides who gets the shipped variation: that is counted by the contexts seen lately. What neither knows is reported as
//! unknown, never as zero.

use std::collections::HashMap;
use std::sync::Arc;

use inroad_assignment::audience::Audience;
use inroad_assignment::{Arm, Context, Definition, Experiment, ExperimentKey, Status};
use inroad_dashboard::format::{grouped_count, plural};
use inroad_store::{Event, ExposureEvent, LoggedEvent, Store};
use inroad_wire::context_from_json;

use crate::audience_report::{AudienceReporter, Membership, read_recent};
use crate::error::ServerError;
use crate::shared::SharedState;

/// The most recent events of the log that are looked through.
const MAX_EVENTS: usize = 20_000;

/// The recent exposures of each experiment, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentExposures(HashMap<ExperimentKey, Vec<ExposureEvent>>);

/// The effect of a change of the audience.
#[derive(Debug, Default)]
pub(crate) struct ChangeReport {
    /// Sentences; empty if the audience stays the same.
    pub(crate) text: String,
    /// Whether some unit gets something else, or may get it.
    pub(crate) may_switch_units: bool,
}

/// What the recent exposures tell about a change of the audience, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct AudienceChange {
    /// Units with a stored context.
    known: u64,
    /// Those of them that are in the old audience and not in the new one.
    leaving: u64,
    /// The leaving units that saw a variation other than control.
    losing_variation: u64,
    /// Units whose exposure was stored without a context.
    unknown: u64,
}

/// The effect of a new definition's audience, as sentences; empty if the audience stays the same.
///
/// # Errors
/// If the log cannot be read.
pub(crate) async fn describe_audience_change(
    shared: &SharedState,
    experiment: Arc<Experiment>,
    new: &Definition,
) -> Result<String, ServerError> {
    if !changes_audience(&experiment, new) {
        return Ok(String::new());
    }
    let (exposures, recent) = (RecentExposures::read(&*shared.store).await?, read_recent(shared).await);
    let new = new.clone();
    // Thousands of contexts are parsed and evaluated, which is too slow for an async worker.
    let describe = move |_: &_| Ok(exposures.describe_change(&experiment, &new, &mut recent.into_reporter(1)).text);
    shared.declarations.run(describe).await
}

/// Whether the audience differs from that of an experiment that was started.
pub(crate) fn changes_audience(experiment: &Experiment, new: &Definition) -> bool {
    experiment.generation().is_some() && new.audience() != experiment.definition.audience()
}

impl RecentExposures {
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, ServerError> {
        let after = store.head().saturating_sub(MAX_EVENTS as u64);
        Ok(Self::new(store.read_log(after, MAX_EVENTS).await?))
    }

    fn new(events: Vec<LoggedEvent>) -> Self {
        let mut exposures: HashMap<_, Vec<_>> = HashMap::new();
        for logged in events {
            if let Event::Exposure(exposure) = logged.event {
                exposures.entry(exposure.experiment.clone()).or_default().push(exposure);
            }
        }
        Self(exposures)
    }

    /// The effect of a new definition's audience. Takes long: do not call it from an async task.
    pub(crate) fn describe_change(
        &self,
        experiment: &Experiment,
        new: &Definition,
        reporter: &mut AudienceReporter,
    ) -> ChangeReport {
        if !changes_audience(experiment, new) {
            return ChangeReport::default();
        }
        if let Status::Concluded { shipped } = experiment.status {
            return describe_after_conclusion(experiment, shipped, new, |old, new| {
                reporter.count_membership(experiment.definition.unit(), old, new)
            });
        }
        let Some(audience) = new.audience() else {
            let text =
                "Without an audience, units that were outside it take part from now on. All others keep what they get.";
            return ChangeReport { text: text.to_owned(), may_switch_units: true };
        };
        let exposures = self.0.get(experiment.definition.key()).map_or(&[][..], Vec::as_slice);
        let change = count_change(exposures, experiment, audience);
        ChangeReport {
            text: change.describe(),
            may_switch_units: change.known == 0 || change.unknown + change.losing_variation > 0,
        }
    }
}

/// The effect after a conclusion: it depends on what is served now, not on the allocation before the end.
fn describe_after_conclusion(
    experiment: &Experiment,
    shipped: Arm,
    new: &Definition,
    count: impl FnOnce(Option<&Audience>, Option<&Audience>) -> Membership,
) -> ChangeReport {
    let name = |arm| experiment.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let served = experiment.kills.served_arm(shipped);
    let (variation, control) = (name(served), name(Arm::CONTROL));
    if served.is_control() || !experiment.shipped_within_audience {
        let text = format!(
            "The experiment is concluded and all units get {variation}: this change switches none of them. The new \
             audience applies from the next restart."
        );
        return ChangeReport { text, may_switch_units: false };
    }
    let after = match new.audience() {
        Some(_) => format!("units in the new audience get {variation}, all others get {control}"),
        None => format!("without an audience, all units get {variation}"),
    };
    let Membership { seen, entering, leaving } = count(experiment.definition.audience(), new.audience());
    let numbers = match seen {
        0 => format!(
            "How many units newly get it or lose it cannot be known: no context with {} was seen lately.",
            experiment.definition.unit()
        ),
        _ => format!(
            "Of {} seen lately, {} newly {} {variation}, and {} {} it and {} {control}.",
            plural(seen, "unit"),
            grouped_count(entering),
            if entering == 1 { "gets" } else { "get" },
            grouped_count(leaving),
            if leaving == 1 { "loses" } else { "lose" },
            if leaving == 1 { "gets" } else { "get" },
        ),
    };
    ChangeReport {
        text: format!("The experiment is concluded: {after}. {numbers}"),
        may_switch_units: seen == 0 || entering + leaving > 0,
    }
}

/// Counts each unit once, by its newest exposure in the running generation.
fn count_change(exposures: &[ExposureEvent], experiment: &Experiment, new: &Audience) -> AudienceChange {
    let generation = experiment.generation().map_or(0, |generation| generation.number);
    let of_generation = exposures.iter().filter(|exposure| exposure.generation == generation);
    let units: HashMap<_, _> = of_generation.map(|exposure| (exposure.unit.as_str(), exposure)).collect();
    let mut change = AudienceChange::default();
    for exposure in units.values() {
        let Some(context) = stored_context(&exposure.context) else {
            change.unknown += 1;
            continue;
        };
        change.known += 1;
        let was_in = experiment.definition.audience().is_none_or(|old| old.contains(&context));
        if was_in && !new.contains(&context) {
            change.leaving += 1;
            change.losing_variation += u64::from(!exposure.arm.is_control());
        }
    }
    change
}

fn stored_context(json: &str) -> Option<Context> {
    let fields = serde_json::from_str(json).ok()?;
    context_from_json(&fields).ok()
}

impl AudienceChange {
    fn describe(self) -> String {
        let Self { known, leaving, losing_variation, unknown } = self;
        if known == 0 {
            let why = match unknown {
                0 => "no recent exposure is in the log",
                _ => "the recent exposures have no context",
            };
            return format!(
                "Units of the old audience that are outside the new one get control. How many those are cannot be known: {why}."
            );
        }
        let rest = match unknown {
            0 => String::new(),
            unknown => {
                let units = plural(unknown, "unit");
                format!(" For {units} more it cannot be known, because their exposures have no context.")
            }
        };
        let units = plural(known, "unit");
        if leaving == 0 {
            return format!(
                "Of {units} with a recent exposure and a context, none is outside the new audience: all keep what they get.{rest}"
            );
        }
        format!(
            "Of {units} with a recent exposure and a context, {} outside the new audience: {} their variation and get control.{rest}",
            if leaving == 1 { "1 is".to_owned() } else { format!("{} are", grouped_count(leaving)) },
            if losing_variation == 1 {
                "1 would lose".to_owned()
            } else {
                format!("{} would lose", grouped_count(losing_variation))
            },
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;
    use inroad_assignment::experiment::ShippingScope;
    use inroad_assignment::{DefinitionDoc, Salt, Timestamp};
    use inroad_store::ExposureEvent;

    fn running(audience: &str) -> Experiment {
        let doc = serde_json::json!({
            "key": "k", "audience": audience,
            "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true, "share": 0.5}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(doc.try_into().unwrap(), Timestamp::default());
        experiment.start(Timestamp::default(), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn exposure(unit: &str, arm: usize, generation: u32, context: &str) -> LoggedEvent {
        let event = ExposureEvent {
            experiment: inroad_assignment::ExperimentKey::parse("k").unwrap(),
            generation,
            unit: unit.to_owned(),
            arm: Arm::new(arm).unwrap(),
            revision: 1,
            occurred_at: Timestamp::default(),
            context: context.to_owned(),
        };
        LoggedEvent { seq: 1, received_at: Timestamp::default(), event: Event::Exposure(event) }
    }

    fn count(events: Vec<LoggedEvent>, experiment: &Experiment, new: &Audience) -> AudienceChange {
        let exposures = RecentExposures::new(events);
        let of_experiment = exposures.0.get(experiment.definition.key());
        count_change(of_experiment.map_or(&[][..], Vec::as_slice), experiment, new)
    }

    #[test]
    fn units_that_leave_the_audience_are_counted_by_their_newest_context() {
        let experiment = running(r#"country in ["at", "ch", "li"]"#);
        let new = Audience::parse(r#"country == "at""#).unwrap();
        let events = [
            exposure("a", 1, 1, r#"{"country":"at"}"#),
            exposure("b", 1, 1, r#"{"country":"ch"}"#),
            exposure("c", 0, 1, r#"{"country":"li"}"#),
            exposure("moved", 1, 1, r#"{"country":"ch"}"#),
            exposure("moved", 1, 1, r#"{"country":"at"}"#),
            exposure("earlier run", 1, 2, r#"{"country":"ch"}"#),
            exposure("bare", 1, 1, ""),
        ];
        let change = count(events.to_vec(), &experiment, &new);
        assert_eq!(change, AudienceChange { known: 4, leaving: 2, losing_variation: 1, unknown: 1 });
        assert_eq!(
            change.describe(),
            "Of 4 units with a recent exposure and a context, 2 are outside the new audience: 1 would lose their variation \
             and get control. For 1 unit more it cannot be known, because their exposures have no context."
        );
    }

    #[test]
    fn large_numbers_of_units_have_separators() {
        let change = AudienceChange { known: 12_000, leaving: 4_000, losing_variation: 1_500, unknown: 1_000 };
        assert_eq!(
            change.describe(),
            "Of 12,000 units with a recent exposure and a context, 4,000 are outside the new audience: 1,500 would lose \
             their variation and get control. For 1,000 units more it cannot be known, because their exposures have no \
             context."
        );
    }

    #[test]
    fn unknown_contexts_are_never_reported_as_zero() {
        let experiment = running("true");
        let new = Audience::parse(r#"country == "at""#).unwrap();
        for events in [vec![], vec![exposure("bare", 1, 1, "")]] {
            let text = count(events, &experiment, &new).describe();
            assert!(text.contains("cannot be known") && !text.contains('0'), "{text}");
        }
    }

    #[test]
    fn wider_audience_of_a_running_experiment_takes_nothing() {
        let experiment = running(r#"country == "at""#);
        let new = Audience::parse(r#"country in ["at", "ch"]"#).unwrap();
        let text = count(vec![exposure("a", 1, 1, r#"{"country":"at"}"#)], &experiment, &new).describe();
        assert_eq!(
            text,
            "Of 1 unit with a recent exposure and a context, none is outside the new audience: all keep what they get."
        );
    }

    fn concluded(scope: ShippingScope) -> Experiment {
        let mut experiment = running(r#"country in ["fr", "de"]"#);
        experiment.conclude(Arm::new(1).unwrap(), scope, Timestamp::default()).unwrap();
        experiment
    }

    /// The text about a new audience after a conclusion, if 41 units were seen lately.
    fn text_after_conclusion(experiment: &Experiment, new: Option<&str>, entering: u64, leaving: u64) -> String {
        let doc = serde_json::json!({
            "key": "k", "audience": new,
            "variations": [{"key": "off", "payload": false}, {"key": "on", "payload": true, "share": 0.5}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let Status::Concluded { shipped } = experiment.status else { panic!("not concluded") };
        let seen = Membership { seen: 41, entering, leaving };
        describe_after_conclusion(experiment, shipped, &doc.try_into().unwrap(), |_, _| seen).text
    }

    #[test]
    fn after_a_conclusion_units_are_counted_by_what_they_get_now() {
        let mut experiment = concluded(ShippingScope::Audience);
        assert_eq!(
            text_after_conclusion(&experiment, Some(r#"country in ["fr", "de", "us"]"#), 20, 0),
            "The experiment is concluded: units in the new audience get on, all others get off. Of 41 units seen lately, 20 \
             newly get on, and 0 lose it and get off."
        );
        assert_eq!(
            text_after_conclusion(&experiment, None, 20, 0),
            "The experiment is concluded: without an audience, all units get on. Of 41 units seen lately, 20 newly get on, \
             and 0 lose it and get off."
        );
        let everyone = text_after_conclusion(&concluded(ShippingScope::Everyone), None, 20, 0);
        assert!(everyone.contains("all units get on: this change switches none"), "{everyone}");
        experiment.set_killed(inroad_assignment::KillTarget::Everything, true, Timestamp::default()).unwrap();
        let killed = text_after_conclusion(&experiment, None, 20, 0);
        assert!(killed.contains("all units get off: this change switches none"), "{killed}");
    }
}
