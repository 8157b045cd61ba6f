//! The lists of the overview page as HTML, each rendered once and shared by all readers. Open pages load theirs again
//! whenever something changes, all at the same time, and with thousands of experiments a list takes tens of milliseconds.
//!
//! A list is kept under everything that it is rendered from. Its time is rounded to a second, because time changes rates and
//! ages slowly. Events change a list through the summaries that are computed from them, so the first reader after new
//! events requests these, also if a list is kept for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use inroad_assignment::Timestamp;
use inroad_dashboard::overview::Filter;
use lru::LruCache;
use maud::{Markup, PreEscaped};

/// The most lists that are kept. Those that nobody has read for the longest time are dropped, so also outdated ones.
const MAX_LISTS: usize = 8;
/// The largest list that is kept, together with its filter, in bytes.
const MAX_LIST_BYTES: usize = 256 * 1024;
/// The step of time, in microseconds.
const STEP_MICROS: i64 = 1_000_000;

/// Everything that a list is rendered from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::pages) struct ListInputs {
    /// The filter.
    pub(in crate::pages) filter: Filter,
    /// The number of the page, as requested.
    pub(in crate::pages) page: String,
    /// The version of the catalogue.
    pub(in crate::pages) version: u64,
    /// The round of computed summaries.
    pub(in crate::pages) round: u64,
    /// The number of the time step.
    pub(in crate::pages) step: i64,
}

impl ListInputs {
    fn bytes(&self) -> usize {
        let Filter { text, tag, owner, state, prefix } = &self.filter;
        [text, tag, owner, state, prefix, &self.page].into_iter().map(String::len).sum()
    }
}

/// The number of the time step of `now`.
pub(in crate::pages) fn time_step(now: Timestamp) -> i64 {
    now.as_micros().div_euclid(STEP_MICROS)
}

/// A list as HTML.
#[derive(Debug, Clone)]
pub(in crate::pages) struct RenderedList {
    html: Arc<str>,
    /// Whether all summaries in it are current.
    pub(in crate::pages) is_complete: bool,
}

impl RenderedList {
    pub(in crate::pages) fn new(html: &Markup, is_complete: bool) -> Self {
        Self { html: html.0.as_str().into(), is_complete }
    }

    pub(in crate::pages) fn to_markup(&self) -> Markup {
        PreEscaped(self.html.to_string())
    }
}

/// The lists that are kept.
pub(in crate::pages) struct RenderedLists {
    lists: Mutex<LruCache<ListInputs, RenderedList>>,
    /// The offset of the processed log for which summaries were requested last.
    requested_for: AtomicU64,
}

impl Default for RenderedLists {
    fn default() -> Self {
        Self { lists: Mutex::new(LruCache::unbounded()), requested_for: AtomicU64::new(0) }
    }
}

impl RenderedLists {
    /// The list for these inputs, if it is kept.
    pub(in crate::pages) fn get(&self, inputs: &ListInputs) -> Option<RenderedList> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).get(inputs).cloned()
    }

    /// Whether this is the first reader since the log was processed up to `folded`, who requests the summaries.
    pub(in crate::pages) fn must_request_summaries(&self, folded: u64) -> bool {
        self.requested_for.swap(folded, Ordering::Relaxed) != folded
    }

    /// Keeps a list, unless it is large. `inputs` must have been read before what the list is rendered from.
    pub(in crate::pages) fn keep(&self, inputs: ListInputs, list: RenderedList) {
        if inputs.bytes() + list.html.len() > MAX_LIST_BYTES {
            return;
        }
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.put(inputs, list);
        while lists.len() > MAX_LISTS {
            lists.pop_lru();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]
mod tests {
    use super::*;

    fn inputs(text: &str) -> ListInputs {
        let filter = Filter { text: text.to_owned(), ..Filter::default() };
        ListInputs { filter, page: String::new(), version: 1, round: 1, step: 1 }
    }

    fn list(html: &str) -> RenderedList {
        RenderedList::new(&PreEscaped(html.to_owned()), true)
    }

    #[test]
    fn list_is_shared_only_while_nothing_that_it_is_rendered_from_has_changed() {
        let lists = RenderedLists::default();
        lists.keep(inputs("a"), list("<p>a"));
        assert_eq!(lists.get(&inputs("a")).unwrap().to_markup().into_string(), "<p>a");
        let changed = [
            inputs("b"),
            ListInputs { page: "2".to_owned(), ..inputs("a") },
            ListInputs { version: 2, ..inputs("a") },
            ListInputs { round: 2, ..inputs("a") },
            ListInputs { step: 2, ..inputs("a") },
        ];
        for inputs in changed {
            assert!(lists.get(&inputs).is_none(), "{inputs:?}");
        }
    }

    #[test]
    fn kept_lists_are_bounded_in_number_and_bytes() {
        let lists = RenderedLists::default();
        for n in 0..MAX_LISTS + 5 {
            lists.keep(inputs(&n.to_string()), list("x"));
        }
        assert_eq!(lists.lists.lock().unwrap().len(), MAX_LISTS);
        lists.keep(inputs("large list"), list(&"x".repeat(MAX_LIST_BYTES)));
        let large_filter = inputs(&"x".repeat(MAX_LIST_BYTES));
        lists.keep(large_filter.clone(), list("x"));
        assert!(lists.get(&inputs("large list")).is_none() && lists.get(&large_filter).is_none());
        assert!(lists.get(&inputs(&(MAX_LISTS + 4).to_string())).is_some());
    }

    #[test]
    fn first_reader_after_new_events_requests_the_summaries() {
        let lists = RenderedLists::default();
        assert!(lists.must_request_summaries(7));
        assert!(!lists.must_request_summaries(7));
        assert!(lists.must_request_summaries(9));
    }
}
