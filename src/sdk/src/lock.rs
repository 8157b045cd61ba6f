//! Locks a mutex even after another thread has panicked while holding it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poisoning: all data behind these mutexes is consistent after every single step, so a panic while
/// a lock was held cannot have corrupted it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
