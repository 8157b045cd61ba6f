//! Short labels for numbers that a reader may compare although they count different things: distinct units and units by
//! variation, exposed and counted units, the lift and the plain ratio of two means.

use inroad_dashboard::format::{NumberFormat, grouped_count, plural};
use inroad_policy::LiftEstimate;

/// The units of a generation, counted in different ways.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnitCounts {
    /// Distinct exposed units.
    pub(crate) distinct: u64,
    /// The sum of the exposed units of all variations.
    pub(crate) exposed_by_variation: u64,
    /// Units in the estimate of the decision metric, and excluded from it; none without a decision metric.
    pub(crate) counted_and_excluded: Option<(u64, u64)>,
}

impl UnitCounts {
    /// How many units were exposed, and how the other numbers are related to that; empty before the first exposure.
    pub(crate) fn note(self) -> String {
        let in_two_rows = self.exposed_by_variation.saturating_sub(self.distinct);
        if self.distinct == 0 {
            return String::new();
        }
        let were = |units: u64| if units == 1 { "was" } else { "were" };
        let mut note = format!("{} {} exposed", plural(self.distinct, "unit"), were(self.distinct));
        if in_two_rows > 0 {
            note += &format!(
                "; {} of them {} exposed to two variations and {} listed under both, so the column adds up to {}",
                grouped_count(in_two_rows),
                were(in_two_rows),
                if in_two_rows == 1 { "is" } else { "are" },
                grouped_count(self.exposed_by_variation)
            );
        }
        note += ".";
        if let Some((counted, excluded)) = self.counted_and_excluded.filter(|(_, excluded)| *excluded > 0) {
            note += &format!(
                " Estimates of the primary metric count each unit once, under its first variation: {} {} counted, {} \
                 excluded because the variation served to them changed within the window or the run had ended.",
                grouped_count(counted),
                if counted == 1 { "is" } else { "are" },
                grouped_count(excluded)
            );
        }
        note
    }
}

/// The plain ratio of a variation's mean to that of control, and why the lift differs from it. Empty if both are equal
/// as shown, and if one of them does not exist.
pub(crate) fn ratio_note(lift: Option<&LiftEstimate>, mean: Option<f64>, control: Option<f64>) -> String {
    let Some(((lift, mean), control)) = lift.and_then(LiftEstimate::relative).zip(mean).zip(control) else {
        return String::new();
    };
    if control <= 0.0 {
        return String::new();
    }
    let (lift, ratio) = (NumberFormat::Lift.text(lift.estimate), NumberFormat::Lift.text(mean / control - 1.0));
    if lift == ratio {
        return String::new();
    }
    format!(
        "the plain ratio to control is {ratio}; the lift {lift} compares only units of the same reporting interval, so that \
         changing shares do not distort it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_policy::Interval;

    #[test]
    fn equal_counts_need_no_explanation() {
        let counts = UnitCounts { distinct: 10, exposed_by_variation: 10, counted_and_excluded: Some((10, 0)) };
        assert_eq!(counts.note(), "10 units were exposed.");
        let none = UnitCounts { distinct: 0, exposed_by_variation: 0, counted_and_excluded: Some((0, 0)) };
        assert_eq!(none.note(), "");
    }

    #[test]
    fn note_adds_up() {
        let counts = UnitCounts { distinct: 39_001, exposed_by_variation: 40_130, counted_and_excluded: None };
        assert_eq!(
            counts.note(),
            "39,001 units were exposed; 1,129 of them were exposed to two variations and are listed under both, so the \
             column adds up to 40,130."
        );
        let counts = UnitCounts { distinct: 3, exposed_by_variation: 3, counted_and_excluded: Some((1, 2)) };
        assert_eq!(
            counts.note(),
            "3 units were exposed. Estimates of the primary metric count each unit once, under its first variation: 1 is \
             counted, 2 excluded because the variation served to them changed within the window or the run had ended."
        );
    }

    #[test]
    fn ratio_is_noted_only_where_it_reads_differently_from_the_lift() {
        let lift = LiftEstimate::Measured(Interval { estimate: 0.671, low: 0.5, high: 0.9 });
        let note = ratio_note(Some(&lift), Some(0.1849), Some(0.1079));
        assert!(note.contains("+71.4%") && note.contains("+67.1%"), "{note}");
        assert_eq!(ratio_note(Some(&lift), Some(0.1671), Some(0.1)), "", "equal as shown");
        assert_eq!(ratio_note(Some(&lift), Some(0.1671), Some(0.0)), "");
        assert_eq!(ratio_note(None, Some(0.1), Some(0.1)), "", "control");
    }
}
