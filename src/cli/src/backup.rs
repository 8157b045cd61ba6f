//! `inroad backup`: copies a server's data folder as of one moment, to serve from if the original is lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::output::{Output, count, plural};
use crate::progress::{self, ProgressUnit};
use crate::store_args::StoreArgs;

/// The folder to copy, and the folder to copy to.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Folder to copy to; created if missing, refused if it contains a store
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// How often the size of the copy is read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The bytes of the files in a folder; 0 for files and folders that cannot be read.
fn folder_size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(|file| file.is_file()).map(|file| file.len()).sum()
}

/// Copies the store and prints what the copy contains.
pub(crate) async fn run(args: BackupArgs, out: Output) -> anyhow::Result<()> {
    let (from, to) = (args.store.folder(), args.to.clone());
    let bar = progress::progress_bar(Some(folder_size(&from)), ProgressUnit::Bytes, out);
    let mut copy = tokio::task::spawn_blocking(move || inroad_server::backup(&from, &to));
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let copied = loop {
        tokio::select! {
            copied = &mut copy => break copied,
            // The copy is written in one step, so its size is the only sign of progress.
            _ = interval.tick() => bar.set_position(folder_size(&args.to)),
        }
    };
    bar.finish_and_clear();
    let copied = copied??;
    let folder = args.to.display().to_string();
    out.print_text(format!(
        "copied to {folder}: {}, {} ({} counted), {} bytes",
        plural(copied.experiments, "experiment"),
        plural(copied.head, "event"),
        count(copied.folded),
        count(copied.bytes)
    ))?;
    Ok(out.print_json(&json!({
        "folder": folder, "experiments": copied.experiments, "log_head": copied.head, "counted": copied.folded,
        "bytes": copied.bytes,
    }))?)
}
