//! What every store must do, whatever is behind it. A store's own test file calls [`store_contract_suite!`] with a
//! function that opens the store at a place; the same place opened again is the same store.

pub mod catalogue;
pub mod counts;
pub mod funnel;
pub mod log;
pub mod oracle;
pub mod world;

use std::path::Path;
use std::sync::Arc;

use inroad_store::{Store, StoreError};

/// How a store is opened.
pub type Open = fn(&Path) -> Result<Arc<dyn Store>, StoreError>;

/// A store at a place of its own, that can be opened again.
pub struct Place {
    folder: tempfile::TempDir,
    open: Open,
}

impl Place {
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

/// Runs something that awaits.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Every test of the contract, on a store opened by `$open`.
#[macro_export]
macro_rules! store_contract_suite {
    ($open:expr) => {
        $crate::store_contract_suite! { @each $open,
            catalogue: [
                a_change_is_compared_and_set
                what_was_committed_is_read_again
                versions_rise_across_experiments
                a_revision_that_takes_from_a_variation_is_refused
                history_is_never_taken_back
                every_change_is_audited
                decisions_are_kept_to_the_bit
                concurrent_changes_lose_nothing
                the_last_arm_can_be_killed
            ],
            log: [
                events_are_read_as_they_were_appended
                acknowledged_events_outlive_the_process
                concurrent_appends_get_places_of_their_own
                a_full_queue_refuses_and_takes_nothing
                consumers_keep_offsets
                pruning_leaves_what_somebody_has_to_read
                places_are_not_given_twice_after_pruning
                a_forgotten_unit_is_in_no_event
                a_backup_is_a_store
                a_closed_store_says_so
            ],
            counts: [
                the_counts_are_a_function_of_the_set_of_events
                an_outcome_before_its_exposure_is_credited
                a_late_earlier_exposure_moves_the_unit
                a_killed_stretch_counts_as_control
                an_exposure_from_a_clock_ahead_follows_a_later_revision
                of_two_exposures_at_one_instant_the_lower_revision_counts
                an_unknown_generation_is_looked_up
                an_older_catalogue_changes_nothing
                nobody_has_counted_nothing
            ],
            funnel: [
                a_funnel_is_a_function_of_the_set_of_events
                a_funnel_of_nothing_has_nobody_in_it
                units_without_outcomes_and_outcomes_without_units_are_told_apart
            ],
        }
    };
    (@each $open:expr, $($module:ident: [$($test:ident)*],)*) => {
        $($(
            #[test]
            fn $test() {
                contract::block_on(contract::$module::$test(contract::Place::new($open)));
            }
        )*)*
    };
}
