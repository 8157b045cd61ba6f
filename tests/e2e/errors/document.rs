//! docs/errors.md, read and compared section by section. With INROAD_WRITE_ERRORS=1 it is written instead: then look at
//! what changed.

use std::path::Path;
use std::sync::Mutex;

static WRITING: Mutex<()> = Mutex::new(());

/// The table under a heading has exactly these rows.
pub(super) fn check(heading: &str, columns: &[&str], rows: &[Vec<String>]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let _one_at_a_time = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let text = std::fs::read_to_string(&path).expect("docs/errors.md");
    let start = text.find(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let end = text[start + 3..].find("\n## ").map_or(text.len(), |at| start + 3 + at + 1);
    let section = &text[start..end];
    let table_at = section.find("\n| ").map_or(section.len(), |at| at + 1);
    let (prose, found) = section.split_at(table_at);
    let wanted = table(columns, rows);
    if found.trim_end() == wanted.trim_end() {
        return;
    }
    if std::env::var_os("INROAD_WRITE_ERRORS").is_some() {
        let rest = &text[end..];
        let gap = if rest.is_empty() { "" } else { "\n" };
        std::fs::write(&path, format!("{}{prose}{wanted}{gap}{rest}", &text[..start])).expect("it can be written");
        return;
    }
    let missing: Vec<&str> = wanted.lines().filter(|line| !found.contains(line)).collect();
    let stale: Vec<&str> = found.lines().filter(|line| !wanted.contains(line)).collect();
    panic!(
        "docs/errors.md, {heading}: the binary says\n{}\nwhere the document says\n{}",
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
