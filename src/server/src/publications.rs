//! The latest publications: when each catalogue version was published and by which change. How long a kill took to
//! reach a client is measured from here.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use inroad_assignment::Timestamp;

use crate::config::MAX_PUBLICATIONS;

/// The publication of one catalogue version, or of several that were published together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The first version that was published; the same as `version` unless many experiments changed together.
    pub first_version: u64,
    /// The version, the last if there are several.
    pub version: u64,
    /// The time just before the first watcher could receive it.
    pub at: Timestamp,
    /// The key of the changed experiment; empty if many changed together.
    pub experiment: String,
    /// The kind of change, as in the audit log.
    pub action: String,
}

/// The latest publications, oldest first, with ascending versions.
#[derive(Debug, Default)]
pub struct Publications(Mutex<VecDeque<Publication>>);

impl Publications {
    /// Adds a publication that is newer than all before.
    pub fn add(&self, publication: Publication) {
        let mut latest = self.lock();
        if latest.len() >= MAX_PUBLICATIONS {
            latest.pop_front();
        }
        latest.push_back(publication);
    }

    /// The publication of a version; none if it is not remembered.
    pub fn get(&self, version: u64) -> Option<Publication> {
        find(&self.lock(), version).cloned()
    }

    /// The publication times of these versions, in their order, read under one lock.
    pub fn times(&self, versions: impl Iterator<Item = u64>) -> Vec<Option<Timestamp>> {
        let latest = self.lock();
        versions.map(|version| find(&latest, version).map(|p| p.at)).collect()
    }

    /// All remembered versions with their publication times.
    pub fn all_times(&self) -> Vec<(u64, Timestamp)> {
        self.lock().iter().map(|p| (p.version, p.at)).collect()
    }

    /// Locks even if a holder panicked: every change under the lock is applied as a whole.
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Publication>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(latest: &VecDeque<Publication>, version: u64) -> Option<&Publication> {
    let index = latest.partition_point(|publication| publication.version < version);
    latest.get(index).filter(|publication| publication.first_version <= version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(first_version: u64, version: u64, at: Timestamp) -> Publication {
        Publication { first_version, version, at, experiment: "e".to_owned(), action: "kill".to_owned() }
    }

    #[test]
    fn versions_published_together_are_one_publication() {
        let publications = Publications::default();
        publications.add(publication(3, 3, Timestamp::from_micros(1)));
        publications.add(publication(4, 2_003, Timestamp::from_micros(2)));
        for version in [4, 900, 2_003] {
            assert_eq!(publications.get(version).map(|p| p.at), Some(Timestamp::from_micros(2)), "{version}");
        }
        assert_eq!((publications.get(2), publications.get(2_004)), (None, None));
        assert_eq!(publications.all_times().len(), 2);
    }

    #[test]
    fn oldest_publications_are_dropped_and_versions_may_have_gaps() {
        let publications = Publications::default();
        for n in 0..MAX_PUBLICATIONS as u64 + 1 {
            let at = Timestamp::from_micros(n as i64);
            publications.add(publication(2 * n, 2 * n, at));
        }
        assert_eq!(publications.get(0), None);
        assert_eq!(publications.get(2).map(|p| p.at), Some(Timestamp::from_micros(1)));
        assert_eq!(publications.times([3, 4].into_iter()), [None, Some(Timestamp::from_micros(2))]);
        assert_eq!(publications.all_times().len(), MAX_PUBLICATIONS);
    }
}
