//! Unit keys in a text area, one per line. A key that a line cannot hold, or whose characters are invisible, is written
//! as a JSON string.

/// Writes unit keys as lines.
pub(super) fn to_lines<'a>(units: impl Iterator<Item = &'a str>) -> String {
    let line = |unit: &str| if is_plain(unit) { unit.to_owned() } else { serde_json::Value::from(unit).to_string() };
    units.map(line).collect::<Vec<_>>().join("\n")
}

/// Reads unit keys from lines, skipping blank ones; or returns an error message.
pub(super) fn from_lines(lines: &str) -> Result<Vec<String>, String> {
    let filled = lines.split('\n').filter(|line| !line.trim().is_empty());
    filled
        .map(|line| {
            if !line.starts_with('"') {
                return Ok(line.to_owned());
            }
            let quoted = serde_json::from_str(line);
            quoted.map_err(|_| {
                format!("{line} starts with a quotation mark but is not a JSON string. Write it like \" lead\".")
            })
        })
        .collect()
}

fn is_plain(unit: &str) -> bool {
    !unit.is_empty() && unit.trim() == unit && !unit.starts_with('"') && !unit.contains(char::is_control)
}
