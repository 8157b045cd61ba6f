//! `inroad bandit`: plays the textbook Bernoulli bandit with several samplers, one pull at a time. Shows what a policy could
//! reach if it could choose again at every visit. Needs no server.

use clap::Args;
use inroad_simulations::bandit::{Bandit, Sampler, Summary, replicate_with_progress};
use serde_json::{Value, json};

use crate::failure::usage_error;
use crate::output::{Output, number, percent, plural, table};
use crate::progress::{self, ProgressUnit};

/// The bandit to play.
#[derive(Debug, Args)]
pub(crate) struct BanditArgs {
    /// Success rate of each arm, 0 to 1; at least two arms
    #[arg(long, value_delimiter = ',', required = true, value_name = "RATES")]
    rates: Vec<f64>,
    /// Pulls per run
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    horizon: u32,
    /// Runs per sampler
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    replications: u32,
    /// Share of pulls in which epsilon-greedy explores, 0 to 1
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    epsilon: f64,
    /// Also play top-two Thompson sampling, which takes about a hundred times longer than the others
    #[arg(long)]
    top_two: bool,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// Plays the bandit with each sampler.
pub(crate) fn run(args: &BanditArgs, out: Output) -> anyhow::Result<()> {
    let bandit = Bandit { rates: args.rates.clone(), horizon: args.horizon };
    let mut samplers = vec![
        ("thompson", Sampler::Thompson),
        ("epsilon-greedy", Sampler::EpsilonGreedy { epsilon: args.epsilon }),
        ("uniform", Sampler::Uniform),
    ];
    if args.top_two {
        samplers.push(("top-two", Sampler::TopTwo { beta: 0.5 }));
    }
    let runs = samplers.len() as u64 * u64::from(args.replications);
    let bar = progress::progress_bar(Some(runs), ProgressUnit::Runs, out);
    let play = |(name, sampler): (&'static str, Sampler)| {
        bar.set_message(name);
        let summary = replicate_with_progress(&bandit, &sampler, args.seed, args.replications, &|| bar.inc(1));
        summary.map(|summary| (name, summary)).map_err(|error| usage_error(error.to_string()))
    };
    let played = samplers.into_iter().map(play).collect::<anyhow::Result<Vec<_>>>();
    bar.finish_and_clear();
    let played = played?;
    out.print_json(&json!({"bandit": bandit, "samplers": played.iter().map(summary_json).collect::<Vec<_>>()}))?;
    Ok(out.print_text(text(&bandit, &played))?)
}

fn text(bandit: &Bandit, played: &[(&str, Summary)]) -> String {
    let best = bandit.rates.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(arm, _)| arm);
    let row = |(name, summary): &(&str, Summary)| {
        let last = summary.regret.last().copied().unwrap_or_default();
        let error = summary.regret_error.last().copied().unwrap_or_default();
        let pulls: f64 = summary.pulls.iter().sum();
        vec![
            (*name).to_owned(),
            format!("{} ± {}", number(last), number(error)),
            number(summary.reward),
            percent(summary.pulls.get(best).copied().unwrap_or_default() / pulls.max(1.0)),
        ]
    };
    let rows = table(&["sampler", "regret", "reward", "pulls of the best arm"], played.iter().map(row).collect());
    let runs = played.first().map_or(0, |(_, summary)| u64::from(summary.replications));
    let arms = bandit.rates.len();
    format!("{arms} arms, {}, {} per sampler\n\n{rows}", plural(bandit.horizon.into(), "pull"), plural(runs, "run"))
}

fn summary_json((name, summary): &(&str, Summary)) -> Value {
    json!({
        "sampler": name, "replications": summary.replications, "pulls": summary.pulls, "reward": summary.reward,
        "checkpoints": summary.checkpoints, "regret": summary.regret, "regret_error": summary.regret_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use inroad_simulations::bandit::replicate;

    #[test]
    fn thompson_sampling_has_less_regret_than_uniform_pulls() {
        let bandit = Bandit { rates: vec![0.1, 0.3], horizon: 2_000 };
        let regret = |sampler| *replicate(&bandit, &sampler, 1, 20).unwrap().regret.last().unwrap();
        assert!(regret(Sampler::Thompson) < regret(Sampler::Uniform) / 2.0);
        let played = [("thompson", replicate(&bandit, &Sampler::Thompson, 1, 20).unwrap())];
        assert!(text(&bandit, &played).starts_with("2 arms, 2,000 pulls, 20 runs per sampler"));
    }
}
