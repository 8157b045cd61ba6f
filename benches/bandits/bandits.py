"""Steps a second of the textbook bandit: simulations/benches/bandit.rs, NumPy, MABWiser and Open Bandit Pipeline.

One problem: Bernoulli Thompson sampling, Beta(1, 1), 5 arms, 10,000 pulls, each learnt from before the next. NumPy plays
1,000 runs side by side, a step of all of them at once, which is the fastest that its calls allow; the libraries have no
such mode and are driven as their manuals say, a call to choose and a call to learn. Each round runs all four, beginning
with another one each time, and has its own ratios; quoted are the medians, with the quartiles of the ratios. Processor
time of one thread on every side. The mean regret of each is in the figures: the same problem has the same.

Open Bandit Pipeline asks for torch, which weighs gigabytes and which its bandits never touch: it is installed without its
dependencies, and imported with a stand-in in torch's place. Its 0.5.0 on PyPI calls itself 0.4.2, which pip refuses,
hence 0.4.1; the class is the same.

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
    torch.utils.data.Dataset = torch.nn.Module = object  # What classes derive from.
    sys.modules |= {"torch": torch, "torch.nn": torch.nn, "torch.optim": torch.optim}
    from obp.policy import BernoulliTS

    # Or SciPy takes it for the real one.
    for name in ("torch", "torch.nn", "torch.optim"):
        del sys.modules[name]
    return BernoulliTS


# Before the stand-in, for the same reason.
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
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    figures = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    return figures["steps_per_second"], figures["regret"]


def numpy(replications, seed):
    rng = np.random.default_rng(seed)
    begun = time.process_time()
    paid, unpaid = np.ones((replications, ARMS)), np.ones((replications, ARMS))
    rows = np.arange(replications)
    for _ in range(HORIZON):
        chosen = rng.beta(paid, unpaid).argmax(axis=1)
        won = rng.random(replications) < RATES[chosen]
        paid[rows, chosen] += won
        unpaid[rows, chosen] += ~won
    took = time.process_time() - begun
    return replications * HORIZON / took, float(((paid + unpaid - 2) @ GAPS).mean())


def one_by_one(make, choose, learn):
    """The loop that a library's user writes. Payments are drawn ahead: they are not the library's to pay for."""

    def measure(replications, seed):
        took, regret = 0.0, 0.0
        for replication in range(replications):
            payments = np.random.default_rng([seed, replication]).random((HORIZON, ARMS)) < RATES
            payments = payments.astype(int).tolist()
            policy, pulls = make(seed * 1000 + replication), [0] * ARMS
            begun = time.process_time()
            for payment in payments:
                arm = choose(policy)
                learn(policy, arm, payment[arm])
                pulls[arm] += 1
            took += time.process_time() - begun
            regret += float(np.dot(pulls, GAPS))
        return replications * HORIZON / took, regret / replications

    return measure


def mab(seed):
    policy = MAB(list(range(ARMS)), LearningPolicy.ThompsonSampling(), seed=seed)
    # It predicts only after a fit; this one takes one unpaid pull of each arm for known.
    policy.fit(list(range(ARMS)), [0] * ARMS)
    return policy


# Arrays: from lists it takes a quarter longer.
mabwiser = one_by_one(
    mab,
    lambda policy: policy.predict(),
    lambda policy, arm, paid: policy.partial_fit(np.array([arm]), np.array([paid])),
)
obp = one_by_one(
    lambda seed: BernoulliTS(n_actions=ARMS, random_state=seed),
    lambda policy: int(policy.select_action()[0]),
    lambda policy, arm, paid: policy.update_params(arm, paid),
)

# How many replications a round has, so that each takes a second or a few; and what the ratio is to be.
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
    inroad(50, 0)  # Builds, if nobody has.
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
                "unit": "steps/s a core",
                "ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "target": f"≥ {target}" if target else None,
                "met": ratio >= target if target else None,
            }
        )
    means = ", ".join(f"{name} {statistics.mean(of):.1f}" for name, of in regrets.items())
    notes = [f"Larger is better: the floor is the other library. Mean regret: {means}."]
    print(json.dumps({"bench": "bandits", "rounds": rounds, "rows": rows, "notes": notes}))


main()
