//! What an experiment serves, in words: the commands that change it and those that list it say the same.

use inroad_wire::v1::Experiment;

/// The key of control.
pub(super) fn control_key(e: &Experiment) -> &str {
    e.variations.first().map_or("control", |v| v.key.as_str())
}

/// Whether the variation is killed, or the whole experiment without one.
pub(super) fn is_killed(e: &Experiment, variation: Option<&str>) -> bool {
    match variation {
        Some(variation) => e.variations.iter().any(|v| v.key == variation && v.killed),
        None => e.killed,
    }
}

/// The units that a conclusion serves its variation to: `all units` or `units in the audience (country == "us")`.
pub(super) fn audience_of(e: &Experiment) -> String {
    if e.shipped_within_audience && !e.audience.is_empty() {
        format!("units in the audience ({})", e.audience)
    } else {
        "all units".to_owned()
    }
}

/// Whether the experiment was concluded with control. A draft that was archived never ran.
pub(super) fn is_rolled_back(e: &Experiment) -> bool {
    e.generation > 0 && e.shipped == control_key(e)
}

/// Whether units get control instead of the variation that was shipped, because it or the whole experiment is killed.
pub(super) fn is_shipped_killed(e: &Experiment) -> bool {
    e.generation > 0 && !e.shipped.is_empty() && !is_rolled_back(e) && (e.killed || is_killed(e, Some(&e.shipped)))
}

/// What a concluded, archived or draft experiment serves: `all units get green`.
pub(super) fn serving_text(e: &Experiment) -> String {
    let control = control_key(e);
    if e.shipped.is_empty() || e.shipped == control || is_shipped_killed(e) {
        return format!("all units get {control}");
    }
    let units = audience_of(e);
    let others = if units == "all units" { String::new() } else { format!(", all others {control}") };
    format!("{units} get {}{others}", e.shipped)
}
