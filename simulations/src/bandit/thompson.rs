//! Which arm has the largest of one draw from each posterior, without drawing them all.
//!
//! The arm of the highest mean, the leader, is drawn. Of another arm i it is mostly enough to know that its draw is at most
//! some cᵢ that the leader's is above. Let gᵢ ≥ fᵢ be an envelope of its density fᵢ above cᵢ ([`Tail`])
//! and Gᵢ = ∫gᵢ < 1. With probability 1 − Gᵢ nothing is proposed; otherwise x is proposed from gᵢ ÷ Gᵢ and taken with
//! probability fᵢ(x) ÷ gᵢ(x). So
//!
//! - x is taken with density Gᵢ · gᵢ(x)/Gᵢ · fᵢ(x)/gᵢ(x) = fᵢ(x): above cᵢ this is the posterior;
//! - nothing is taken with probability 1 − ∫_{cᵢ} fᵢ = P(θᵢ ≤ cᵢ), independent of all else. If the largest draw so far is
//!   above cᵢ, the arm has lost whatever its draw was. If not, it is drawn given that it is at most cᵢ, by refusing others:
//!   below cᵢ this is the posterior, too.
//!
//! An x that is not above the largest draw so far need not be decided upon: taken or not, the arm has lost.
//!
//! Hence the pair (who wins, by which draw) has the law that it has when every arm is drawn, for any cᵢ that depends on the
//! past only, and for any leader. What is left of approximation is the rounding of f64, as in any draw of a Beta.
//!
//! What it costs then depends on cᵢ: as many of its own standard deviations above the arm's mean as of the leader's below
//! the leader's. An arm so close that this is not worth it is drawn.

use rand::{Rng, RngExt};

use super::posterior::{Arm, Tail};

/// Of standard deviations: nearer to the leader than this, an arm's envelope would be too heavy.
const NEAREST: f64 = 0.7;
/// How often an arm is drawn before its tail is looked at again: it and the leader have gone on meanwhile.
const PATIENCE: u32 = 6;

/// Looks for a tail of `arm` that the leader will mostly be above.
#[inline(never)]
fn look(arm: &Arm, leader: &Arm) -> Option<Tail> {
    let own = arm.deviation();
    let distance = (leader.mean - arm.mean) / (leader.deviation() + own);
    if distance > NEAREST { arm.tail(arm.mean + distance * own) } else { None }
}

/// The arm whose draw is the largest.
pub(super) fn best<R: Rng>(arms: &mut [Arm], rng: &mut R) -> usize {
    let (mut leader, mut highest) = (0, 0.0);
    for (index, arm) in arms.iter().enumerate() {
        if arm.mean > highest {
            (leader, highest) = (index, arm.mean);
        }
    }
    let mut largest = arms[leader].draw(rng);
    let mut winner = leader;
    for index in 0..arms.len() {
        if index == leader {
            continue;
        }
        if arms[index].patience == 0 {
            let found = look(&arms[index], &arms[leader]);
            let arm = &mut arms[index];
            (arm.tail, arm.patience) = (found, PATIENCE);
        }
        let arm = &mut arms[index];
        let Some(tail) = arm.tail else {
            arm.patience -= 1;
            let draw = arm.draw(rng);
            if draw > largest {
                (largest, winner) = (draw, index);
            }
            continue;
        };
        if rng.random::<f64>() < tail.mass {
            let x = tail.propose(rng);
            if x <= largest {
                continue;
            }
            if arm.accepts(&tail, x, rng) {
                (largest, winner) = (x, index);
                continue;
            }
        }
        if largest >= tail.from {
            continue;
        }
        arm.patience -= 1;
        let draw = arm.draw_up_to(tail.from, rng);
        if draw > largest {
            (largest, winner) = (draw, index);
        }
    }
    winner
}
