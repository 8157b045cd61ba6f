//! Writes files of events for `inroad record -f`: exposures of many units, and outcomes of some.

use std::error::Error;

use goldenscript::ArgumentConsumer;
use serde_json::json;

use crate::assignments::{Answers, units_in_range};
use crate::harness::Api;

/// The events to write.
pub(crate) struct EventRequest {
    experiment: String,
    event: String,
    units: Vec<String>,
    value: f64,
    /// Only units of this variation.
    only: Option<String>,
    /// Variation keys, and of how many of its units one has the outcome.
    rates: Vec<(String, usize)>,
}

/// The lines of a file, and how many there are of each kind.
pub(crate) struct Events {
    pub(crate) lines: String,
    exposures: usize,
    outcomes: usize,
}

impl Events {
    pub(crate) fn summary(&self) -> String {
        format!("{} exposures, {} outcomes", self.exposures, self.outcomes)
    }
}

impl EventRequest {
    /// `KEY EVENT VARIATION=N… [from=u1] [to=u200] [value=V] [only=VARIATION]`.
    pub(crate) fn from_args(args: &mut ArgumentConsumer) -> Result<Self, Box<dyn Error>> {
        let experiment = args.next_pos().ok_or("an experiment key is missing")?.to_owned();
        let event = args.next_pos().ok_or("an event name is missing")?.to_owned();
        let units = units_in_range(args)?;
        let value = args.take_key("value").map_or(Ok(1.0), str::parse)?;
        let only = args.take_key("only").map(str::to_owned);
        let mut rates = Vec::new();
        while let Some((variation, one_in)) = args.next_key() {
            rates.push((variation.to_owned(), one_in.parse()?));
        }
        Ok(Self { experiment, event, units, value, only, rates })
    }

    /// An exposure of each unit to what it gets now, and an outcome of every Nth unit of a variation. The ids of outcomes
    /// are those of the units, so that the same events are written each time.
    pub(crate) async fn events(&self, api: &Api) -> Result<Events, Box<dyn Error>> {
        let answers = Answers::ask(api, &self.experiment, &self.units, &[]).await?;
        let unit_type = api.get(&self.experiment).await.unit;
        let (mut exposures, mut outcomes) = (Vec::new(), Vec::new());
        let mut seen = vec![0; self.rates.len()];
        let selected = |variation: &String| self.only.as_ref().is_none_or(|only| only == variation);
        for (unit, answer) in answers.units.iter().filter(|(_, answer)| selected(&answer.variation)) {
            let exposure = json!({
                "experiment": self.experiment, "generation": answers.generation, "unit": unit,
                "variation": answer.variation, "revision": answer.revision,
            });
            exposures.push(exposure.to_string());
            let Some(i) = self.rates.iter().position(|(variation, _)| *variation == answer.variation) else { continue };
            seen[i] += 1;
            if usize::is_multiple_of(seen[i], self.rates[i].1) {
                let outcome = json!({
                    "units": {unit_type.as_str(): unit}, "event": self.event, "value": self.value,
                    "event_id": format!("{}-{unit}", self.event), "clock": self.experiment,
                });
                outcomes.push(outcome.to_string());
            }
        }
        let (number_of_exposures, number_of_outcomes) = (exposures.len(), outcomes.len());
        let lines = exposures.into_iter().chain(outcomes).map(|line| line + "\n").collect();
        Ok(Events { lines, exposures: number_of_exposures, outcomes: number_of_outcomes })
    }
}
