//! Jumps of the wall clock, in both directions and of every kind.

use std::sync::Arc;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// The clocks of a machine that a test sets.
#[derive(Debug, Clone)]
struct TestTime(Arc<Mutex<Reading>>);

const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

impl TestTime {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Reading { wall: START, steady: Duration::from_secs(1_000), boot_id: Some(1) })))
    }

    /// Time passes on both clocks.
    fn pass(&self, duration: Duration) {
        let mut reading = self.0.lock().unwrap();
        reading.wall = reading.wall.plus(duration);
        reading.steady += duration;
    }

    fn jump_ahead(&self, by: Duration) {
        let mut reading = self.0.lock().unwrap();
        reading.wall = reading.wall.plus(by);
    }

    fn jump_back(&self, by: Duration) {
        let mut reading = self.0.lock().unwrap();
        reading.wall = reading.wall.minus(by);
    }

    fn boot(&self, id: u128) {
        let mut reading = self.0.lock().unwrap();
        (reading.boot_id, reading.steady) = (Some(id), Duration::from_secs(20));
    }

    fn clock(&self) -> WallClock {
        WallClock::start(Box::new(self.clone()), Timestamp::MIN, None)
    }
}

impl TimeSource for TestTime {
    fn read(&self) -> Reading {
        *self.0.lock().unwrap()
    }
}

/// Lets time pass while the clock is read every few seconds, as the server does.
fn pass_watched(time: &TestTime, clock: &WallClock, duration: Duration) {
    let step = Duration::from_secs(5);
    let mut passed = Duration::ZERO;
    while passed < duration {
        time.pass(step);
        passed += step;
        let _ = clock.now();
    }
}

#[test]
fn jump_ahead_that_is_taken_back_changes_nothing() {
    let time = TestTime::new();
    let clock = time.clock();
    time.jump_ahead(30 * DAY);
    assert_eq!(clock.now(), START, "time continues by the steady clock");
    pass_watched(&time, &clock, Duration::from_secs(20));
    assert!(clock.has_jumped());
    assert_eq!(clock.now(), START.plus(Duration::from_secs(20)));
    time.jump_back(30 * DAY);
    assert_eq!(clock.now(), START.plus(Duration::from_secs(20)));
    assert!(!clock.has_jumped());
    assert_eq!(clock.jumps(), 1);
}

#[test]
fn jump_that_stays_is_accepted_after_the_settling_time_in_both_directions() {
    for ahead in [true, false] {
        let time = TestTime::new();
        let clock = time.clock();
        let _ = clock.now();
        if ahead {
            time.jump_ahead(3 * DAY)
        } else {
            time.jump_back(3 * DAY)
        }
        let _ = clock.now();
        pass_watched(&time, &clock, SETTLING_TIME - Duration::from_secs(5));
        assert!(clock.has_jumped(), "not before the settling time");
        let accepted = clock.accepted_jumps();
        pass_watched(&time, &clock, Duration::from_secs(5));
        assert!(!clock.has_jumped());
        assert_eq!(clock.now(), time.read().wall);
        let jump = *accepted.borrow();
        assert_eq!(jump.to > jump.from, ahead);
        assert_eq!(jump.to, time.read().wall);
    }
}

#[test]
fn clock_that_jumps_again_must_settle_again() {
    let time = TestTime::new();
    let clock = time.clock();
    time.jump_ahead(DAY);
    let _ = clock.now();
    pass_watched(&time, &clock, SETTLING_TIME / 2);
    time.jump_ahead(DAY);
    let _ = clock.now();
    pass_watched(&time, &clock, SETTLING_TIME / 2 + Duration::from_secs(10));
    assert!(clock.has_jumped());
    pass_watched(&time, &clock, SETTLING_TIME / 2);
    assert!(!clock.has_jumped());
}

#[test]
fn person_accepts_a_jump_at_once() {
    let time = TestTime::new();
    let clock = time.clock();
    clock.accept();
    assert_eq!(clock.now(), START, "without a jump there is nothing to accept");
    time.jump_ahead(DAY);
    assert!(clock.has_jumped());
    clock.accept();
    assert!(!clock.has_jumped());
    assert_eq!(clock.now(), START.plus(DAY));
    time.jump_back(DAY);
    assert!(clock.has_jumped());
    clock.accept();
    assert_eq!(clock.now(), START, "a wrong acceptance can be undone");
}

#[test]
fn small_steps_of_ntp_are_followed_and_time_never_goes_back() {
    let time = TestTime::new();
    let clock = time.clock();
    time.jump_ahead(Duration::from_millis(900));
    assert_eq!(clock.now(), START.plus(Duration::from_millis(900)));
    time.jump_back(Duration::from_millis(700));
    assert_eq!(clock.now(), START.plus(Duration::from_millis(900)), "time stops for a moment");
    time.pass(Duration::from_secs(1));
    assert_eq!(clock.now(), START.plus(Duration::from_millis(1_200)));
    assert_eq!(clock.jumps(), 0);
}

#[test]
fn suspended_machine_resumes_without_a_jump() {
    let time = TestTime::new();
    let clock = time.clock();
    // The steady clock counts the time while the machine was suspended.
    time.pass(3 * DAY);
    assert!(!clock.has_jumped());
    assert_eq!(clock.now(), START.plus(3 * DAY));
}

#[test]
fn paused_virtual_machine_shows_a_jump_until_its_clock_has_settled() {
    let time = TestTime::new();
    let clock = time.clock();
    // Neither clock ran during the pause; then the wall clock is corrected.
    time.jump_ahead(Duration::from_secs(3_600));
    assert!(clock.has_jumped());
    pass_watched(&time, &clock, SETTLING_TIME + Duration::from_secs(5));
    assert_eq!(clock.now(), time.read().wall);
}

