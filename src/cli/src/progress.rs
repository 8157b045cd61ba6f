//! How far a long command has come, on standard error; unseen where nobody looks.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// What the bar counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    /// Bytes of a file.
    Bytes,
    /// Rows of a log.
    Rows,
    /// Runs of a simulation.
    Runs,
}

/// A bar up to `length`.
pub(crate) fn bar(length: u64, of: Of, out: Output) -> ProgressBar {
    if out.json {
        return ProgressBar::hidden();
    }
    let template = match of {
        Of::Bytes => "{bar:30} {bytes}/{total_bytes} {eta} {msg}",
        Of::Rows | Of::Runs => "{bar:30} {human_pos}/{human_len} {eta} {msg}",
    };
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
