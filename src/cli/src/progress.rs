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

/// A progress bar up to `length` units.
pub(crate) fn progress_bar(length: u64, unit: ProgressUnit, out: Output) -> ProgressBar {
    if out.json {
        return ProgressBar::hidden();
    }
    let template = match unit {
        ProgressUnit::Bytes => "{bar:30} {bytes}/{total_bytes} {eta} {msg}",
        ProgressUnit::Rows | ProgressUnit::Runs => "{bar:30} {human_pos}/{human_len} {eta} {msg}",
    };
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