#[test]
fn jump_while_the_server_is_stopped_is_noticed_at_its_start() {
    let time = TestTime::new();
    let anchor = time.clock().anchor();
    time.pass(DAY);
    let restart = |anchor: &ClockAnchor| WallClock::start(Box::new(time.clone()), START, Some(anchor));
    assert!(!restart(&anchor).has_jumped(), "a day has passed on both clocks");
    time.jump_ahead(30 * DAY);
    let clock = restart(&anchor);
    assert!(clock.has_jumped());
    assert_eq!(clock.now(), START.plus(DAY));
    time.jump_back(30 * DAY + Duration::from_secs(20));
    assert!(!restart(&anchor).has_jumped(), "the clock may be corrected slowly meanwhile");
}

#[test]
fn after_a_reboot_the_wall_clock_is_believed_unless_it_shows_less_than_before() {
    let time = TestTime::new();
    let anchor = time.clock().anchor();
    let reboot = |id| {
        time.boot(id);
        WallClock::start(Box::new(time.clone()), START, Some(&anchor))
    };
    time.pass(40 * DAY);
    assert_eq!(reboot(2).now(), START.plus(40 * DAY));
    time.jump_back(50 * DAY);
    let clock = reboot(3);
    assert!(clock.has_jumped());
    assert_eq!(clock.now(), START, "not before the last time known");
}

#[test]
fn data_from_the_future_does_not_stop_time_for_longer_than_the_settling_time() {
    let time = TestTime::new();
    let clock = WallClock::start(Box::new(time.clone()), START.plus(30 * DAY), None);
    assert!(clock.has_jumped());
    assert_eq!(clock.now(), START.plus(30 * DAY));
    pass_watched(&time, &clock, SETTLING_TIME + Duration::from_secs(5));
    assert_eq!(clock.now(), time.read().wall);
    let anchor = clock.anchor();
    let again = WallClock::start(Box::new(time.clone()), START.plus(30 * DAY), Some(&anchor));
    assert!(!again.has_jumped(), "the accepted reading is remembered");
    time.boot(2);
    let rebooted = WallClock::start(Box::new(time.clone()), START.plus(30 * DAY), Some(&anchor));
    assert!(!rebooted.has_jumped(), "also after a reboot");
}

#[test]
fn anchor_survives_its_file_and_an_unreadable_file_is_ignored() {
    let folder = tempfile::TempDir::new().unwrap();
    assert_eq!(ClockAnchor::read(folder.path()), None);
    let anchor = TestTime::new().clock().anchor();
    anchor.write(folder.path()).unwrap();
    assert_eq!(ClockAnchor::read(folder.path()).as_ref(), Some(&anchor));
    let mut unfollowed = anchor;
    unfollowed.unfollowed_jump = Some(AcceptedJump { from: START.plus(DAY), to: START });
    unfollowed.write(folder.path()).unwrap();
    assert_eq!(ClockAnchor::read(folder.path()), Some(unfollowed));
    std::fs::write(folder.path().join("clock.json"), "{").unwrap();
    assert_eq!(ClockAnchor::read(folder.path()), None);
}

/// Clocks of which one in four readings is torn: the thread loses its core for seconds between the two.
#[derive(Debug)]
struct BusyMachine(TestTime, std::sync::atomic::AtomicU64);

impl TimeSource for BusyMachine {
    fn read(&self) -> Reading {
        let reading = self.0.read();
        let is_torn = self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(4);
        Reading { steady: reading.steady + Duration::from_secs(if is_torn { 3 } else { 0 }), ..reading }
    }
}

#[test]
fn busy_machine_shows_no_jump() {
    let time = TestTime::new();
    let busy = BusyMachine(time.clone(), std::sync::atomic::AtomicU64::new(1));
    let clock = WallClock::start(Box::new(busy), Timestamp::MIN, None);
    for _ in 0..50 {
        time.pass(Duration::from_secs(1));
        assert_eq!(clock.now(), time.read().wall);
    }
    assert_eq!(clock.jumps(), 0);
}

#[test]
fn steady_clock_of_this_machine_runs_like_its_wall_clock() {
    let first = MachineTime.read();
    let second = MachineTime.read();
    assert!(second.steady >= first.steady);
    assert_eq!(first.boot_id, second.boot_id);
    assert!((second.difference() - first.difference()).abs() < 1_000_000);
}

proptest! {
    #[test]
    fn time_never_goes_back_unless_a_jump_back_is_accepted(
        steps in prop::collection::vec((0u64..40, -100_000i64..100_000, 0u8..10), 1..200),
    ) {
        let time = TestTime::new();
        let clock = time.clock();
        let mut accepted = clock.accepted_jumps();
        let mut last = clock.now();
        for (seconds, jump, dice) in steps {
            time.pass(Duration::from_secs(seconds));
            let by = Duration::from_secs(jump.unsigned_abs());
            match dice {
                0 if jump > 0 => time.jump_ahead(by),
                0 => time.jump_back(by),
                1 => {
                    let _ = clock.accept();
                }
                _ => {}
            }
            let now = clock.now();
            if accepted.has_changed().unwrap() {
                let jump = *accepted.borrow_and_update();
                prop_assert!(jump.to <= now);
            } else {
                prop_assert!(now >= last, "{now:?} after {last:?}");
                prop_assert!(now.since(last) <= Duration::from_secs(seconds + 1), "no jump is followed unasked");
            }
            last = now;
        }
    }
}
