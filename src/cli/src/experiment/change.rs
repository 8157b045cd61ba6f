//! The actions of `experiment` that change something. Each prints what it changed.

use std::time::Duration;

use inroad_wire::timestamp_to_wire;
use inroad_wire::v1::conclude_experiment_request::Outcome;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::{self, Experiment};

use super::serving::{audience_of, control_key, is_killed, is_rolled_back, serving_text};
use super::{AdvanceArgs, ConcludeArgs, GrowArgs};
use crate::confirm::{ConfirmArgs, confirm};
use crate::connect::Connection;
use crate::lookup::get_experiment;
use crate::output::{Output, count, percent, plural};
use crate::reach::print_reach_of_change;
use crate::response_json;
use crate::results::SAMPLE_RATIO_ALERT;
use crate::wire_text::{timestamp_of, timestamp_text};

/// Changes experiments.
pub(super) struct ExperimentChanger<'a> {
    pub(super) connection: &'a Connection,
    pub(super) out: Output,
}

impl ExperimentChanger<'_> {
    fn print(&self, experiment: &Experiment, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.out.print_text(text)?;
        Ok(self.out.print_json(&response_json::experiment_json(experiment)?)?)
    }

    /// Prints the change, and then how many clients have it.
    async fn print_with_reach(&self, experiment: &Experiment, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.print(experiment, text)?;
        print_reach_of_change(self.connection, &experiment.etag, self.out).await
    }

    pub(super) async fn start(&self, key: String) -> anyhow::Result<()> {
        let request = v1::StartExperimentRequest { key, etag: String::new() };
        let e = self.connection.experiments().start_experiment(request).await?.into_inner();
        let shares = shares_text(&e);
        self.print(&e, format!("{} is running, run {}: {shares}{}", e.key, e.generation, whole_kill_note(&e)))
    }

    pub(super) async fn pause(&self, key: String) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        if before.state() == v1::State::Paused {
            return self.print(&before, format!("nothing to do: {key} is paused already"));
        }
        let request = v1::PauseExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().pause_experiment(request).await?.into_inner();
        let text = "assignments record no exposures and the policy does not grow; every unit keeps its variation. \
                    `record exposure` and `experiment grow` still work";
        self.print(&e, format!("{} is paused: {text}", e.key))
    }

    pub(super) async fn resume(&self, key: String) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        if before.state() == v1::State::Running {
            return self.print(&before, format!("nothing to do: {key} is running already"));
        }
        let request = v1::ResumeExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().resume_experiment(request).await?.into_inner();
        self.print(&e, format!("{} is running again", e.key))
    }

    pub(super) async fn grow(&self, args: GrowArgs) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &args.experiment.key).await?;
        let amount = match (args.amount.to, args.amount.by, args.amount.times) {
            (Some(to), ..) => Amount::ToShare(to),
            (_, Some(by), _) => Amount::ByShare(by),
            (.., times) => Amount::Times(times.unwrap_or(1.0)),
        };
        let request = v1::GrowVariationRequest {
            key: args.experiment.key,
            variation: args.variation.clone(),
            amount: Some(amount),
            etag: String::new(),
        };
        let e = self.connection.experiments().grow_variation(request).await?.into_inner();
        if e.etag == before.etag {
            let share = percent(share_of(&e, &args.variation));
            return self.print(&e, format!("nothing to do: {} has {share} of {} already", args.variation, e.key));
        }
        let change = |key: &str| format!("{key} {} → {}", percent(share_of(&before, key)), percent(share_of(&e, key)));
        let text = format!(
            "{}: {}, {}, in effect from {} (revision {})",
            e.key,
            change(&args.variation),
            change(control_key(&e)),
            timestamp_text(e.effective_at.as_ref()),
            e.revision
        );
        let warning = mismatch_warning(self.connection, &e.key).await;
        self.print_with_reach(&e, text + &warning).await
    }

    pub(super) async fn kill(
        &self,
        key: String,
        variation: Option<String>,
        confirmation: ConfirmArgs,
    ) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        if is_killed(&before, variation.as_deref()) {
            let subject = variation.as_deref().unwrap_or(&key);
            return self.print(&before, format!("nothing to do: {subject} is killed already"));
        }
        // While the whole experiment is killed, all units get control already. After a conclusion, the units that a
        // variation was shown to are not those that get it, and no record is followed further.
        let is_all_killed = before.killed;
        let effect = match is_all_killed || !before.shipped.is_empty() {
            true => String::new(),
            false => kill_effect(self.connection, &key, variation.as_deref()).await,
        };
        let shipped = before.shipped.clone();
        let takes_shipped = before.state() == v1::State::Concluded
            && shipped != control_key(&before)
            && variation.as_ref().is_none_or(|variation| *variation == shipped);
        if takes_shipped {
            let what = format!(
                "{key} is concluded, and {} get {shipped}. This serves control to them at once.",
                audience_of(&before)
            );
            confirm(confirmation.yes, &what)?;
        } else if variation.is_none() {
            let treated = if shipped.is_empty() { share_of_others(&before, control_key(&before)) } else { 0.0 };
            confirm(
                confirmation.yes,
                format!(
                    "This serves control to all units of {key} at once: {} of them get another variation than now. {effect}",
                    percent(treated)
                )
                .trim_end(),
            )?;
        }
        let request = v1::KillRequest { key, variation: variation.clone().unwrap_or_default() };
        let e = self.connection.experiments().kill(request).await?.into_inner();
        let text = match variation {
            Some(variation) if takes_shipped => format!(
                "{variation} is killed: {} of {} get control from now on instead of it; a restore gives it back",
                audience_of(&e),
                e.key
            ),
            Some(variation) if !shipped.is_empty() => {
                format!("{variation} is killed, but no unit of {} gets it: {}", e.key, serving_text(&e))
            }
            Some(variation) if is_all_killed => format!(
                "{variation} is killed, and stays killed when {} is restored; all units get control already, because the \
                 whole experiment is killed",
                e.key
            ),
            Some(variation) => format!(
                "{} is killed: its {} of {} gets control from now on; a restore gives the same units the variation back",
                variation,
                percent(share_of(&e, &variation)),
                e.key
            ),
            None => format!(
                "{} is killed: all units get control from now on; a restore gives the same units their variations back",
                e.key
            ),
        };
        self.print_with_reach(&e, format!("{text}\n{effect}").trim_end().to_owned()).await
    }

    pub(super) async fn restore(&self, key: String, variation: Option<String>) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        let exists = variation.as_ref().is_none_or(|variation| before.variations.iter().any(|v| v.key == *variation));
        if exists && !is_killed(&before, variation.as_deref()) {
            let subject = variation.as_deref().unwrap_or(&key);
            let hint = match before.variations.iter().find(|v| v.killed && variation.is_none()) {
                Some(v) => format!(". To restore its variation {0}, run `inroad experiment restore {key} {0}`", v.key),
                None => String::new(),
            };
            return self.print(&before, format!("nothing to do: {subject} is not killed{hint}"));
        }
        let request = v1::RestoreRequest { key, variation: variation.clone().unwrap_or_default() };
        let e = self.connection.experiments().restore(request).await?.into_inner();
        let text = match variation {
            Some(variation) if e.killed => format!("{variation} is restored{}", whole_kill_note(&e)),
            Some(variation) if !e.shipped.is_empty() => format!("{variation} is restored: {}", serving_text(&e)),
            Some(variation) => {
                let share = percent(share_of(&e, &variation));
                format!("{variation} is restored: the same {share} of {} gets it back", e.key)
            }
            None => format!("{} is restored: the same units get the same variations back", e.key),
        };
        self.print_with_reach(&e, text).await
    }

    pub(super) async fn restart(&self, key: String, confirmation: ConfirmArgs) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        confirm(
            confirmation.yes,
            &format!(
                "This assigns every unit of {key} again under another salt: units that saw a variation in run {} may get another one, and results start empty{}.",
                before.generation,
                whole_kill_note(&before)
            ),
        )?;
        let request = v1::RestartExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().restart_experiment(request).await?.into_inner();
        let shares = shares_text(&e);
        self.print(&e, format!("{} is running, run {}: {shares}{}", e.key, e.generation, whole_kill_note(&e)))
    }

    pub(super) async fn conclude(&self, args: ConcludeArgs) -> anyhow::Result<()> {
        let key = args.experiment.key;
        let before = get_experiment(self.connection, &key).await?;
        let shipped = args.outcome.ship.clone().unwrap_or_else(|| control_key(&before).to_owned());
        let to_everyone = args.to_everyone;
        let how = |e: &Experiment| if is_rolled_back(e) { "rolled back" } else { "concluded" };
        let same_units = before.audience.is_empty() || before.shipped_within_audience != to_everyone;
        if before.state() == v1::State::Concluded && before.shipped == shipped && same_units {
            return self.print(
                &before,
                format!("nothing to do: {key} is {} already: {}", how(&before), serving_text(&before)),
            );
        }
        let others = share_of_others(&before, &shipped);
        // The server refuses an unknown variation, so nothing is asked.
        let exists = before.variations.iter().any(|variation| variation.key == shipped);
        let outside = match to_everyone && !before.audience.is_empty() {
            true => units_outside(self.connection, &before).await,
            false => String::new(),
        };
        confirm(args.confirm.yes || !exists, &conclusion_text(&before, &shipped, (to_everyone, &outside), others))?;
        let outcome = Some(args.outcome.ship.map_or(Outcome::RollBack(true), Outcome::Ship));
        let request = v1::ConcludeExperimentRequest { key, outcome, etag: before.etag, to_everyone };
        let e = self.connection.experiments().conclude_experiment(request).await?.into_inner();
        self.print(&e, format!("{} is {}: {}", e.key, how(&e), serving_text(&e)))
    }

    pub(super) async fn archive(&self, key: String, confirmation: ConfirmArgs) -> anyhow::Result<()> {
        let before = get_experiment(self.connection, &key).await?;
        if before.state() == v1::State::Archived {
            return self.print(&before, format!("nothing to do: {key} is archived already: {}", serving_text(&before)));
        }
        confirm(
            confirmation.yes,
            &format!(
                "This archives {key} permanently: from then on {}, and it can never be changed or run again.",
                serving_text(&before)
            ),
        )?;
        let request = v1::ArchiveExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().archive_experiment(request).await?.into_inner();
        self.print(&e, format!("{} is archived: {}", e.key, serving_text(&e)))
    }

    pub(super) async fn reallocate(&self, key: String) -> anyhow::Result<()> {
        let request = v1::ReallocateRequest { key };
        let response = self.connection.experiments().reallocate(request).await?.into_inner();
        let decision = response.decision.unwrap_or_default();
        self.out.print_text(decision_text(&decision))?;
        let experiment = response_json::experiment_json(&response.experiment.unwrap_or_default())?;
        let decision = response_json::decision_json(&decision);
        Ok(self.out.print_json(&serde_json::json!({"decision": decision, "experiment": experiment}))?)
    }

    pub(super) async fn advance(&self, args: AdvanceArgs) -> anyhow::Result<()> {
        let key = args.experiment.key;
        let to = match (args.step.to, args.step.by) {
            (Some(to), _) => to,
            (None, by) => {
                let now = get_experiment(self.connection, &key).await?.now;
                timestamp_of(now.as_ref()).unwrap_or_default().plus(by.unwrap_or_default())
            }
        };
        let request = v1::AdvanceClockRequest { key, to: Some(timestamp_to_wire(to)) };
        let response = self.connection.experiments().advance_clock(request).await?.into_inner();
        let e = response.experiment.unwrap_or_default();
        for decision in &response.decisions {
            self.out.print_text(decision_text(decision))?;
        }
        self.out.print_text(format!("{} is at {}: {}", e.key, timestamp_text(e.now.as_ref()), shares_text(&e)))?;
        let decisions: Vec<_> = response.decisions.iter().map(response_json::decision_json).collect();
        let experiment = response_json::experiment_json(&e)?;
        Ok(self.out.print_json(&serde_json::json!({"decisions": decisions, "experiment": experiment}))?)
    }
}

