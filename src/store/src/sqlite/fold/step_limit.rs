//! How many events the next step of the fold takes. A step cannot be interrupted, and a shutdown waits for it. What an
//! event costs depends on how many experiments exposed its unit and on what the page cache contains, so the limit
//! follows from the time of the last step.

use std::time::Duration;

/// The intended time of a step.
pub(super) const INTENDED: Duration = Duration::from_secs(2);
/// The events of the first step, when nothing is known yet.
const FIRST: usize = 1_000;
/// A step takes at least so many events, if there are as many: with fewer, the commit would take most of the time.
const LEAST: usize = 100;
/// How much larger the next step may become.
const GROWTH: usize = 2;

/// The limit of the next step.
#[derive(Debug)]
pub(super) struct StepLimit {
    max: usize,
    next: usize,
}

impl StepLimit {
    /// A limit that never exceeds `max`.
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, next: FIRST.min(max) }
    }

    /// The most events of the next step.
    pub(super) fn events(&self) -> usize {
        self.next
    }

    /// Lowers the limit, for a step that was too large.
    pub(super) fn lower_to(&mut self, events: usize) {
        self.next = self.next.min(events.max(1));
    }

    /// Takes the time of a step into account. A small step does not show what a large one costs, so it only lowers the
    /// limit.
    pub(super) fn observe(&mut self, events: usize, took: Duration) {
        let affordable = events as f64 * INTENDED.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let affordable = affordable as usize;
        let is_full = events >= self.next;
        if is_full {
            self.next = affordable.min(self.next.saturating_mul(GROWTH));
        } else if took > INTENDED {
            self.next = affordable.min(self.next);
        }
        self.next = self.next.clamp(LEAST.min(self.max), self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_follows_the_cost_of_an_event_in_both_directions() {
        let mut limit = StepLimit::new(50_000);
        // (microseconds of each event, events of a step that takes the intended time)
        for (cost, expected) in [(10, 50_000), (1_000, 2_000), (100_000, LEAST), (80, 25_000), (1, 50_000)] {
            for _ in 0..20 {
                let events = limit.events();
                limit.observe(events, Duration::from_micros(cost * events as u64));
            }
            assert_eq!(limit.events(), expected, "an event costs {cost} us");
        }
    }

    #[test]
    fn step_after_a_slow_one_takes_the_intended_time() {
        let mut limit = StepLimit::new(50_000);
        limit.observe(FIRST, 5 * INTENDED);
        assert_eq!(limit.events(), FIRST / 5);
        // A single event, late at night, says nothing about full steps.
        limit.observe(1, Duration::from_millis(5));
        assert_eq!(limit.events(), FIRST / 5);
    }

    #[test]
    fn step_that_was_too_large_is_followed_by_a_smaller_one() {
        let mut limit = StepLimit::new(50_000);
        limit.lower_to(3);
        assert_eq!(limit.events(), 3);
        limit.lower_to(0);
        assert_eq!(limit.events(), 1, "a step takes at least one event");
    }

    #[test]
    fn limit_never_exceeds_the_largest_step() {
        let mut limit = StepLimit::new(7);
        limit.observe(7, Duration::ZERO);
        assert_eq!(limit.events(), 7);
        limit.observe(7, Duration::from_secs(100));
        assert_eq!(limit.events(), 7);
    }
}
