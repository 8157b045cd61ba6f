//! `inroad backup`: a copy of a server's data folder, of one moment, to serve from when the original is gone.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::output::{Output, count};
use crate::serve::Place;

/// What to copy where.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The folder to copy to; made if need be, and refused if it has a store in it
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Copies it, and says what is in the copy.
pub(crate) async fn run(args: BackupArgs, out: Output) -> anyhow::Result<()> {
    let (from, to) = (args.place.folder(), args.to.clone());
    let copied = tokio::task::spawn_blocking(move || inroad_server::backup(&from, &to)).await??;
    let folder = args.to.display().to_string();
    out.line(format!(
        "copied to {folder}: {} experiments, events up to {} of which {} are counted, {} bytes",
        count(copied.experiments),
        count(copied.head),
        count(copied.folded),
        count(copied.bytes)
    ))?;
    Ok(out.value(&json!({
        "folder": folder, "experiments": copied.experiments, "log_head": copied.head, "counted": copied.folded,
        "bytes": copied.bytes,
    }))?)
}
