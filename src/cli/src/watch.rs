//! `inroad watch`: streams changes as connected clients receive them, one line each.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use inroad_assignment::{Arm, ServedExperiment, Status};
use inroad_wire::snapshot_from_wire;
use inroad_wire::v1::{ExperimentSnapshot, WatchSnapshotsRequest};
use serde_json::{Value, json};

use crate::connect::{Connection, ServerArgs, is_transient};
use crate::lookup::find_experiment;
use crate::output::{self, Output, percent};
use crate::suggestions::unknown_experiment_note;

/// The pause before a broken stream is reopened.
const PAUSE: Duration = Duration::from_secs(1);

/// The experiments to watch.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Experiment key [default: all experiments]
    key: Option<String>,
}

/// Prints changes until the process is stopped.
pub(crate) async fn run(args: WatchArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    if let Some(key) = &args.key
        && find_experiment(&connection, key).await?.is_none()
    {
        eprintln!("inroad: {} Waiting until it is created.", unknown_experiment_note(&connection, key).await);
    }
    let mut watcher = Watcher { known: BTreeMap::new(), only: args.key, out };
    let (mut version, mut store_id, mut lineage_id) = (0, String::new(), String::new());
    loop {
        let request = WatchSnapshotsRequest {
            resume_version: version,
            store_id: store_id.clone(),
            lineage_id: lineage_id.clone(),
            client_name: "inroad watch".to_owned(),
            // This command applies no snapshot, so it has nothing to report.
            client_id: String::new(),
            sdk: concat!("inroad/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let ended = match connection.assignments().watch_snapshots(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            if message.store_id != store_id || message.full && message.lineage_id != lineage_id {
                                // Another store, or an older copy of it: the known state does not belong to it.
                                watcher.known.clear();
                            }
                            (version, store_id, lineage_id) = (message.version, message.store_id, message.lineage_id);
                            if message.full {
                                watcher.retain_sent(&message.experiments);
                            }
                            message.removed.iter().for_each(|key| watcher.remove(key));
                            message.experiments.into_iter().try_for_each(|sent| watcher.update(sent))?;
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match ended {
            Some(status) if !is_transient(&status) => return Err(status.into()),
            _ => {
                eprintln!("inroad: the stream ended. Reconnecting …");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The last known state of each experiment.
struct Watcher {
    known: BTreeMap<String, ServedExperiment>,
    only: Option<String>,
    out: Output,
}

impl Watcher {
    /// Removes the experiments that a full snapshot does not contain.
    fn retain_sent(&mut self, sent: &[ExperimentSnapshot]) {
        self.known.retain(|key, _| sent.iter().any(|e| e.key == *key));
    }

    fn remove(&mut self, key: &str) {
        self.known.remove(key);
    }

    /// Prints what changed in an experiment and stores its new state.
    fn update(&mut self, sent: ExperimentSnapshot) -> anyhow::Result<()> {
        if self.only.as_ref().is_some_and(|key| *key != sent.key) {
            return Ok(());
        }
        let key = sent.key.clone();
        let new = snapshot_from_wire(sent)?;
        if let Some(old) = self.known.get(&key) {
            // A kill may arrive before older states of the same experiment.
            if new.parts().version <= old.parts().version {
                return Ok(());
            }
            new.check_can_replace(old)?;
        }
        for (event, text) in changes(self.known.get(&key), &new) {
            self.out.print_text(&text)?;
            self.out.print_json_line(&event)?;
        }
        self.known.insert(key, new);
        Ok(())
    }
}

/// The changes from one state of an experiment to the next, each as JSON and as text.
fn changes(old: Option<&ServedExperiment>, new: &ServedExperiment) -> Vec<(Value, String)> {
    let n = new.parts();
    let key = n.key.as_str();
    let mut changes = Vec::new();
    let mut add = |mut event: Value, text: String| {
        event["experiment"] = json!(key);
        event["version"] = json!(n.version);
        changes.push((event, format!("{key}: {text}")));
    };
    let o = old.map(ServedExperiment::parts);
    if o.is_none_or(|o| o.status != n.status || o.generation != n.generation) {
        let shipped = match n.status {
            Status::Concluded { shipped } | Status::Archived { shipped } => Some(shipped),
            _ => None,
        };
        let shipped = shipped.and_then(|arm| n.variations.get(arm.index())).map(|v| v.key.as_str());
        let units =
            if n.shipped_within_audience && n.audience.is_some() { "units in the audience" } else { "all units" };
        let serves = shipped.map_or_else(String::new, |v| format!(", {units} get {v}"));
        let event = json!({"event": "state", "state": n.status.name(), "generation": n.generation, "shipped": shipped});
        add(event, format!("{}, run {}{serves}", n.status.name(), n.generation));
    }
    let same_run = o.filter(|o| o.generation == n.generation);
    for (i, revision) in n.revisions.iter().enumerate() {
        let is_known =
            |o: &inroad_assignment::served::ServedParts| o.revisions.iter().any(|r| r.number >= revision.number);
        if same_run.is_some_and(is_known) {
            continue;
        }
        let before = match i.checked_sub(1) {
            Some(i) => n.revisions.get(i),
            None => same_run.and_then(|o| o.revisions.last()),
        };
        let mut arms = Vec::new();
        let mut texts = Vec::new();
        for (index, variation) in n.variations.iter().enumerate() {
            let Some(arm) = Arm::new(index) else { continue };
            let share = revision.allocation.width_of(arm).share();
            let was = before.map(|r| r.allocation.width_of(arm).share());
            arms.push(json!({"variation": variation.key.as_str(), "from": was, "to": share}));
            match was {
                Some(was) if was != share => {
                    texts.push(format!("{} {} → {}", variation.key, percent(was), percent(share)))
                }
                Some(_) => {}
                None => texts.push(format!("{} {}", variation.key, percent(share))),
            }
        }
        let at = output::instant(revision.effective_at);
        let event = json!({"event": "revision", "revision": revision.number, "effective_at": at, "shares": arms});
        add(event, format!("revision {} in effect from {at}: {}", revision.number, texts.join(", ")));
    }
    let was_killed = o.is_some_and(|o| o.kills.everything);
    if n.kills.everything != was_killed {
        let text = if n.kills.everything { "killed: all units get control" } else { "restored" };
        add(
            json!({"event": if n.kills.everything { "killed" } else { "restored" }, "variation": null}),
            text.to_owned(),
        );
    }
    for (index, variation) in n.variations.iter().enumerate() {
        let Some(arm) = Arm::new(index) else { continue };
        let now = n.kills.is_arm_killed(arm);
        if now != o.is_some_and(|o| o.kills.is_arm_killed(arm)) {
            let what = if now { "killed" } else { "restored" };
            add(json!({"event": what, "variation": variation.key.as_str()}), format!("{} {what}", variation.key));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::experiment::RevisionCause;
    use inroad_assignment::{Definition, Experiment, KillTarget, Salt, Timestamp, Width};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn experiment() -> Experiment {
        let doc = json!({
            "key": "k", "clock": {"kind": "manual", "start": "1970-01-01T00:00:00Z"},
            "variations": [{"key": "off", "payload": 0}, {"key": "on", "payload": 1, "share": 0.25}],
        });
        let doc: inroad_assignment::DefinitionDoc = serde_json::from_value(doc).unwrap();
        let mut experiment = Experiment::create(Definition::try_from(doc).unwrap(), at(0));
        experiment.start(at(0), Salt::parse("s").unwrap()).unwrap();
        experiment
    }

    fn texts(old: Option<&Experiment>, new: &Experiment) -> Vec<String> {
        let served = |e: &Experiment, version| ServedExperiment::from_experiment(e, version, at(0)).unwrap();
        let old = old.map(|e| served(e, 1));
        changes(old.as_ref(), &served(new, 2)).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn new_experiment_is_described_in_full() {
        assert_eq!(
            texts(None, &experiment()),
            ["k: running, run 1", "k: revision 1 in effect from 1970-01-01T00:00:00Z: off 75.0%, on 25.0%"]
        );
    }

    #[test]
    fn growth_and_kills_are_the_only_changes() {
        let old = experiment();
        assert!(texts(Some(&old), &old).is_empty());
        let mut grown = old.clone();
        let by = [(Arm::new(1).unwrap(), Width::from_share(0.25).unwrap())];
        grown.grow(&by, RevisionCause::Grown, at(0), at(2_000_000)).unwrap();
        grown.set_killed(KillTarget::Variation(Arm::new(1).unwrap()), true, at(0)).unwrap();
        assert_eq!(
            texts(Some(&old), &grown),
            ["k: revision 2 in effect from 1970-01-01T00:00:02Z: off 75.0% → 50.0%, on 25.0% → 50.0%", "k: on killed"]
        );
        assert_eq!(texts(Some(&grown), &old), ["k: on restored"]);
    }
}
