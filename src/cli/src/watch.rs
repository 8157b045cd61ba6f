//! `inroad watch`: hears of every change as connected clients do, and tells it in a line.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use inroad_assignment::{Arm, ServedExperiment, Status};
use inroad_wire::served_from_wire;
use inroad_wire::v1::{ExperimentSnapshot, WatchSnapshotsRequest};
use serde_json::{Value, json};

use crate::connect::{Connection, ServerArgs, may_pass};
use crate::output::{self, Output, percent};

/// The pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// What to watch.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The experiment; all of them if left out
    key: Option<String>,
}

/// Watches until it is stopped.
pub(crate) async fn run(args: WatchArgs, server: &ServerArgs, out: Output) -> anyhow::Result<()> {
    let connection = Connection::open(server).await?;
    let mut watch = Watch { known: BTreeMap::new(), only: args.key, out };
    let (mut version, mut store_id) = (0, String::new());
    loop {
        let request = WatchSnapshotsRequest {
            resume_version: version,
            store_id: store_id.clone(),
            client_name: "inroad watch".to_owned(),
            // It applies nothing, so it has nothing to report.
            client_id: String::new(),
            sdk: concat!("inroad/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let ended = match connection.assignments().watch_snapshots(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(message)) => {
                            if message.store_id != store_id {
                                // Another one, such as a copy that was restored: what was heard before is no past of it.
                                watch.known.clear();
                            }
                            (version, store_id) = (message.version, message.store_id);
                            if message.full {
                                watch.keep_only(&message.experiments);
                            }
                            message.removed.iter().for_each(|key| watch.forget(key));
                            message.experiments.into_iter().try_for_each(|sent| watch.hear(sent))?;
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match ended {
            Some(status) if !may_pass(&status) => return Err(status.into()),
            _ => {
                eprintln!("inroad: the stream ended, connecting again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Watch {
    known: BTreeMap<String, ServedExperiment>,
    only: Option<String>,
    out: Output,
}

impl Watch {
    fn keep_only(&mut self, sent: &[ExperimentSnapshot]) {
        self.known.retain(|key, _| sent.iter().any(|e| e.key == *key));
    }

    fn forget(&mut self, key: &str) {
        self.known.remove(key);
    }

    fn hear(&mut self, sent: ExperimentSnapshot) -> anyhow::Result<()> {
        if self.only.as_ref().is_some_and(|key| *key != sent.key) {
            return Ok(());
        }
        let key = sent.key.clone();
        let new = served_from_wire(sent)?;
        if let Some(old) = self.known.get(&key) {
            new.check_follows(old)?;
        }
        for (event, text) in told(self.known.get(&key), &new) {
            self.out.line(&text)?;
            self.out.item(&event)?;
        }
        self.known.insert(key, new);
        Ok(())
    }
}

/// What changed from one state of an experiment to the next, as JSON and in words.
fn told(old: Option<&ServedExperiment>, new: &ServedExperiment) -> Vec<(Value, String)> {
    let n = new.parts();
    let key = n.key.as_str();
    let mut told = Vec::new();
    let mut tell = |mut event: Value, text: String| {
        event["experiment"] = json!(key);
        event["version"] = json!(n.version);
        told.push((event, format!("{key}: {text}")));
    };
    let o = old.map(ServedExperiment::parts);
    if o.is_none_or(|o| o.status != n.status || o.generation != n.generation) {
        let shipped = match n.status {
            Status::Concluded { shipped } | Status::Archived { shipped } => Some(shipped),
            _ => None,
        };
        let shipped = shipped.and_then(|arm| n.variations.get(arm.index())).map(|v| v.key.as_str());
        let serves = shipped.map_or_else(String::new, |v| format!(", everybody gets {v}"));
        let event = json!({"event": "state", "state": n.status.name(), "generation": n.generation, "shipped": shipped});
        tell(event, format!("{}, generation {}{serves}", n.status.name(), n.generation));
    }
    let same_line = o.filter(|o| o.generation == n.generation);
    for (i, revision) in n.revisions.iter().enumerate() {
        let heard =
            |o: &inroad_assignment::served::ServedParts| o.revisions.iter().any(|r| r.number >= revision.number);
        if same_line.is_some_and(heard) {
            continue;
        }
        let before = match i.checked_sub(1) {
            Some(i) => n.revisions.get(i),
            None => same_line.and_then(|o| o.revisions.last()),
        };
        let mut arms = Vec::new();
        let mut words = Vec::new();
        for (index, variation) in n.variations.iter().enumerate() {
            let Some(arm) = Arm::new(index) else { continue };
            let share = revision.allocation.width_of(arm).share();
            let was = before.map(|r| r.allocation.width_of(arm).share());
            arms.push(json!({"variation": variation.key.as_str(), "from": was, "to": share}));
            match was {
                Some(was) if was != share => {
                    words.push(format!("{} {} → {}", variation.key, percent(was), percent(share)))
                }
                Some(_) => {}
                None => words.push(format!("{} {}", variation.key, percent(share))),
            }
        }
        let at = output::instant(revision.effective_at);
        let event = json!({"event": "revision", "revision": revision.number, "effective_at": at, "shares": arms});
        tell(event, format!("revision {} in effect from {at}: {}", revision.number, words.join(", ")));
    }
    let was_killed = o.is_some_and(|o| o.kills.everything);
    if n.kills.everything != was_killed {
        let text = if n.kills.everything { "killed: everybody gets control" } else { "restored" };
        tell(
            json!({"event": if n.kills.everything { "killed" } else { "restored" }, "variation": null}),
            text.to_owned(),
        );
    }
    for (index, variation) in n.variations.iter().enumerate() {
        let Some(arm) = Arm::new(index) else { continue };
        let now = n.kills.arm(arm);
        if now != o.is_some_and(|o| o.kills.arm(arm)) {
            let what = if now { "killed" } else { "restored" };
            tell(json!({"event": what, "variation": variation.key.as_str()}), format!("{} {what}", variation.key));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::experiment::Cause;
    use inroad_assignment::{Definition, Experiment, Salt, Target, Timestamp, Width};

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

    fn words(old: Option<&Experiment>, new: &Experiment) -> Vec<String> {
        let served = |e: &Experiment, version| ServedExperiment::of(e, version, at(0)).unwrap();
        let old = old.map(|e| served(e, 1));
        told(old.as_ref(), &served(new, 2)).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn what_is_new_is_told_whole() {
        assert_eq!(
            words(None, &experiment()),
            ["k: running, generation 1", "k: revision 1 in effect from 1970-01-01T00:00:00Z: off 75.00%, on 25.00%",]
        );
    }

    #[test]
    fn growth_and_kills_are_told_and_nothing_else() {
        let old = experiment();
        assert!(words(Some(&old), &old).is_empty());
        let mut grown = old.clone();
        let by = [(Arm::new(1).unwrap(), Width::from_share(0.25).unwrap())];
        grown.grow(&by, Cause::Grown, at(0), at(2_000_000)).unwrap();
        grown.switch(Target::Variation(Arm::new(1).unwrap()), true, at(0)).unwrap();
        assert_eq!(
            words(Some(&old), &grown),
            [
                "k: revision 2 in effect from 1970-01-01T00:00:02Z: off 75.00% → 50.00%, on 25.00% → 50.00%",
                "k: on killed",
            ]
        );
        assert_eq!(words(Some(&grown), &old), ["k: on restored"]);
    }
}
