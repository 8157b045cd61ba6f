//! Speed of the textbook bandit in steps per second: Thompson sampling on 5 arms over 10,000 pulls, in one thread.
//! `benches/bandits/bandits.py` compares it with the same bandit in NumPy, MABWiser and Open Bandit Pipeline, round by
//! round.
//!
//! ```text
//! cargo bench -p inroad-simulations --bench bandit -- --json --replications 500
//! ```
//!
//! On Linux, time is the processor time of the thread, with a resolution of a few milliseconds: use enough
//! replications. Elsewhere it is wall-clock time.

#![allow(clippy::print_stdout)]

use std::time::Instant;

use inroad_simulations::{Bandit, BanditError, Sampler, play};

/// Processor time of this thread in seconds: the first number of its schedstat, in nanoseconds.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse::<u64>().ok().map(|nanoseconds| nanoseconds as f64 / 1e9)
}

fn number(arguments: &[String], name: &str, default: u64) -> u64 {
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
}

fn main() -> Result<(), BanditError> {
    let arguments: Vec<String> = std::env::args().collect();
    let replications = number(&arguments, "--replications", 500);
    let seed = number(&arguments, "--seed", 1);
    let bandit = Bandit { rates: vec![0.10, 0.12, 0.14, 0.16, 0.20], horizon: 10_000 };
    let json = arguments.iter().any(|argument| argument == "--json");
    // Other samplers are measured only with --all: they are not compared with other implementations.
    let all = arguments.iter().any(|argument| argument == "--all");
    let others = [
        ("top-two", Sampler::TopTwo { beta: 0.5 }),
        ("epsilon-greedy", Sampler::EpsilonGreedy { epsilon: 0.1 }),
        ("uniform", Sampler::Uniform),
    ];
    let samplers = std::iter::once(("thompson", Sampler::Thompson)).chain(others.into_iter().filter(|_| all));
    for (name, sampler) in samplers {
        let (wall, processor) = (Instant::now(), processor_seconds());
        let mut regret = 0.0;
        for replication in 0..replications {
            regret += play(&bandit, &sampler, seed, replication)?.regret.last().copied().unwrap_or_default();
        }
        let wall = wall.elapsed().as_secs_f64();
        let used = processor_seconds().zip(processor).map(|(end, begin)| end - begin);
        let seconds = used.filter(|used| *used > 0.0).unwrap_or(wall);
        let steps = replications * u64::from(bandit.horizon);
        let (regret, speed) = (regret / replications as f64, steps as f64 / seconds);
        if json {
            println!(
                "{{\"sampler\":\"{name}\",\"steps\":{steps},\"seconds\":{seconds:.6},\"steps_per_second\":{speed:.0},\
                 \"regret\":{regret:.3}}}"
            );
        } else {
            println!("{name:14} {:8.2} M steps/s, {:6.1} ns a step, regret {regret:.1}", speed / 1e6, 1e9 / speed);
        }
    }
    Ok(())
}
