//! The delay before another attempt. It doubles, with full jitter, so that many clients that lost the same server do
//! not all reconnect at the same instant.

use std::time::Duration;

/// Computes delays from the number of failures in a row.
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

    /// An attempt succeeded: the next failure counts as the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts one more failure and returns how long to wait. If the server asked for a delay, the wait is at least that
    /// long, plus jitter of up to a quarter of it.
    pub(crate) fn next_delay(&mut self, requested: Option<Duration>) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let jitter = ceiling.mul_f64(rand::random_range(0.0..=1.0));
        match requested {
            Some(requested) => requested.saturating_add(jitter.min(requested / 4)),
            None => jitter,
        }
    }

    /// The upper bound of the next random delay.
    fn ceiling(&self) -> Duration {
        let factor = 2u32.saturating_pow(self.failures.min(31));
        self.min.checked_mul(factor).map_or(self.max, |ceiling| ceiling.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_from_min_to_max() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut ceilings = Vec::new();
        for _ in 0..40 {
            ceilings.push(backoff.ceiling());
            let before = backoff.ceiling();
            assert!(backoff.next_delay(None) <= before);
        }
        assert_eq!(ceilings[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(ceilings[39], Duration::from_secs(30));
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(200));
    }

    #[test]
    fn delay_is_never_shorter_than_the_server_requested() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let requested = Duration::from_secs(2);
        for _ in 0..50 {
            let wait = backoff.next_delay(Some(requested));
            assert!(wait >= requested && wait <= requested + requested / 4, "{wait:?}");
        }
    }
}