/// The longest wait for the number of affected units: a kill must not be delayed.
const MAX_EFFECT_WAIT: Duration = Duration::from_secs(2);

/// Which units a kill affects, by the events counted so far; empty if that is unknown. Asked before the kill, because it
/// removes the records.
async fn kill_effect(connection: &Connection, key: &str, variation: Option<&str>) -> String {
    let mut request =
        tonic::Request::new(v1::GetResultsRequest { key: key.to_owned(), ..v1::GetResultsRequest::default() });
    request.set_timeout(MAX_EFFECT_WAIT);
    let Ok(results) = connection.results().get_results(request).await else { return String::new() };
    let results = results.into_inner();
    let is_affected = |arm: &&v1::ArmResult| !arm.killed && variation.is_none_or(|key| key == arm.variation);
    let affected: Vec<_> = results.arms.iter().skip(1).filter(is_affected).collect();
    let exposed: u64 = affected.iter().map(|arm| arm.units).sum();
    let open: u64 = affected.iter().map(|arm| arm.open_records).sum();
    let variation = if variation.is_some() { "it" } else { "their variations" };
    let stop = match exposed {
        0 => return String::new(),
        1 => format!("1 unit that saw {variation} until now stops seeing it."),
        n => format!("{} units that saw {variation} until now stop seeing it.", count(n)),
    };
    match open {
        0 => stop,
        n => format!(
            "{stop} Up to {} with an open window leave the comparison, unless you restore it within a hundredth of the \
             window, at most a minute.",
            plural(n, "record")
        ),
    }
}

