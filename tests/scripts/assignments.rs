//! Asks which variations many units get, and checks that no unit moves from one variation to another.

use std::collections::BTreeMap;
use std::error::Error;

use goldenscript::ArgumentConsumer;
use inroad_wire::v1::{AssignRequest, BatchAssignRequest, ExposureMode, Reason};
use serde_json::{Map, Value};

use crate::harness::Api;

/// The most requests of one batch.
const MAX_BATCH: usize = 1_000;

/// The units `from=u1 to=u200`: the same prefix, and consecutive numbers.
pub(crate) fn units_in_range(args: &mut ArgumentConsumer) -> Result<Vec<String>, Box<dyn Error>> {
    let (from, to) = (args.take_key("from").unwrap_or("u1"), args.take_key("to").unwrap_or("u200"));
    let prefix = from.trim_end_matches(|c: char| c.is_ascii_digit());
    let first: u32 = from[prefix.len()..].parse()?;
    let last: u32 = to.strip_prefix(prefix).ok_or("from and to have different prefixes")?.parse()?;
    Ok((first..=last).map(|number| format!("{prefix}{number}")).collect())
}

/// What a unit gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Empty if the caller's default is used.
    pub(crate) variation: String,
    pub(crate) reason: Reason,
    pub(crate) revision: u32,
}

/// What some units get at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// Variation keys, control first.
    pub(crate) variations: Vec<String>,
    /// The run.
    pub(crate) generation: u32,
    pub(crate) units: Vec<(String, Answer)>,
}

impl Answers {
    /// Asks the server for each unit. Records no exposures.
    pub(crate) async fn ask(
        api: &Api,
        experiment: &str,
        units: &[String],
        attributes: &[(&str, &str)],
    ) -> Result<Self, Box<dyn Error>> {
        let definition = api.get(experiment).await;
        let request = |unit: &String| {
            let attributes = attributes.iter().map(|(name, value)| (*name, *value));
            let fields = attributes.chain([(definition.unit.as_str(), unit.as_str())]);
            let context: Map<String, Value> = fields.map(|(name, value)| (name.to_owned(), value.into())).collect();
            AssignRequest {
                experiment: experiment.to_owned(),
                context: Some(inroad_wire::json_to_struct(&context)),
                exposure: ExposureMode::None.into(),
            }
        };
        let mut answers = Vec::with_capacity(units.len());
        for chunk in units.chunks(MAX_BATCH) {
            let requests = chunk.iter().map(request).collect();
            let responses =
                api.assignments().batch_assign(BatchAssignRequest { requests }).await?.into_inner().responses;
            for (unit, response) in chunk.iter().zip(responses) {
                let (reason, revision) = (response.reason(), response.revision);
                answers.push((unit.clone(), Answer { variation: response.variation, reason, revision }));
            }
        }
        let variations = definition.variations.into_iter().map(|variation| variation.key).collect();
        Ok(Self { variations, generation: definition.generation, units: answers })
    }

    /// `200 units: blue 180, green 20`, and the reasons unless the allocation decided for all units.
    pub(crate) fn summary(&self) -> String {
        let mut counts: Vec<(&str, usize)> = self.variations.iter().map(|key| (key.as_str(), 0)).collect();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, answer) in &self.units {
            if let Some((_, count)) = counts.iter_mut().find(|(key, _)| *key == answer.variation) {
                *count += 1;
            }
            *reasons.entry(answer.reason.as_str_name()).or_default() += 1;
        }
        let listed = |(name, count): (&str, usize)| format!("{name} {count}");
        let counts: Vec<String> = counts.into_iter().map(listed).collect();
        let mut summary = format!("{}: {}", units(self.units.len()), counts.join(", "));
        if reasons.keys().any(|reason| *reason != Reason::Split.as_str_name()) {
            let name = |reason: &str| reason.trim_start_matches("REASON_").to_lowercase();
            let reasons: Vec<String> = reasons.into_iter().map(|(reason, n)| listed((&name(reason), n))).collect();
            summary += &format!("\nreasons: {}", reasons.join(", "));
        }
        summary
    }

    fn is_control(&self, variation: &str) -> bool {
        self.variations.first().is_some_and(|control| control == variation)
    }
}

/// `1 unit`, `2 units`.
fn units(number: usize) -> String {
    format!("{number} unit{}", if number == 1 { "" } else { "s" })
}

/// All answers of a script.
#[derive(Default)]
pub(crate) struct AnswerLog {
    entries: Vec<LogEntry>,
}

struct LogEntry {
    experiment: String,
    name: Option<String>,
    answers: Answers,
}

