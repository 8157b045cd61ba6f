//! The experiments of a snapshot, in chunks that consecutive snapshots share if nothing in them changed. With many
//! experiments, a change of one copies only a few references.

use std::sync::Arc;

use inroad_assignment::ServedExperiment;

/// Experiments per chunk. A change copies one chunk and the list of chunks.
const CHUNK: usize = 8;

type Experiment = Arc<ServedExperiment>;

/// Experiments in the order of their keys. Immutable. Every chunk except the last is full.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExperimentList {
    chunks: Vec<Arc<[Experiment]>>,
}

impl ExperimentList {
    fn new(experiments: &[Experiment]) -> Self {
        Self { chunks: experiments.chunks(CHUNK).map(Arc::from).collect() }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Experiment> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// All experiments, in the order of their keys.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Experiment> {
        (0..self.len()).map(|index| &self.chunks[index / CHUNK][index % CHUNK])
    }
}

/// The next list while it is being built from the previous one.
pub(crate) struct ExperimentListEdit {
    list: ExperimentList,
    /// A plain copy, made at the first insertion or removal. Replacements alone work on the chunks.
    copy: Option<Vec<Experiment>>,
}

impl ExperimentListEdit {
    pub(crate) fn new(list: ExperimentList) -> Self {
        Self { list, copy: None }
    }

    /// Whether every experiment still has its previous index.
    pub(crate) fn keeps_indices(&self) -> bool {
        self.copy.is_none()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Experiment> {
        self.copy.as_ref().map_or_else(|| self.list.get(index), |copy| copy.get(index))
    }

    /// Replaces the experiment at an index.
    pub(crate) fn replace(&mut self, index: usize, experiment: Experiment) {
        let slot = match &mut self.copy {
            Some(copy) => copy.get_mut(index),
            None => {
                let chunk = self.list.chunks.get_mut(index / CHUNK);
                chunk.and_then(|chunk| Arc::make_mut(chunk).get_mut(index % CHUNK))
            }
        };
        if let Some(slot) = slot {
            *slot = experiment;
        }
    }

    /// A copy for insertions and removals. After this call, previous indices are not valid.
    pub(crate) fn as_vec(&mut self) -> &mut Vec<Experiment> {
        let list = &self.list;
        self.copy.get_or_insert_with(|| list.iter().cloned().collect())
    }

    pub(crate) fn finish(self) -> ExperimentList {
        self.copy.map_or(self.list, |copy| ExperimentList::new(&copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_wire::{snapshot_from_wire, v1};

    fn experiment(key: usize, version: u64) -> Experiment {
        let payload = v1::Payload { value: Some(v1::payload::Value::BooleanValue(true)) };
        let control = v1::VariationSnapshot { key: "control".to_owned(), payload: Some(payload), killed: false };
        let message = v1::ExperimentSnapshot {
            key: format!("e{key}"),
            version,
            state: v1::State::Draft.into(),
            unit: "user".to_owned(),
            variations: vec![control],
            ..Default::default()
        };
        Arc::new(snapshot_from_wire(message).unwrap())
    }

    fn versions(list: &ExperimentList) -> Vec<u64> {
        list.iter().map(|e| e.parts().version).collect()
    }

    #[test]
    fn replacing_one_experiment_copies_one_chunk_and_leaves_the_old_list_unchanged() {
        for count in [0, 1, 7, 8, 9, 16, 50] {
            let mut edit = ExperimentListEdit::new(ExperimentList::default());
            edit.as_vec().extend((0..count).map(|n| experiment(n, 1)));
            let before = edit.finish();
            assert_eq!((before.len(), before.iter().len()), (count, count));
            let mut expected = vec![1; count];
            assert_eq!(versions(&before), expected);
            assert!(before.get(count).is_none());
            for index in 0..count {
                let mut edit = ExperimentListEdit::new(before.clone());
                edit.replace(index, experiment(index, 2));
                assert!(edit.keeps_indices());
                assert_eq!(edit.get(index).map(|e| e.parts().version), Some(2));
                let after = edit.finish();
                expected[index] = 2;
                assert_eq!(versions(&after), expected);
                expected[index] = 1;
                assert_eq!(versions(&before), expected, "the old list is unchanged");
                let shared = after.chunks.iter().zip(&before.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
                assert_eq!(shared, before.chunks.len() - 1);
            }
        }
    }
}
