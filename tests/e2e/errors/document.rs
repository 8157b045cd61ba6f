//! Compares the tables of docs/errors.md with the answers of the binary. With INROAD_WRITE_ERRORS=1 the tables are
//! written instead: review the difference afterwards.

use std::path::Path;
use std::sync::Mutex;

/// Tests run in parallel, and all of them may write the file.
static FILE_LOCK: Mutex<()> = Mutex::new(());

/// Checks that the table under a heading has exactly these rows, or writes them.
pub(super) fn check(heading: &str, columns: &[&str], rows: &[Vec<String>]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let _guard = FILE_LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = std::fs::read_to_string(&path).expect("docs/errors.md");
    let start =
        text.find(&format!("## {heading}\n")).unwrap_or_else(|| panic!("docs/errors.md has no section {heading:?}"));
    let end = text[start + 3..].find("\n## ").map_or(text.len(), |at| start + 3 + at + 1);
    let section = &text[start..end];
    let table_at = section.find("\n| ").map_or(section.len(), |at| at + 1);
    let (prose, found) = section.split_at(table_at);
    let expected = table(columns, rows);
    if found.trim_end() == expected.trim_end() {
        return;
    }
    if std::env::var_os("INROAD_WRITE_ERRORS").is_some() {
        let rest = &text[end..];
        let gap = if rest.is_empty() { "" } else { "\n" };
        std::fs::write(&path, format!("{}{prose}{expected}{gap}{rest}", &text[..start]))
            .expect("the file can be written");
        return;
    }
    let missing: Vec<&str> = expected.lines().filter(|line| !found.contains(line)).collect();
    let stale: Vec<&str> = found.lines().filter(|line| !expected.contains(line)).collect();
    panic!(
        "docs/errors.md, {heading}: the binary answers\n{}\nand the document has\n{}",
        missing.join("\n"),
        stale.join("\n")
    );
}

fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut text = line(&mut columns.iter().map(|c| (*c).to_owned()));
    text += &format!("|{}\n", "---|".repeat(columns.len()));
    for row in rows {
        text += &line(&mut row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', "<br>")));
    }
    text
}
