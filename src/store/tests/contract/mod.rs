//! The contract that every store must fulfil. The tests of an implementation call [`store_contract_suite!`] with a
//! function that opens a store in a folder; opening the same folder again must give the same store.

pub mod catalogue;
pub mod counts;
pub mod funnel;
pub mod log;
pub mod oracle;
pub mod world;

use std::path::Path;
use std::sync::Arc;

use inroad_store::{Store, StoreError};

/// Opens a store in a folder.
pub type Open = fn(&Path) -> Result<Arc<dyn Store>, StoreError>;

/// A store in its own temporary folder, which can be opened several times in succession.
pub struct TestStore {
    folder: tempfile::TempDir,
    open: Open,
}

impl TestStore {
    pub fn new(open: Open) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), open }
    }

    pub fn open(&self) -> Arc<dyn Store> {
        (self.open)(self.folder.path()).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Every test of the contract, on a store opened by `$open`.
#[macro_export]
macro_rules! store_contract_suite {
    ($open:expr) => {
        $crate::store_contract_suite! { @each $open,
            catalogue: [
                change_needs_the_current_version
                changes_of_many_experiments_are_stored_together_or_not_at_all
                prepared_changes_are_stored_only_if_no_experiment_was_changed_since
                audit_search_filters_and_pages
                committed_experiment_is_loaded_unchanged
                reopened_data_continues_its_lineages_and_a_copy_none_that_went_on_without_it
                versions_rise_across_experiments
                revision_that_takes_points_from_a_variation_is_refused
                change_that_removes_history_is_refused
                every_change_is_audited
                audit_entry_has_only_what_changed
                pages_of_audit_entries_are_limited_by_bytes
                earlier_states_are_found_in_the_audit_log
                decisions_are_stored_byte_for_byte
                concurrent_changes_are_all_stored
                last_arm_can_be_killed
            ],
            log: [
                events_are_read_as_appended
                acknowledged_events_survive_a_restart
                concurrent_appends_get_separate_places
                full_queue_refuses_whole_batches
                consumer_offsets_survive_a_restart
                pruning_keeps_unread_and_recent_events
                places_are_not_reused_after_pruning
                forgotten_unit_is_in_no_event
                backup_is_a_complete_store
                closed_store_returns_closed_errors
            ],
            counts: [
                counts_depend_only_on_the_set_of_events
                outcome_received_before_its_exposure_is_credited
                late_report_of_an_earlier_exposure_moves_the_unit
                kill_drops_exposed_units_and_counts_new_ones_as_control
                exposure_from_a_fast_clock_counts_under_the_later_revision
                simultaneous_exposures_count_under_the_lowest_revision
                exposure_of_an_unknown_generation_reloads_the_catalogue
                older_catalogue_changes_no_counts
                older_catalogue_after_a_restart_changes_no_counts
                counts_of_an_unknown_experiment_are_empty
            ],
            funnel: [
                funnel_depends_only_on_the_set_of_events
                funnel_without_events_is_empty
                funnel_whose_caller_left_is_not_counted
                state_of_counts_changes_with_the_counts_of_that_generation
                only_outcomes_of_exposed_units_are_counted
            ],
        }
    };
    (@each $open:expr, $($module:ident: [$($test:ident)*],)*) => {
        $($(
            #[test]
            fn $test() {
                contract::block_on(contract::$module::$test(contract::TestStore::new($open)));
            }
        )*)*
    };
}
