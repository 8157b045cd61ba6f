//! The files that a simulation leaves.

use std::path::Path;

use anyhow::Context;
use inroad_simulations::export::Table;

use super::SimulateArgs;
use crate::failure::usage;
use crate::parse::is_parquet;

/// The places that were given.
pub(super) fn all(args: &SimulateArgs) -> impl Iterator<Item = &Path> {
    let given = [&args.report, &args.table, &args.runs_table, &args.course_table];
    given.into_iter().flatten().map(AsRef::as_ref)
}

/// Refuses places that cannot be written to, as far as can be told without leaving anything there.
pub(super) fn check(args: &SimulateArgs) -> anyhow::Result<()> {
    let all: Vec<&Path> = all(args).collect();
    for (i, path) in all.iter().enumerate() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(usage(format!("cannot write {}: there is no folder {}", path.display(), folder.display())));
        }
        if path.is_dir() {
            return Err(usage(format!("cannot write {}: it is a folder", path.display())));
        }
        if all[..i].contains(path) {
            return Err(usage(format!("{} is to hold two things: give each a file of its own", path.display())));
        }
    }
    Ok(())
}

/// Writes a file whole.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// A table in the format that the file's name asks for.
pub(super) fn table(path: &Path, table: &Table) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_parquet(path) { table.write_parquet(&mut bytes) } else { table.write_csv(&mut bytes) }?;
    Ok(bytes)
}
