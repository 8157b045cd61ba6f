//! Finds the arm with the largest of one draw from each posterior, without drawing every arm.
//!
//! The leader, the arm with the highest mean, is drawn. For another arm i it is usually enough to know that its draw is
//! at most some cᵢ, and that the draw of the leader is above cᵢ. Let gᵢ ≥ fᵢ be an envelope of its density fᵢ above cᵢ
//! ([`TailEnvelope`]) and Gᵢ = ∫gᵢ < 1. With probability 1 − Gᵢ nothing is proposed. Otherwise x is proposed from gᵢ ÷
//! Gᵢ and accepted with probability fᵢ(x) ÷ gᵢ(x). So
//!
//! - x is accepted with density Gᵢ · gᵢ(x)/Gᵢ · fᵢ(x)/gᵢ(x) = fᵢ(x): above cᵢ this is the posterior;
//! - nothing is accepted with probability 1 − ∫_{cᵢ} fᵢ = P(θᵢ ≤ cᵢ), independent of everything else. If the largest
//!   draw so far is above cᵢ, the arm has lost, whatever its draw would be. If not, its draw is made conditional on
//!   being at most cᵢ, by rejection: below cᵢ this is the posterior, too.
//!
//! If x is not above the largest draw so far, acceptance need not be decided: the arm has lost in both cases.
//!
//! So the pair (winning arm, winning draw) has the same distribution as when every arm is drawn, for any leader and any
//! cᵢ that depends only on the past. The only approximation is the rounding of f64, as in any draw of a Beta.
//!
//! The cost depends on cᵢ. It is chosen as many standard deviations of the arm above the mean of the arm as standard
//! deviations of the leader below the mean of the leader. An arm that is too close to the leader for this is drawn.

use rand::{Rng, RngExt};

use super::posterior::{Arm, TailEnvelope};

/// In standard deviations: for arms closer to the leader, the mass of the envelope would be too large.
const DISTANCE_MIN: f64 = 0.7;
/// How often an arm is drawn before its envelope is computed again, because posteriors have changed meanwhile.
const DRAWS_PER_ENVELOPE: u32 = 6;

/// Computes an envelope of `arm` above a point that draws of the leader usually exceed.
#[inline(never)]
fn find_envelope(arm: &Arm, leader: &Arm) -> Option<TailEnvelope> {
    let own = arm.standard_deviation();
    let distance = (leader.mean - arm.mean) / (leader.standard_deviation() + own);
    if distance > DISTANCE_MIN { arm.tail_above(arm.mean + distance * own) } else { None }
}

/// The arm with the largest draw.
pub(super) fn arm_with_largest_draw<R: Rng>(arms: &mut [Arm], rng: &mut R) -> usize {
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
        if arms[index].draws_left == 0 {
            let envelope = find_envelope(&arms[index], &arms[leader]);
            let arm = &mut arms[index];
            (arm.tail, arm.draws_left) = (envelope, DRAWS_PER_ENVELOPE);
        }
        let arm = &mut arms[index];
        let Some(tail) = arm.tail else {
            arm.draws_left -= 1;
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
        arm.draws_left -= 1;
        let draw = arm.draw_up_to(tail.from, rng);
        if draw > largest {
            (largest, winner) = (draw, index);
        }
    }
    winner
}
