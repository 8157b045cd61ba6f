//! The settings of a store on SQLite: its bounds on queues, memory and the size of the files.

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How many events may wait for the log; beyond that an append fails with [`StoreError::QueueFull`](crate::StoreError::QueueFull).
    pub queued_events: usize,
    /// Page cache of the counts, in MiB. It fills within a minute of traffic; what it has not is in the cache of the
    /// operating system, which costs a copy.
    pub cache_mib: u32,
    /// The most events that one fold transaction takes; fewer if they would take more than about two seconds. It limits how
    /// long a shutdown waits.
    pub fold_step_events: usize,
    /// How many exposures the fold remembers, to recognise repeats without a lookup. 917,504 fill their
    /// hash tables exactly, which take 43 MB once they are used.
    pub remembered_exposures: usize,
    /// The most outcomes of a unit whose sums are computed from them when they are needed. With more, the unit's records
    /// contain the sums, and each outcome changes them.
    pub outcomes_without_sums: usize,
    /// The most pages of 4 KiB in each file; `None` for no limit but the disk.
    pub max_pages: Option<u32>,
    /// Space on the disk that is kept for kills, restores and pauses, in bytes.
    pub reserve_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            queued_events: 200_000,
            cache_mib: 32,
            fold_step_events: 200_000,
            remembered_exposures: 917_504,
            outcomes_without_sums: 32,
            max_pages: None,
            reserve_bytes: 8 << 20,
        }
    }
}
