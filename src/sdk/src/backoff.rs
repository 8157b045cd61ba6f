//! How long to wait before trying again: doubling, with full jitter, so that many clients that lost one server do not
//! come back at one instant.

use std::time::Duration;

/// Counts failures in a row.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), failures: 0 }
    }

    /// Something worked: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// One more failure: how long to wait. A delay that the server asked for is the least; jitter goes on top of it.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let jitter = ceiling.mul_f64(rand::random_range(0.0..=1.0));
        match asked {
            Some(asked) => asked.saturating_add(jitter.min(asked / 4)),
            None => jitter,
        }
    }

    /// Among how long a wait the next is drawn.
    fn ceiling(&self) -> Duration {
        let factor = 2u32.saturating_pow(self.failures.min(31));
        self.min.checked_mul(factor).map_or(self.max, |ceiling| ceiling.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_the_least_to_the_most_and_no_further() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut ceilings = Vec::new();
        for _ in 0..40 {
            ceilings.push(backoff.ceiling());
            let before = backoff.ceiling();
            assert!(backoff.next(None) <= before);
        }
        assert_eq!(ceilings[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(ceilings[39], Duration::from_secs(30));
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(200));
    }

    #[test]
    fn a_delay_that_the_server_asked_for_is_never_undercut() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let asked = Duration::from_secs(2);
        for _ in 0..50 {
            let wait = backoff.next(Some(asked));
            assert!(wait >= asked && wait <= asked + asked / 4, "{wait:?}");
        }
    }
}
