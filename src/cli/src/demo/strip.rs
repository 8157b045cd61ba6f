//! The line drawn in one row of a terminal: each bucket in its place. Pure.

use inroad_assignment::{Allocation, Arm, Kills, Point};

/// Background colours for the variations beside control, told apart also by the colour-blind.
const COLOURS: [u8; 6] = [33, 208, 36, 170, 178, 75];
/// Control's colour.
const GREY: u8 = 240;

/// How each arm is drawn: control as a dot, the others by a letter.
pub(crate) fn letters(keys: &[&str]) -> Vec<char> {
    let mut letters: Vec<char> = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        let own = key.chars().map(|c| c.to_ascii_uppercase()).filter(char::is_ascii_alphabetic);
        let letter = own.chain('A'..='Z').find(|c| !letters.contains(c)).unwrap_or('?');
        letters.push(if i == 0 { '·' } else { letter });
    }
    letters
}

/// The line, `width` cells wide: each cell shows who owns its middle. A killed variation is drawn in lower case.
pub(crate) fn strip(allocation: &Allocation, kills: Kills, letters: &[char], width: usize, colours: bool) -> String {
    let cell = |i: usize| {
        let middle = ((2 * i as u128 + 1) << 64) / (2 * width.max(1) as u128);
        let arm = allocation.owner(Point::new(u64::try_from(middle).unwrap_or(u64::MAX)));
        let letter = letters.get(arm.index()).copied().unwrap_or('?');
        (arm, if kills.arm(arm) { letter.to_ascii_lowercase() } else { letter })
    };
    let cells = (0..width).map(cell);
    if colours {
        cells.map(|(arm, letter)| coloured(arm, &letter.to_string())).collect()
    } else {
        cells.map(|c| c.1).collect()
    }
}

/// A text on its arm's colour.
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
    use inroad_assignment::{Target, Width};

    fn quarter() -> Width {
        Width::from_share(0.25).unwrap()
    }

    #[test]
    fn buckets_stand_in_their_places() {
        let line = Allocation::with_footholds(&[quarter(), quarter()], Width::ZERO).unwrap();
        let letters = letters(&["no-email", "womens-email", "mens-email"]);
        assert_eq!(strip(&line, Kills::default(), &letters, 16, false), "WWWW····MMMM····");
        let kills = Kills::default().with(Target::Variation(Arm::new(2).unwrap()), true);
        assert_eq!(strip(&line, kills, &letters, 16, false), "WWWW····mmmm····");
        assert_eq!(strip(&Allocation::all_control(), kills, &letters, 4, false), "····");
    }

    #[test]
    fn variations_that_begin_alike_get_letters_of_their_own() {
        assert_eq!(letters(&["control", "a", "ab", "abc", "7"]), ['·', 'A', 'B', 'C', 'D']);
    }

    #[test]
    fn colours_keep_the_letters() {
        let line = Allocation::with_footholds(&[quarter()], Width::ZERO).unwrap();
        let text = strip(&line, Kills::default(), &['·', 'A'], 4, true);
        assert_eq!(text.matches('A').count(), 1);
        assert!(text.ends_with("\x1b[0m"));
    }
}
