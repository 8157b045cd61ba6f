//! The clocks of the simulated machine. They follow the paused clock of the runtime; the wall clock also jumps.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use inroad_assignment::Timestamp;
use inroad_server::clock::{Reading, TimeSource};
use tokio::time::Instant;

/// 2025-01-01T00:00:00Z
const START: Timestamp = Timestamp::from_micros(1_735_689_600_000_000);

#[derive(Debug)]
struct State {
    /// The wall clock at `since`.
    wall: Timestamp,
    /// The steady clock at `since`.
    steady: Duration,
    /// The begin of the current life of the server, by the runtime's clock; `None` between two lives.
    since: Option<Instant>,
    /// The true time minus the wall clock, in microseconds.
    wrong_by: i64,
    boot: u128,
}

/// The clocks of the machine. All copies are the same machine.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedTime(Arc<Mutex<State>>);

impl SimulatedTime {
    pub(crate) fn new() -> Self {
        let state = State { wall: START, steady: Duration::from_secs(500), since: None, wrong_by: 0, boot: 1 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A life of the server begins: time follows the runtime.
    pub(crate) fn begin_life(&self) {
        self.0.lock().unwrap().since = Some(Instant::now());
    }

    /// A life ends.
    pub(crate) fn end_life(&self) {
        let reading = self.read();
        let mut state = self.0.lock().unwrap();
        (state.wall, state.steady, state.since) = (reading.wall, reading.steady, None);
    }

    /// Time passes between two lives.
    pub(crate) fn pass(&self, duration: Duration) {
        let mut state = self.0.lock().unwrap();
        state.wall = state.wall.plus(duration);
        state.steady += duration;
    }

    /// The machine is started again between two lives.
    pub(crate) fn boot(&self) {
        let mut state = self.0.lock().unwrap();
        state.boot += 1;
        state.steady = Duration::from_secs(30);
    }

    /// The wall clock jumps.
    pub(crate) fn jump(&self, micros: i64) {
        let mut state = self.0.lock().unwrap();
        state.wall = Timestamp::from_micros(state.wall.as_micros() + micros);
        state.wrong_by -= micros;
    }

    /// The wall clock is set right.
    pub(crate) fn set_right(&self) {
        let wrong_by = self.0.lock().unwrap().wrong_by;
        self.jump(wrong_by);
    }

    /// Whether the wall clock shows the true time.
    pub(crate) fn is_right(&self) -> bool {
        self.0.lock().unwrap().wrong_by == 0
    }
}

impl TimeSource for SimulatedTime {
    fn read(&self) -> Reading {
        let state = self.0.lock().unwrap();
        let passed = state.since.map_or(Duration::ZERO, |since| since.elapsed());
        Reading { wall: state.wall.plus(passed), steady: state.steady + passed, boot_id: Some(state.boot) }
    }
}
