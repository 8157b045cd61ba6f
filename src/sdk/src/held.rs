//! The experiments of a snapshot, in chunks that the next snapshot shares where nothing changed: a client with many
//! experiments that hears of one copies a few references, and lets go of as few.

use std::sync::Arc;

use inroad_assignment::ServedExperiment;

/// Experiments in a chunk: what one change copies, beside the list of chunks.
const CHUNK: usize = 8;

type Experiment = Arc<ServedExperiment>;

/// In order of their keys; never changed. Every chunk but the last is full.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    chunks: Vec<Arc<[Experiment]>>,
}

impl Held {
    fn of(experiments: &[Experiment]) -> Self {
        Self { chunks: experiments.chunks(CHUNK).map(Arc::from).collect() }
    }

    /// The experiment at a place.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&Experiment> {
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Experiment> {
        (0..self.len()).map(|place| &self.chunks[place / CHUNK][place % CHUNK])
    }
}

/// What the next snapshot will hold, while it is made.
pub(crate) struct Draft {
    /// As long as no key has come or gone, every experiment has the place that it had.
    held: Held,
    /// Once one has.
    list: Option<Vec<Experiment>>,
}

impl Draft {
    /// Begins with what is held.
    pub(crate) fn of(held: Held) -> Self {
        Self { held, list: None }
    }

    /// Whether every experiment has the place that it had.
    pub(crate) fn same_places(&self) -> bool {
        self.list.is_none()
    }

    /// The experiment at a place.
    pub(crate) fn get(&self, place: usize) -> Option<&Experiment> {
        self.list.as_ref().map_or_else(|| self.held.get(place), |list| list.get(place))
    }

    /// Puts another in the place of one that is there.
    pub(crate) fn replace(&mut self, place: usize, experiment: Experiment) {
        let at = match &mut self.list {
            Some(list) => list.get_mut(place),
            None => {
                let chunk = self.held.chunks.get_mut(place / CHUNK);
                chunk.and_then(|chunk| Arc::make_mut(chunk).get_mut(place % CHUNK))
            }
        };
        if let Some(at) = at {
            *at = experiment;
        }
    }

    /// To be added to and taken from: places hold no more.
    pub(crate) fn list(&mut self) -> &mut Vec<Experiment> {
        let held = &self.held;
        self.list.get_or_insert_with(|| held.iter().cloned().collect())
    }

    /// What is held from now on.
    pub(crate) fn done(self) -> Held {
        self.list.map_or(self.held, |list| Held::of(&list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_wire::{served_from_wire, v1};

    fn experiment(key: usize, version: u64) -> Experiment {
        let payload = v1::Payload { value: Some(v1::payload::Value::BooleanValue(true)) };
        let control = v1::VariationSnapshot { key: "control".to_owned(), payload: Some(payload), killed: false };
        let sent = v1::ExperimentSnapshot {
            key: format!("e{key}"),
            version,
            state: v1::State::Draft.into(),
            unit: "user".to_owned(),
            variations: vec![control],
            ..Default::default()
        };
        Arc::new(served_from_wire(sent).unwrap())
    }

    fn versions(held: &Held) -> Vec<u64> {
        held.iter().map(|e| e.parts().version).collect()
    }

    #[test]
    fn chunks_hold_what_a_list_holds() {
        for count in [0, 1, 7, 8, 9, 16, 50] {
            let mut draft = Draft::of(Held::default());
            draft.list().extend((0..count).map(|n| experiment(n, 1)));
            let before = draft.done();
            assert_eq!((before.len(), before.iter().len()), (count, count));
            let mut want = vec![1; count];
            assert_eq!(versions(&before), want);
            assert!(before.get(count).is_none());
            for place in 0..count {
                let mut draft = Draft::of(before.clone());
                draft.replace(place, experiment(place, 2));
                assert!(draft.same_places());
                assert_eq!(draft.get(place).map(|e| e.parts().version), Some(2));
                let after = draft.done();
                want[place] = 2;
                assert_eq!(versions(&after), want);
                want[place] = 1;
                assert_eq!(versions(&before), want, "who has the old one is not disturbed");
                let shared = after.chunks.iter().zip(&before.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
                assert_eq!(shared, before.chunks.len() - 1);
            }
        }
    }
}
