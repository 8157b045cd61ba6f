//! The requested columns among those of a file, and what is called with their cells: the same for every kind of file.

use crate::failure::usage_error;
use crate::suggestions::did_you_mean;

/// Called for each row with its number, from 1, and its cells. An empty cell is empty text.
pub(super) type OnRow<'a> = dyn FnMut(u64, &[&str]) -> anyhow::Result<()> + 'a;

/// The position of each requested column. A name that several columns have is refused, because nothing says which one is
/// meant.
pub(super) fn positions(columns: &[&str], existing: &[&str]) -> anyhow::Result<Vec<usize>> {
    let position = |name: &&str| {
        let mut found = existing.iter().zip(0..).filter(|(column, _)| *column == name).map(|(_, position)| position);
        let Some(first) = found.next() else {
            let similar = did_you_mean(name, existing.iter().copied());
            let has = if existing.is_empty() { "is empty".to_owned() } else { format!("has {}", existing.join(", ")) };
            return Err(usage_error(format!("there is no column {name:?}.{similar} The file {has}.")));
        };
        match found.next() {
            None => Ok(first),
            Some(second) => Err(usage_error(format!(
                "two columns are named {name:?}: column {} and column {}. Rename one of them.",
                first + 1,
                second + 1
            ))),
        }
    };
    columns.iter().map(position).collect()
}
