//! The snapshot in use, laid out for looking up, and how the next one is made of it and what the server sent.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::FixedState;
use inroad_assignment::{Assignment, Context, Reason, ServedExperiment, Timestamp};
use inroad_wire::{served_from_wire, v1};

use crate::error::Error;
use crate::held::{Draft, Held};
use crate::report::Refusal;

/// Where an experiment stands, by its key.
type Places = HashMap<Box<str>, u32, FixedState>;

/// Every experiment at one version. Never changed: the next one takes its place whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Whether anything was heard yet.
    pub(crate) ready: bool,
    pub(crate) version: u64,
    pub(crate) store_id: String,
    /// Found by key once; after that an answer refers to its experiment by its place.
    places: Arc<Places>,
    experiments: Held,
}

/// A step from one state to the next.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) state: State,
    /// Whether any experiment came, changed or went, or this is the first state or another version.
    pub(crate) changed: bool,
    /// Whether the store is another one than before.
    pub(crate) other_store: bool,
    pub(crate) refused: Vec<Refusal>,
    /// Whose good state has come, or who is gone.
    pub(crate) accepted: Vec<Arc<ServedExperiment>>,
    /// How many were older than what is here.
    pub(crate) stale: u64,
}

impl State {
    /// What a unit gets of one experiment, and the experiment's place.
    #[inline]
    pub(crate) fn evaluate(
        &self,
        key: &str,
        context: &Context,
        now: impl FnOnce() -> Timestamp,
    ) -> (u32, Assignment<'_>) {
        if let Some(place) = self.places.get(key)
            && let Some(experiment) = self.at(*place)
        {
            return (*place, experiment.assign_at(context, now));
        }
        let reason = if self.ready { Reason::UnknownExperiment } else { Reason::NotReady };
        (u32::MAX, Assignment::unknown(reason))
    }

    /// The experiment at a place.
    #[inline]
    pub(crate) fn at(&self, place: u32) -> Option<&ServedExperiment> {
        self.experiments.get(place as usize).map(|experiment| &**experiment)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<ServedExperiment>> {
        self.places.get(key).and_then(|place| self.experiments.get(*place as usize))
    }

    pub(crate) fn experiments(&self) -> &Held {
        &self.experiments
    }

    /// Whether a message says nothing but that the server is there.
    pub(crate) fn is_heartbeat(&self, sent: &v1::WatchSnapshotsResponse) -> bool {
        let nothing = !sent.full && sent.experiments.is_empty() && sent.removed.is_empty();
        nothing && self.ready && sent.version == self.version && sent.store_id == self.store_id
    }

    /// The next state: what was sent, checked against what is here. What does not pass is left out, and its older
    /// self stays.
    ///
    /// # Errors
    /// [`Error::ForeignChanges`] when these are changes to a store that this is not a state of.
    pub(crate) fn next(&self, sent: v1::WatchSnapshotsResponse) -> Result<Step, Error> {
        let other_store = self.store_id != sent.store_id;
        if other_store && !sent.full {
            return Err(Error::ForeignChanges);
        }
        // A replica that lags knows less than this client; what it does not know is not gone.
        let behind = !other_store && sent.version < self.version;
        let (mut refused, mut accepted, mut stale) = (Vec::new(), Vec::new(), 0);
        // In order of their keys. Most messages change one experiment, and none comes or goes.
        let mut draft = Draft::of(if other_store { Held::default() } else { self.experiments.clone() });
        if !behind && (sent.full || !sent.removed.is_empty()) {
            let named: HashSet<&str> = sent.experiments.iter().map(|e| e.key.as_str()).collect();
            let is_gone = |old: &Arc<ServedExperiment>| {
                let key = old.parts().key.as_str();
                sent.full && !named.contains(key) || sent.removed.iter().any(|r| r == key)
            };
            accepted.extend(self.experiments.iter().filter(|old| !other_store && is_gone(old)).cloned());
            if !accepted.is_empty() {
                draft.list().retain(|old| !is_gone(old));
            }
        }
        let version = if behind { self.version } else { sent.version };
        let mut changed = other_store || !draft.same_places() || !self.ready || version != self.version;
        for sent in sent.experiments {
            let key = sent.key.clone();
            // Places hold as long as no key has come or gone; then a search of what is in order.
            let known = self.places.get(key.as_str()).filter(|_| !other_store && draft.same_places());
            let place = match known {
                Some(place) => Ok(*place as usize),
                None => draft.list().binary_search_by(|e| e.parts().key.as_str().cmp(&key)),
            };
            let old = place.ok().and_then(|place| draft.get(place));
            match old.map(|old| sent.version.cmp(&old.parts().version)) {
                // Only older, as from a replica that lags: nothing is wrong with it, and nothing to be done with it.
                Some(Ordering::Less) => {
                    stale += 1;
                    continue;
                }
                Some(Ordering::Equal) => {
                    accepted.extend(old.cloned());
                    continue;
                }
                Some(Ordering::Greater) | None => {}
            }
            let checked = served_from_wire(sent).map_err(|error| error.to_string()).and_then(|new| {
                let follows = old.map_or(Ok(()), |old| new.check_follows(old));
                follows.map(|()| new).map_err(|error| error.to_string())
            });
            match checked {
                Ok(new) => {
                    let new = Arc::new(new);
                    match place {
                        Ok(place) => draft.replace(place, Arc::clone(&new)),
                        Err(place) => draft.list().insert(place, Arc::clone(&new)),
                    }
                    accepted.push(new);
                    changed = true;
                }
                Err(reason) => refused.push(Refusal { experiment: key, reason }),
            }
        }
        let same_places = !other_store && draft.same_places();
        let experiments = draft.done();
        let places = if same_places { Arc::clone(&self.places) } else { Arc::new(places_of(&experiments)) };
        let state = Self { ready: true, version, store_id: sent.store_id, places, experiments };
        Ok(Step { state, changed, other_store, refused, accepted, stale })
    }
}

fn places_of(experiments: &Held) -> Places {
    experiments.iter().zip(0..).map(|(e, place)| (e.parts().key.as_str().into(), place)).collect()
}