impl AnswerLog {
    /// Adds answers. Fails if a unit moved from one variation to another within a run.
    pub(crate) fn add(&mut self, experiment: &str, name: Option<&str>, answers: Answers) -> Result<(), String> {
        for earlier in self.entries.iter().filter(|entry| entry.experiment == experiment) {
            let change = changes(&earlier.answers, &answers).into_iter().find(Change::breaks_the_rule);
            if let Some(Change { unit, from, to, .. }) = change {
                return Err(format!(
                    "unit {unit} moved from variation {from} to variation {to}, which must never happen"
                ));
            }
        }
        self.entries.push(LogEntry { experiment: experiment.to_owned(), name: name.map(str::to_owned), answers });
        Ok(())
    }

    /// Compares the last answers with those before them, or with those of a name.
    pub(crate) fn compare(&self, experiment: &str, since: Option<&str>) -> Result<String, Box<dyn Error>> {
        let mut entries = self.entries.iter().rev().filter(|entry| entry.experiment == experiment);
        let now = &entries.next().ok_or("use `units` first")?.answers;
        let earlier = entries.find(|entry| since.is_none() || entry.name.as_deref() == since);
        let earlier = &earlier.ok_or("no earlier `units` to compare with")?.answers;
        let changes = changes(earlier, now);
        if earlier.generation != now.generation {
            // The salt of a new run is drawn at random, and with it the number of units that get another variation.
            let number = if changes.is_empty() { "no unit gets" } else { "some units get" };
            let (from, to) = (earlier.generation, now.generation);
            return Ok(format!("run {to}: {number} another variation than in run {from}"));
        }
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for change in &changes {
            *counts.entry((&change.from, &change.to)).or_default() += 1;
        }
        let named = |key: &str| format!("{key}{}", if now.is_control(key) { " (control)" } else { "" });
        let mut text: String = counts
            .iter()
            .map(|((from, to), n)| format!("{} from {} to {}\n", units(*n), named(from), named(to)))
            .collect();
        text += &format!("{} unchanged\n", units(now.units.len() - changes.len()));
        text += &format!("{} moved between variations", units(changes.iter().filter(|c| c.between_variations).count()));
        Ok(text)
    }
}

/// A unit that gets another variation than earlier.
struct Change {
    unit: String,
    from: String,
    to: String,
    /// Neither is control.
    between_variations: bool,
    /// The allocation decided both times, and within the same run.
    by_allocation: bool,
}

impl Change {
    fn breaks_the_rule(&self) -> bool {
        self.between_variations && self.by_allocation
    }
}

fn changes(earlier: &Answers, now: &Answers) -> Vec<Change> {
    let before: BTreeMap<&str, &Answer> = earlier.units.iter().map(|(unit, answer)| (unit.as_str(), answer)).collect();
    let by_allocation = |answer: &Answer| matches!(answer.reason, Reason::Split | Reason::Paused);
    let change = |(unit, to): &(String, Answer)| {
        let from = before.get(unit.as_str()).filter(|from| from.variation != to.variation)?;
        Some(Change {
            unit: unit.clone(),
            from: from.variation.clone(),
            to: to.variation.clone(),
            between_variations: !now.is_control(&from.variation) && !now.is_control(&to.variation),
            by_allocation: earlier.generation == now.generation && by_allocation(from) && by_allocation(to),
        })
    };
    now.units.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(generation: u32, reason: Reason, variations: &[&str]) -> Answers {
        let answer = |variation: &&str| Answer { variation: (*variation).to_owned(), reason, revision: 1 };
        let units = variations.iter().enumerate().map(|(i, variation)| (format!("u{i}"), answer(variation))).collect();
        Answers { variations: ["control", "a", "b"].map(str::to_owned).to_vec(), generation, units }
    }

    #[test]
    fn unit_that_moves_between_variations_fails_the_script() {
        let mut log = AnswerLog::default();
        log.add("k", Some("start"), answers(1, Reason::Split, &["a", "b", "control"])).expect("the first answers");
        log.add("k", None, answers(1, Reason::Killed, &["control", "b", "a"])).expect("control is not a variation");
        let text = log.compare("k", None).expect("a comparison");
        assert_eq!(
            text,
            "1 unit from a to control (control)\n1 unit from control (control) to a\n1 unit unchanged\n0 units moved between variations"
        );
        let moved = answers(1, Reason::Split, &["b", "b", "a"]);
        assert!(log.add("k", None, moved).is_err(), "u0 had a at the start");
    }

    #[test]
    fn new_runs_and_conclusions_may_change_variations() {
        let mut log = AnswerLog::default();
        log.add("k", None, answers(1, Reason::Split, &["a", "b"])).expect("the first answers");
        log.add("k", None, answers(1, Reason::Concluded, &["b", "b"])).expect("all units get what is shipped");
        assert!(log.compare("k", None).expect("a comparison").ends_with("1 unit moved between variations"));
        log.add("k", None, answers(2, Reason::Split, &["b", "a"])).expect("a new run has a new salt");
        assert_eq!(
            log.compare("k", None).expect("a comparison"),
            "run 2: some units get another variation than in run 1"
        );
    }
}
