//! Unit keys in a text area, one a line. A key may be any text: what a line cannot carry, or an eye cannot see, stands
//! there as a JSON string.

/// The lines of some units.
pub(super) fn written<'a>(units: impl Iterator<Item = &'a str>) -> String {
    let line = |unit: &str| if is_plain(unit) { unit.to_owned() } else { serde_json::Value::from(unit).to_string() };
    units.map(line).collect::<Vec<_>>().join("\n")
}

/// The units of some lines, blank ones left out; or what is wrong with one.
pub(super) fn read(lines: &str) -> Result<Vec<String>, String> {
    let told = lines.split('\n').filter(|line| !line.trim().is_empty());
    told.map(|line| {
        if !line.starts_with('"') {
            return Ok(line.to_owned());
        }
        let quoted = serde_json::from_str(line);
        quoted
            .map_err(|_| format!("{line} begins with a quotation mark, but is no JSON string: write it like \" lead\""))
    })
    .collect()
}

fn is_plain(unit: &str) -> bool {
    !unit.is_empty() && unit.trim() == unit && !unit.starts_with('"') && !unit.contains(char::is_control)
}
