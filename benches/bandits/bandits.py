"""Steps per second of a Bernoulli bandit: simulations/benches/bandit.rs, NumPy, MABWiser and Open Bandit Pipeline.

All solve the same problem: Bernoulli Thompson sampling, Beta(1, 1), 5 arms, 10,000 pulls, with an update after every
pull. NumPy simulates 1,000 runs in parallel, one step of all runs at a time, which is the fastest method that it allows.
The libraries have no such mode and are used as documented: one call to choose and one call to update. Each round runs all
four, starting with a different one, and has its own ratios. The report has the medians and the quartiles of the ratios.
All figures are processor time of one thread. The mean regret of each is reported too: it must be the same for all.

Open Bandit Pipeline depends on torch, which has several gigabytes and which its bandits do not use. So it is installed
without its dependencies and imported with a mock of torch. Version 0.5.0 on PyPI declares itself as 0.4.2, which pip
rejects, so version 0.4.1 is used; the class is the same.

    pip install numpy scipy -r benches/bandits/requirements.txt && pip install --no-deps obp==0.4.1
    python benches/bandits/bandits.py [--quick] [--rounds N]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings
from unittest.mock import MagicMock

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
from mabwiser.mab import MAB, LearningPolicy  # noqa: E402


def bernoulli_ts():
    torch = MagicMock()
    torch.utils.data.Dataset = torch.nn.Module = object  # Base classes.
    sys.modules |= {"torch": torch, "torch.nn": torch.nn, "torch.optim": torch.optim}
    from obp.policy import BernoulliTS

    # Otherwise SciPy would take the mock for the real torch.
    for name in ("torch", "torch.nn", "torch.optim"):
        del sys.modules[name]
    return BernoulliTS


# Imported before the mock, for the same reason.
import scipy.stats  # noqa: E402, F401
import sklearn.linear_model  # noqa: E402, F401

BernoulliTS = bernoulli_ts()

RATES = np.array([0.10, 0.12, 0.14, 0.16, 0.20])
GAPS = RATES.max() - RATES
ARMS, HORIZON = len(RATES), 10_000
ROOT = pathlib.Path(__file__).resolve().parents[2]


def inroad(replications, seed):
    command = ["cargo", "bench", "--locked", "--quiet", "-p", "inroad-simulations", "--bench", "bandit", "--", "--json"]
    command += ["--replications", str(replications), "--seed", str(seed)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    figures = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return figures["steps_per_second"], figures["regret"]


def numpy(replications, seed):
    rng = np.random.default_rng(seed)
    started = time.process_time()
    successes, failures = np.ones((replications, ARMS)), np.ones((replications, ARMS))
    rows = np.arange(replications)
    for _ in range(HORIZON):
        chosen = rng.beta(successes, failures).argmax(axis=1)
        rewards = rng.random(replications) < RATES[chosen]
        successes[rows, chosen] += rewards
        failures[rows, chosen] += ~rewards
    seconds = time.process_time() - started
    return replications * HORIZON / seconds, float(((successes + failures - 2) @ GAPS).mean())


def one_by_one(make, choose, update):
    """The loop of a user of the library. Rewards are drawn in advance, so that their cost is not measured."""

    def measure(replications, seed):
        seconds, regret = 0.0, 0.0
        for replication in range(replications):
            rewards = np.random.default_rng([seed, replication]).random((HORIZON, ARMS)) < RATES
            rewards = rewards.astype(int).tolist()
            policy, pulls = make(seed * 1000 + replication), [0] * ARMS
            started = time.process_time()
            for reward in rewards:
                arm = choose(policy)
                update(policy, arm, reward[arm])
                pulls[arm] += 1
            seconds += time.process_time() - started
            regret += float(np.dot(pulls, GAPS))
        return replications * HORIZON / seconds, regret / replications

    return measure


def mab(seed):
    policy = MAB(list(range(ARMS)), LearningPolicy.ThompsonSampling(), seed=seed)
    # It predicts only after a fit. This one records one pull without a reward for each arm.
    policy.fit(list(range(ARMS)), [0] * ARMS)
    return policy


# Arrays, because lists take 25% longer.
mabwiser = one_by_one(
    mab,
    lambda policy: policy.predict(),
    lambda policy, arm, reward: policy.partial_fit(np.array([arm]), np.array([reward])),
)
obp = one_by_one(
    lambda seed: BernoulliTS(n_actions=ARMS, random_state=seed),
    lambda policy: int(policy.select_action()[0]),
    lambda policy, arm, reward: policy.update_params(arm, reward),
)

# Name: the function, the replications per round (a few seconds each), and the target of the ratio.
SIDES = {"inroad": (inroad, 2000, None), "NumPy, 1,000 runs at once": (numpy, 1000, 4)}
SIDES |= {"MABWiser": (mabwiser, 4, 100), "Open Bandit Pipeline": (obp, 3, None)}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--rounds", type=int)
    arguments = arguments.parse_args()
    rounds = max(arguments.rounds or (2 if arguments.quick else 7), 2)
    speeds = {name: [] for name in SIDES}
    regrets = {name: [] for name in SIDES}
    inroad(50, 0)  # Builds the benchmark before the first round.
    names = list(SIDES)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            measure, replications, _ = SIDES[name]
            if arguments.quick:
                replications = max(replications // 4, 1)
            speed, regret = measure(replications, number + 1)
            speeds[name].append(speed)
            regrets[name].append(regret)
            print(f"round {number + 1}: {name}: {speed:.0f} steps/s, regret {regret:.1f}", file=sys.stderr)
    rows = []
    for name, (_, _, target) in list(SIDES.items())[1:]:
        ratios = [ours / theirs for ours, theirs in zip(speeds["inroad"], speeds[name])]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append(
            {
                "what": f"Thompson sampling, 5 arms: {name}",
                "inroad": statistics.median(speeds["inroad"]),
                "floor": statistics.median(speeds[name]),
                "unit": "steps/s per core",
                "ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "target": f"≥ {target}" if target else None,
                "met": ratio >= target if target else None,
            }
        )
    means = ", ".join(f"{name} {statistics.mean(values):.1f}" for name, values in regrets.items())
    notes = [f"Larger is better. The reference is the other library. Mean regret: {means}."]
    print(json.dumps({"bench": "bandits", "rounds": rounds, "rows": rows, "notes": notes}))


main()