/// What a kill of the whole experiment means for the rest of a sentence; empty without one.
fn whole_kill_note(e: &Experiment) -> String {
    if e.killed {
        let control = control_key(e);
        format!(
            ", but the whole experiment is still killed: all units get {control} until `inroad experiment restore {}`",
            e.key
        )
    } else {
        String::new()
    }
}

/// A warning if the exposures do not match the shares; empty if they do, or if that is unknown.
async fn mismatch_warning(connection: &Connection, key: &str) -> String {
    let mut request =
        tonic::Request::new(v1::GetResultsRequest { key: key.to_owned(), ..v1::GetResultsRequest::default() });
    request.set_timeout(MAX_EFFECT_WAIT);
    let Ok(results) = connection.results().get_results(request).await else { return String::new() };
    let ratio = results.into_inner().sample_ratio.filter(|ratio| ratio.evidence >= SAMPLE_RATIO_ALERT);
    ratio.map_or_else(String::new, |ratio| {
        format!("\n! Sample ratio mismatch: {}. Check for lost or duplicated exposures before growing.", ratio.summary)
    })
}

/// What a conclusion changes, for the question before it.
fn conclusion_text(before: &Experiment, shipped: &str, (to_everyone, outside): (bool, &str), others: f64) -> String {
    let (key, control) = (&before.key, control_key(before));
    let others = percent(others);
    if before.audience.is_empty() || shipped == control {
        return format!("This ends {key}: all units get {shipped}, {others} of them another variation than now.");
    }
    let audience = &before.audience;
    if to_everyone {
        format!(
            "This ends {key}: all units get {shipped}. That is {others} of the units in the audience ({audience}) more than \
             now, and all units outside the audience: {outside}."
        )
    } else {
        format!(
            "This ends {key}: units in the audience ({audience}) get {shipped}, {others} of them another variation than now. \
             All other units continue to get {control}; to ship to them as well, add --to-everyone."
        )
    }
}

