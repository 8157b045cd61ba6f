//! The files that a simulation writes.

use std::path::Path;

use anyhow::Context;
use inroad_simulations::export::Table;

use super::SimulateArgs;
use crate::failure::usage_error;
use crate::parse::is_parquet;

/// The paths on the command line.
pub(super) fn paths(args: &SimulateArgs) -> impl Iterator<Item = &Path> {
    let given = [&args.report, &args.table, &args.runs_table, &args.course_table];
    given.into_iter().flatten().map(AsRef::as_ref)
}

/// Checks that the files can be written, as far as possible without creating anything.
pub(super) fn check_paths(args: &SimulateArgs) -> anyhow::Result<()> {
    let paths: Vec<&Path> = paths(args).collect();
    for (i, path) in paths.iter().enumerate() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(usage_error(format!(
                "cannot write {}: the folder {} does not exist",
                path.display(),
                folder.display()
            )));
        }
        if path.is_dir() {
            return Err(usage_error(format!("cannot write {}: it is a folder", path.display())));
        }
        if paths[..i].contains(path) {
            return Err(usage_error(format!(
                "{} is given for two files. Use a different file for each.",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Writes a whole file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// A table as Parquet or CSV, depending on the file's extension.
pub(super) fn encode_table(path: &Path, table: &Table) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_parquet(path) { table.write_parquet(&mut bytes) } else { table.write_csv(&mut bytes) }?;
    Ok(bytes)
}
