//! The allocation of an experiment as one row of characters in a terminal. Pure.

use inroad_assignment::{Allocation, Arm, Kills, Point};

/// Background colours of the variations, distinguishable with colour blindness. Control is grey.
const COLOURS: [u8; 6] = [33, 208, 36, 170, 178, 75];
/// The colour of control.
const GREY: u8 = 240;

/// The character of each arm: a dot for control, a letter for each other variation.
pub(crate) fn variation_letters(keys: &[&str]) -> Vec<char> {
    let mut variation_letters: Vec<char> = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let own = key.chars().map(|c| c.to_ascii_uppercase()).filter(char::is_ascii_alphabetic);
        let letter = own.chain('A'..='Z').find(|c| !variation_letters.contains(c)).unwrap_or('?');
        variation_letters.push(if i == 0 { '·' } else { letter });
    }
    variation_letters
}

/// Draws the line in `width` cells. Each cell shows the owner of its middle; a killed variation is in lower case.
pub(crate) fn draw_allocation(
    allocation: &Allocation,
    kills: Kills,
    variation_letters: &[char],
    width: usize,
    colours: bool,
) -> String {
    let cell = |i: usize| {
        let middle = ((2 * i as u128 + 1) << 64) / (2 * width.max(1) as u128);
        let arm = allocation.owner(Point::new(u64::try_from(middle).unwrap_or(u64::MAX)));
        let letter = variation_letters.get(arm.index()).copied().unwrap_or('?');
        (arm, if kills.is_arm_killed(arm) { letter.to_ascii_lowercase() } else { letter })
    };
    let cells = (0..width).map(cell);
    if colours {
        cells.map(|(arm, letter)| coloured(arm, &letter.to_string())).collect()
    } else {
        cells.map(|c| c.1).collect()
    }
}

/// Text on the colour of its arm.
pub(crate) fn coloured(arm: Arm, text: &str) -> String {
    let colour = match arm.index().checked_sub(1) {
        None => GREY,
        Some(i) => COLOURS[i % COLOURS.len()],
    };
    format!("\x1b[48;5;{colour}m\x1b[97m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_assignment::{KillTarget, Width};

    fn quarter() -> Width {
        Width::from_share(0.25).unwrap()
    }

    #[test]
    fn buckets_are_drawn_in_the_order_of_the_line() {
        let line = Allocation::with_footholds(&[quarter(), quarter()], Width::ZERO).unwrap();
        let variation_letters = variation_letters(&["no-email", "womens-email", "mens-email"]);
        assert_eq!(draw_allocation(&line, Kills::default(), &variation_letters, 16, false), "WWWW····MMMM····");
        let kills = Kills::default().with_change(KillTarget::Variation(Arm::new(2).unwrap()), true);
        assert_eq!(draw_allocation(&line, kills, &variation_letters, 16, false), "WWWW····mmmm····");
        assert_eq!(draw_allocation(&Allocation::all_control(), kills, &variation_letters, 4, false), "····");
    }

    #[test]
    fn variations_with_the_same_first_letter_get_different_letters() {
        assert_eq!(variation_letters(&["control", "a", "ab", "abc", "7"]), ['·', 'A', 'B', 'C', 'D']);
    }

    #[test]
    fn coloured_bar_contains_the_letters() {
        let line = Allocation::with_footholds(&[quarter()], Width::ZERO).unwrap();
        let text = draw_allocation(&line, Kills::default(), &['·', 'A'], 4, true);
        assert_eq!(text.matches('A').count(), 1);
        assert!(text.ends_with("\x1b[0m"));
    }
}
