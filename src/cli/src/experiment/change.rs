//! The half of `experiment` that changes something: each says what it did to whom.

use inroad_wire::timestamp_to_wire;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::{self, Experiment};

use super::{AdvanceArgs, ConcludeArgs, GrowArgs, Sure};
use crate::clients::tell_reach;
use crate::confirm::confirm;
use crate::connect::Connection;
use crate::output::{Output, percent};
use crate::views;

/// Changes experiments.
pub(super) struct Change<'a> {
    pub(super) connection: &'a Connection,
    pub(super) out: Output,
}

impl Change<'_> {
    fn told(&self, experiment: &Experiment, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.out.line(text)?;
        Ok(self.out.value(&views::experiment(experiment)?)?)
    }

    /// The same, and then when the change was at every client.
    async fn told_and_reached(&self, experiment: &Experiment, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.told(experiment, text)?;
        tell_reach(self.connection, &experiment.etag, self.out).await
    }

    async fn now(&self, key: &str) -> anyhow::Result<Experiment> {
        let request = v1::GetExperimentRequest { key: key.to_owned() };
        Ok(self.connection.experiments().get_experiment(request).await?.into_inner())
    }

    pub(super) async fn start(&self, key: String) -> anyhow::Result<()> {
        let request = v1::StartExperimentRequest { key, etag: String::new() };
        let e = self.connection.experiments().start_experiment(request).await?.into_inner();
        self.told(&e, format!("{} is running, generation {}: {}", e.key, e.generation, shares(&e)))
    }

    pub(super) async fn pause(&self, key: String) -> anyhow::Result<()> {
        let request = v1::PauseExperimentRequest { key, etag: String::new() };
        let e = self.connection.experiments().pause_experiment(request).await?.into_inner();
        self.told(
            &e,
            format!("{} is paused: nothing is recorded and nothing grows; everybody keeps what they have", e.key),
        )
    }

    pub(super) async fn resume(&self, key: String) -> anyhow::Result<()> {
        let request = v1::ResumeExperimentRequest { key, etag: String::new() };
        let e = self.connection.experiments().resume_experiment(request).await?.into_inner();
        self.told(&e, format!("{} is running again", e.key))
    }

    pub(super) async fn grow(&self, args: GrowArgs) -> anyhow::Result<()> {
        let before = self.now(&args.key).await?;
        let amount = match (args.amount.to, args.amount.by, args.amount.times) {
            (Some(to), ..) => Amount::ToShare(to),
            (_, Some(by), _) => Amount::ByShare(by),
            (.., times) => Amount::Times(times.unwrap_or(1.0)),
        };
        let request = v1::GrowVariationRequest {
            key: args.key,
            variation: args.variation.clone(),
            amount: Some(amount),
            etag: String::new(),
        };
        let e = self.connection.experiments().grow_variation(request).await?.into_inner();
        let moved = |key: &str| format!("{key} {} → {}", percent(share_of(&before, key)), percent(share_of(&e, key)));
        let control = e.variations.first().map_or("", |v| v.key.as_str());
        let text = format!(
            "{}: {}, {}, in effect from {} (revision {})",
            e.key,
            moved(&args.variation),
            moved(control),
            views::time_text(e.effective_at.as_ref()),
            e.revision
        );
        self.told_and_reached(&e, text).await
    }

    pub(super) async fn kill(&self, key: String, variation: Option<String>, sure: Sure) -> anyhow::Result<()> {
        if variation.is_none() {
            let e = self.now(&key).await?;
            let treated = 1.0 - share_of(&e, control(&e));
            confirm(
                sure.yes,
                &format!(
                    "This serves control to everybody in {key} at once: {} of its units get another thing than now.",
                    percent(treated)
                ),
            )?;
        }
        let request = v1::KillRequest { key, variation: variation.clone().unwrap_or_default() };
        let e = self.connection.experiments().kill(request).await?.into_inner();
        let text = match variation {
            Some(variation) => format!(
                "{} is killed: its {} of {} gets control from now on; its units are kept for a restore",
                variation,
                percent(share_of(&e, &variation)),
                e.key
            ),
            None => {
                format!("{} is killed: everybody gets control from now on; all points are kept for a restore", e.key)
            }
        };
        self.told_and_reached(&e, text).await
    }

    pub(super) async fn restore(&self, key: String, variation: Option<String>) -> anyhow::Result<()> {
        let request = v1::RestoreRequest { key, variation: variation.clone().unwrap_or_default() };
        let e = self.connection.experiments().restore(request).await?.into_inner();
        let text = match variation {
            Some(variation) => {
                let share = percent(share_of(&e, &variation));
                format!("{variation} is restored: the same {share} of {} gets it back", e.key)
            }
            None => format!("{} is restored: the same units get the same variations back", e.key),
        };
        self.told_and_reached(&e, text).await
    }

    pub(super) async fn restart(&self, key: String, sure: Sure) -> anyhow::Result<()> {
        let before = self.now(&key).await?;
        confirm(
            sure.yes,
            &format!(
                "This draws every unit of {key} anew under another salt: whoever has seen a variation in generation {} may get another one, and results begin at nothing.",
                before.generation
            ),
        )?;
        let request = v1::RestartExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().restart_experiment(request).await?.into_inner();
        self.told(&e, format!("{} runs as generation {}: {}", e.key, e.generation, shares(&e)))
    }

    pub(super) async fn conclude(&self, args: ConcludeArgs) -> anyhow::Result<()> {
        let before = self.now(&args.key).await?;
        let shipped = args.end.ship.clone().unwrap_or_else(|| control(&before).to_owned());
        let others = 1.0 - share_of(&before, &shipped);
        confirm(
            args.sure.yes,
            &format!(
                "This ends {}: everybody gets {shipped}, {} of its units another thing than now.",
                args.key,
                percent(others)
            ),
        )?;
        let request =
            v1::ConcludeExperimentRequest { key: args.key, ship: args.end.ship.unwrap_or_default(), etag: before.etag };
        let e = self.connection.experiments().conclude_experiment(request).await?.into_inner();
        let how = if args.end.roll_back { "rolled back" } else { "concluded" };
        self.told(&e, format!("{} is {how}: everybody gets {}", e.key, e.shipped))
    }

    pub(super) async fn archive(&self, key: String, sure: Sure) -> anyhow::Result<()> {
        let before = self.now(&key).await?;
        let serves = if before.shipped.is_empty() { control(&before) } else { before.shipped.as_str() };
        confirm(
            sure.yes,
            &format!(
                "This puts {key} away for good: everybody goes on getting {serves}, and it can never be changed or run again."
            ),
        )?;
        let request = v1::ArchiveExperimentRequest { key, etag: before.etag };
        let e = self.connection.experiments().archive_experiment(request).await?.into_inner();
        self.told(
            &e,
            format!(
                "{} is archived: everybody gets {}",
                e.key,
                if e.shipped.is_empty() { control(&e) } else { &e.shipped }
            ),
        )
    }

    pub(super) async fn reallocate(&self, key: String) -> anyhow::Result<()> {
        let request = v1::ReallocateRequest { key };
        let response = self.connection.experiments().reallocate(request).await?.into_inner();
        let decision = response.decision.unwrap_or_default();
        self.out.line(decision_text(&decision))?;
        let experiment = views::experiment(&response.experiment.unwrap_or_default())?;
        Ok(self.out.value(&serde_json::json!({"decision": views::decision(&decision), "experiment": experiment}))?)
    }

    pub(super) async fn advance(&self, args: AdvanceArgs) -> anyhow::Result<()> {
        let to = match (args.step.to, args.step.by) {
            (Some(to), _) => to,
            (None, by) => {
                let now = views::time(self.now(&args.key).await?.now.as_ref()).unwrap_or_default();
                now.plus(by.unwrap_or_default())
            }
        };
        let request = v1::AdvanceClockRequest { key: args.key, to: Some(timestamp_to_wire(to)) };
        let response = self.connection.experiments().advance_clock(request).await?.into_inner();
        let e = response.experiment.unwrap_or_default();
        for decision in &response.decisions {
            self.out.line(decision_text(decision))?;
        }
        self.out.line(format!("{} stands at {}: {}", e.key, views::time_text(e.now.as_ref()), shares(&e)))?;
        let decisions: Vec<_> = response.decisions.iter().map(views::decision).collect();
        Ok(self.out.value(&serde_json::json!({"decisions": decisions, "experiment": views::experiment(&e)?}))?)
    }
}

fn control(e: &Experiment) -> &str {
    e.variations.first().map_or("control", |v| v.key.as_str())
}

fn share_of(e: &Experiment, variation: &str) -> f64 {
    e.variations.iter().find(|v| v.key == variation).map_or(0.0, |v| v.share)
}

/// Who has how much: `control 80.00%, on 20.00%`.
pub(super) fn shares(e: &Experiment) -> String {
    let of = |v: &v1::Variation| format!("{} {}{}", v.key, percent(v.share), if v.killed { " (killed)" } else { "" });
    e.variations.iter().map(of).collect::<Vec<_>>().join(", ")
}

/// A decision in a line.
pub(super) fn decision_text(decision: &v1::Decision) -> String {
    let what = if decision.revision > 0 { format!("revision {}", decision.revision) } else { decision.hold.clone() };
    format!("{}  {what}: {}", views::time_text(decision.at.as_ref()), decision.summary)
}
