//! When each of the last versions was published, and what made it: without this nobody could tell how long a kill took
//! to reach a client.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use inroad_assignment::Timestamp;

use crate::config::REMEMBERED_PUBLICATIONS;

/// A version, as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Which.
    pub version: u64,
    /// When watchers were first told of it.
    pub at: Timestamp,
    /// The experiment that was changed.
    pub experiment: String,
    /// How it was changed, as the audit log has it.
    pub action: String,
}

/// The last of them, oldest first; versions rise.
#[derive(Debug, Default)]
pub struct Publications(Mutex<VecDeque<Publication>>);

impl Publications {
    /// Remembers one that is newer than all before.
    pub fn add(&self, publication: Publication) {
        let mut kept = self.kept();
        if kept.len() >= REMEMBERED_PUBLICATIONS {
            kept.pop_front();
        }
        kept.push_back(publication);
    }

    /// One version, if it is remembered.
    pub fn get(&self, version: u64) -> Option<Publication> {
        let kept = self.kept();
        let place = kept.binary_search_by_key(&version, |p| p.version).ok()?;
        kept.get(place).cloned()
    }

    /// When each of these versions was published, in their order; all under one lock.
    pub fn times(&self, versions: impl Iterator<Item = u64>) -> Vec<Option<Timestamp>> {
        let kept = self.kept();
        let find = |version| kept.binary_search_by_key(&version, |p: &Publication| p.version).ok();
        versions.map(|version| find(version).and_then(|place| kept.get(place)).map(|p| p.at)).collect()
    }

    /// All versions that are remembered, with their times.
    pub fn all_times(&self) -> Vec<(u64, Timestamp)> {
        self.kept().iter().map(|p| (p.version, p.at)).collect()
    }

    /// A push or a look is whole or has not happened: a panic elsewhere has spoilt nothing.
    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Publication>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_versions_may_have_gaps() {
        let publications = Publications::default();
        for n in 0..REMEMBERED_PUBLICATIONS as u64 + 1 {
            let at = Timestamp::from_micros(n as i64);
            publications.add(Publication { version: 2 * n, at, experiment: "e".to_owned(), action: "kill".to_owned() });
        }
        assert_eq!(publications.get(0), None);
        assert_eq!(publications.get(2).map(|p| p.at), Some(Timestamp::from_micros(1)));
        assert_eq!(publications.times([3, 4].into_iter()), [None, Some(Timestamp::from_micros(2))]);
        assert_eq!(publications.all_times().len(), REMEMBERED_PUBLICATIONS);
    }
}