/// How many of the units seen lately are outside the audience, in words.
async fn units_outside(connection: &Connection, e: &Experiment) -> String {
    let request = v1::EvaluateAudienceRequest { audience: e.audience.clone(), unit: e.unit.clone() };
    let report = connection.experiments().evaluate_audience(request).await;
    match report.map(tonic::Response::into_inner) {
        Ok(report) if report.contexts > 0 => {
            let outside = u64::from(report.contexts.saturating_sub(report.matching_contexts));
            let units = plural(u64::from(report.contexts), "unit");
            format!(
                "of {units} seen lately and checked, {} {}",
                count(outside),
                if outside == 1 { "is" } else { "are" }
            )
        }
        Ok(_) | Err(_) => "how many those are is not known".to_owned(),
    }
}

/// The share that is served another variation than this one. Killed variations are served control.
fn share_of_others(e: &Experiment, variation: &str) -> f64 {
    let served =
        |v: &v1::Variation| if e.killed || v.killed { control_key(e) == variation } else { v.key == variation };
    e.variations.iter().filter(|v| !served(v)).map(|v| v.share).sum()
}

fn share_of(e: &Experiment, variation: &str) -> f64 {
    e.variations.iter().find(|v| v.key == variation).map_or(0.0, |v| v.share)
}

/// The share of each variation: `control 80.0%, on 20.0%`.
fn shares_text(e: &Experiment) -> String {
    let text = |v: &v1::Variation| format!("{} {}{}", v.key, percent(v.share), if v.killed { " (killed)" } else { "" });
    e.variations.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A decision in one line.
pub(super) fn decision_text(decision: &v1::Decision) -> String {
    let result = match decision.revision {
        0 => "no change".to_owned(),
        revision => format!("revision {revision}"),
    };
    format!("{}  {result}: {}", timestamp_text(decision.at.as_ref()), decision.summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_variations_count_as_control_before_a_conclusion() {
        let variation =
            |key: &str, share, killed| v1::Variation { key: key.to_owned(), share, killed, ..v1::Variation::default() };
        let variations = vec![variation("off", 0.7, false), variation("a", 0.1, false), variation("b", 0.2, true)];
        let mut e = Experiment { variations, ..Experiment::default() };
        let others = |e: &Experiment| ["off", "a", "b"].map(|key| percent(share_of_others(e, key)));
        assert_eq!(others(&e), ["10.0%", "90.0%", "100%"].map(str::to_owned));
        e.killed = true;
        assert_eq!(others(&e), ["0%", "100%", "100%"].map(str::to_owned));
    }
}
