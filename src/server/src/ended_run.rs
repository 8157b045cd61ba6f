//! How a run that has ended is shown. Pages, API and CLI take it from here, so that they agree on how the run ended and on
//! the shares until then.

use std::sync::Arc;

use inroad_assignment::{Arm, Experiment, Generation, Kills, Status, Timestamp};
use inroad_dashboard::format::NumberFormat;
use inroad_wire::time::timestamp_to_wire;
use inroad_wire::v1;

/// How a conclusion ended an experiment, or one of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// A variation was shipped.
    Shipped(Arm),
    /// Units got control again.
    RolledBack,
}

impl Conclusion {
    fn of(arm: Arm) -> Self {
        if arm.is_control() { Self::RolledBack } else { Self::Shipped(arm) }
    }

    /// The arm that is served from then on.
    pub(crate) fn served(self) -> Arm {
        match self {
            Self::Shipped(arm) => arm,
            Self::RolledBack => Arm::CONTROL,
        }
    }
}

/// The conclusion of the experiment; none before one, and for a draft that was archived.
pub(crate) fn conclusion(experiment: &Experiment) -> Option<Conclusion> {
    match experiment.status {
        Status::Concluded { shipped } | Status::Archived { shipped } => {
            experiment.generation().map(|_| Conclusion::of(shipped))
        }
        Status::Draft | Status::Running | Status::Paused => None,
    }
}

/// What a concluded experiment serves now: the shipped variation, or none if all units get control.
pub(crate) fn shipped_now(experiment: &Experiment, how: Conclusion) -> Option<Arm> {
    let shipped = how.served();
    (!shipped.is_control() && experiment.kills.served_arm(shipped) == shipped).then_some(shipped)
}

/// The conclusion of a run, with its time; none if it was restarted without one, or has not ended.
pub(crate) fn conclusion_of_run(generation: &Generation) -> Option<(Timestamp, Conclusion)> {
    generation.endings.iter().find_map(|ending| Some((ending.at, Conclusion::of(ending.shipped?))))
}

/// When a restart ended a run; none if it is the newest run.
pub(crate) fn ended_by_restart(generation: &Generation) -> Option<Timestamp> {
    generation.endings.iter().find(|ending| ending.shipped.is_none()).map(|ending| ending.at)
}

/// The experiment as a reader of one of its runs should see it: a past run with the kills at its end, and without the
/// alerts of later runs.
pub(crate) fn as_of_run(experiment: &Arc<Experiment>, number: u32) -> Arc<Experiment> {
    let Some((generation, end)) = experiment.generation_by_number(number).and_then(|g| Some((g, ended_by_restart(g)?)))
    else {
        return Arc::clone(experiment);
    };
    let kills = generation.kills(end);
    Arc::new(Experiment { kills, alerts: Vec::new(), ..Experiment::clone(experiment) })
}

/// The kills that a run is compared under: those until its end, or those of now while it goes on.
pub(crate) fn compared_kills(experiment: &Experiment, generation: &Generation) -> Kills {
    generation.ended_at().map_or(experiment.kills, |end| generation.kills(end))
}

/// For each arm, whether a run compares it: it is not killed, or was not killed until the end.
pub(crate) fn compared_arms(experiment: &Experiment, generation: &Generation) -> Vec<bool> {
    let kills = compared_kills(experiment, generation);
    (0..experiment.definition.variations().len()).filter_map(Arm::new).map(|arm| !kills.is_arm_killed(arm)).collect()
}

/// The shares that the variations of a run were served at an instant, control first: those of the revision in effect, and
/// those of killed variations under control. A conclusion at that instant does not count.
pub(crate) fn served_shares(experiment: &Experiment, generation: &Generation, at: Timestamp) -> Vec<f64> {
    let (kills, revision) = (generation.kills(at), generation.revision_in_effect(at));
    let arms = experiment.definition.variations().len();
    let mut shares = vec![0.0; arms];
    for owner in (0..arms).filter_map(Arm::new) {
        let share = revision.map_or(0.0, |revision| revision.allocation.width_of(owner).share());
        shares[kills.served_arm(owner).index()] += share;
    }
    shares
}

/// Fills in how a run ended, and replaces the shares by those until then. Nothing while it runs or is paused.
pub(crate) fn fill_end(response: &mut v1::GetResultsResponse, experiment: &Experiment, generation: &Generation) {
    let Some(at) = generation.ended_at() else { return };
    let variations = experiment.definition.variations();
    let shares = served_shares(experiment, generation, at);
    let conclusion = conclusion_of_run(generation);
    let restarted = ended_by_restart(generation);
    if restarted.is_some() {
        response.state = v1::State::Ended.into();
    }
    response.ended_at = Some(timestamp_to_wire(at));
    response.ended = end_in_words(experiment, conclusion.map(|(_, how)| how), restarted.is_some());
    response.revision = generation.revision_in_effect(at).map_or(response.revision, |revision| revision.number);
    response.effective_at = generation.revision_in_effect(at).map(|revision| timestamp_to_wire(revision.effective_at));
    let served = |arm: usize| match conclusion {
        Some((_, how)) => f64::from(u8::from(how.served().index() == arm)),
        None => shares.get(arm).copied().unwrap_or_default(),
    };
    for (index, arm) in response.arms.iter_mut().enumerate() {
        arm.share = shares.get(index).copied().unwrap_or_default();
        arm.final_share = Some(served(index));
        let is_killed_now = Arm::new(index).is_some_and(|arm| experiment.kills.is_arm_killed(arm));
        arm.killed_after_end = is_killed_now && !arm.killed && restarted.is_none();
    }
    let list =
        variations.iter().zip(&shares).map(|(v, share)| format!("{} {}", v.key, NumberFormat::Percent2.text(*share)));
    response.ended += &format!("; shares until then: {}", list.collect::<Vec<_>>().join(", "));
}

/// "green was shipped, then the experiment was restarted".
pub(crate) fn end_in_words(experiment: &Experiment, conclusion: Option<Conclusion>, restarted: bool) -> String {
    let name = |arm: Arm| experiment.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let how = match conclusion {
        Some(Conclusion::Shipped(arm)) => format!("{} was shipped", name(arm)),
        Some(Conclusion::RolledBack) => format!("it was rolled back to {}", name(Arm::CONTROL)),
        None => return "the experiment was restarted".to_owned(),
    };
    if restarted { format!("{how}, then the experiment was restarted") } else { how }
}
