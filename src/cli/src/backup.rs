//! `inroad backup`: copies a server's data folder as of one moment, to serve from if the original is lost.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::output::{Output, count, plural};
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

/// Copies the store and prints what the copy contains.
pub(crate) async fn run(args: BackupArgs, out: Output) -> anyhow::Result<()> {
    let (from, to) = (args.store.folder(), args.to.clone());
    let copied = tokio::task::spawn_blocking(move || inroad_server::backup(&from, &to)).await??;
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
