"""The same computation as src/policy/benches/reallocate.rs, in NumPy and SciPy: same tallies, estimate and draws.

Vectorised as far as possible: Newton's method and the Cholesky factorisation run on all experiments at once; the draws
of an experiment need one matrix product, one maximum and one count. Measured twice: with separate Sobol points for each
experiment (the cost of a single experiment), and with one set of points shared by all (as in the crate). Unlike the
crate, it does not check for sample ratio mismatch or burn-in, and it grows no variation. CPU time of the process, one
thread, best of three rounds.

    pip install numpy scipy && python benches/numpy/reallocate.py
"""

import json
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from scipy.special import ndtr, ndtri  # noqa: E402
from scipy.stats import qmc  # noqa: E402

EXPERIMENTS, ARMS, TICKS, LOG2_DRAWS, TAU, ROUNDS = 1000, 5, 28, 14, 0.25, 3


def tallies():
    state = 42

    def next_random():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return state >> 33

    n = np.zeros((EXPERIMENTS, TICKS, ARMS))
    s = np.zeros((EXPERIMENTS, TICKS, ARMS))
    for x in range(EXPERIMENTS):
        for e in range(TICKS):
            for k in range(ARMS):
                records = (3200 if k == 0 else 200) + next_random() % 64
                n[x, e, k] = records
                s[x, e, k] = records // 20 + next_random() % (records // 100 * (1 + k) + 1)
    return n, s


def estimate(n, s):
    """Estimate E3 of all experiments at once: Newton's method on an array of shape (experiments, arms − 1)."""
    precision = 1 / TAU**2
    total = s.sum(axis=2)
    arm_s = s.sum(axis=1)[:, 1:]
    b = np.zeros((len(n), ARMS - 1))
    eye = np.eye(ARMS - 1)
    while True:
        odds = n * np.concatenate([np.ones((len(n), 1)), np.exp(b)], axis=1)[:, None, :]
        pi = (odds / odds.sum(axis=2, keepdims=True))[:, :, 1:]
        weighted = total[:, :, None] * pi
        gradient = arm_s - weighted.sum(axis=1) - precision * b
        hessian = (weighted.sum(axis=1) + precision)[:, :, None] * eye - weighted.transpose(0, 2, 1) @ pi
        step = np.clip(np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0], -0.5, 0.5)
        b += step
        if np.abs(step).max() < 1e-10:
            return b, np.linalg.inv(hessian)


def normals(seed):
    """One row per dimension, so that later operations access contiguous memory."""
    sobol = qmc.Sobol(ARMS - 1, scramble=True, seed=seed).random_base2(LOG2_DRAWS)
    return ndtri(np.clip(np.ascontiguousarray(sobol.T), 2.0**-33, 1 - 2.0**-33))


def compare(z, mean, factor, theta):
    """P(best) and expected loss from draws with control = 0; theta (arms, draws) is a reused buffer.

    Uses a maximum and a count of equal values, because argmax over such a short axis is several times slower in NumPy.
    """
    np.matmul(factor, z, out=theta[1:])
    theta[1:] += mean[:, None]
    largest = theta.max(axis=0)
    p_best = np.array([np.count_nonzero(row == largest) for row in theta]) / theta.shape[1]
    return p_best, largest.mean() - theta.mean(axis=1)


def run(n, s, shared):
    start = time.process_time()
    mean, covariance = estimate(n, s)
    factors = np.linalg.cholesky(covariance)
    ndtr(mean / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)))  # P(above control)
    theta = np.zeros((ARMS, 2**LOG2_DRAWS))
    z = normals(20240607) if shared else None
    checksum = 0.0
    for x in range(len(n)):
        p_best, _loss = compare(z if shared else normals(x), mean[x], factors[x], theta)
        checksum += p_best @ np.arange(1, ARMS + 1)
    return time.process_time() - start, checksum


def main():
    n, s = tallies()
    own, checksum = min(run(n, s, shared=False) for _ in range(ROUNDS))
    shared, shared_checksum = min(run(n, s, shared=True) for _ in range(ROUNDS))
    print(
        json.dumps(
            {
                "experiments": EXPERIMENTS,
                "arms": ARMS,
                "ticks": TICKS,
                "cpu_seconds": round(own, 4),
                "cpu_seconds_shared_points": round(shared, 4),
                "checksum": round(checksum, 3),
                "checksum_shared_points": round(shared_checksum, 3),
            }
        )
    )


main()
