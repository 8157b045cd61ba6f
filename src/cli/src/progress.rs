//! Shows the progress of a long command on standard error, if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// The unit that a progress bar counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ProgressUnit {
    /// Bytes of a file.
    Bytes,
    /// Rows of a log.
    Rows,
    /// Runs of a simulation.
    Runs,
}

/// A progress bar up to `length` units; `None` if the number is not known before the end.
pub(crate) fn progress_bar(length: Option<u64>, unit: ProgressUnit, out: Output) -> ProgressBar {
    if out.json {
        return ProgressBar::hidden();
    }
    let template = match (unit, length) {
        (ProgressUnit::Bytes, Some(_)) => "{bar:30} {bytes}/{total_bytes} {eta} {msg}",
        (ProgressUnit::Bytes, None) => "{spinner} {bytes} {elapsed} {msg}",
        (ProgressUnit::Rows | ProgressUnit::Runs, Some(_)) => "{bar:30} {human_pos}/{human_len} {eta} {msg}",
        (ProgressUnit::Rows | ProgressUnit::Runs, None) => "{spinner} {human_pos} {elapsed} {msg}",
    };
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
