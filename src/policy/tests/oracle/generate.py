"""Computes what tests/estimates.rs compares with, by another road than the crate's.

The estimates come from the full Poisson GLM log(mu_ke) = log(n_ke) + a_e + b_k, with every epoch effect a_e as a
parameter and a ridge on b alone: no conditioning anywhere. P(best) comes from the multivariate normal distribution
function, not from draws. Needs numpy and scipy only:

    python generate.py > expected.json
"""

import json
import sys

import numpy as np
from scipy.stats import multivariate_normal


def fit(n, s, tau):
    """Ridge Poisson GLM by damped Newton; epochs without conversions or cells without records drop out."""
    keep = s.sum(axis=1) > 0
    n, s = n[keep].astype(float), s[keep].astype(float)
    epochs, arms = n.shape
    size = epochs + arms - 1
    a = np.log(s.sum(axis=1) / n.sum(axis=1))
    theta = np.concatenate([a, np.zeros(arms - 1)])
    penalty = np.concatenate([np.zeros(epochs), np.full(arms - 1, 0.0 if tau is None else 1 / tau**2)])
    design = np.zeros((epochs * arms, size))
    for e in range(epochs):
        for k in range(arms):
            design[e * arms + k, e] = 1
            if k:
                design[e * arms + k, epochs + k - 1] = 1
    flat_n, flat_s = n.ravel(), s.ravel()
    used = flat_n > 0
    design, flat_n, flat_s = design[used], flat_n[used], flat_s[used]

    def objective(t):
        eta = design @ t
        return flat_s @ eta - flat_n @ np.exp(eta) - 0.5 * penalty @ t**2

    for _ in range(500):
        mu = flat_n * np.exp(design @ theta)
        gradient = design.T @ (flat_s - mu) - penalty * theta
        hessian = design.T @ (design * mu[:, None]) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-8 and objective(theta + scale * step) < objective(theta):
            scale /= 2
        theta = theta + scale * step
        if np.abs(step).max() < 1e-12:
            break
    mu = flat_n * np.exp(design @ theta)
    hessian = design.T @ (design * mu[:, None]) + np.diag(penalty)
    return theta[epochs:], np.linalg.inv(hessian)[epochs:, epochs:]


def p_best(mean, covariance, live):
    """P(best) over the live arms, control first with log-lift 0."""
    arms = len(mean) + 1
    full_mean = np.concatenate([[0.0], mean])
    full = np.zeros((arms, arms))
    full[1:, 1:] = covariance
    alive = [k for k in range(arms) if live[k]]
    result = [0.0] * arms
    for k in alive:
        others = [j for j in alive if j != k]
        contrast = np.zeros((len(others), arms))
        for row, j in enumerate(others):
            contrast[row, k], contrast[row, j] = 1, -1
        m, c = contrast @ full_mean, contrast @ full @ contrast.T
        result[k] = float(multivariate_normal.cdf(m, m * 0, c, maxpts=2_000_000, abseps=1e-6, releps=1e-6, rng=1))
    return result


def problem(name, rng, arms, epochs, per_day, base, lifts, treated_share, tau=0.25, killed=(), trend=0.0, dead=()):
    n = np.zeros((epochs, arms), dtype=int)
    s = np.zeros((epochs, arms), dtype=int)
    for e in range(epochs):
        share = np.full(arms, treated_share / (arms - 1))
        share[0] = 1 - treated_share
        for k, from_epoch in killed:
            if e >= from_epoch:
                share[0] += share[k]
                share[k] = 0
        n[e] = rng.multinomial(per_day, share)
        rate = np.clip(base * (1 + trend * e / epochs) * (1 + np.asarray(lifts)), 0, 1)
        s[e] = rng.binomial(n[e], rate)
        for k in dead:
            s[e, k] = 0
    mean, covariance = fit(n, s, tau)
    live = [True] * arms
    for k, _ in killed:
        live[k] = False
    return {
        "name": name,
        "tau": tau,
        "n": n.tolist(),
        "s": s.tolist(),
        "live": live,
        "mean": mean.tolist(),
        "covariance": covariance.tolist() if arms <= 12 else None,
        "variance": np.diag(covariance).tolist(),
        "p_best": p_best(mean, covariance, live) if arms <= 6 and tau is not None else None,
    }


def main():
    rng = np.random.default_rng(20240607)
    problems = [
        problem("two arms", rng, 2, 28, 1500, 0.1, [0, 0.1], 0.2),
        problem("two arms, one epoch", rng, 2, 1, 400, 0.1, [0, 0.5], 0.5),
        problem("two arms, without prior", rng, 2, 14, 3000, 0.1, [0, 0.1], 0.3, tau=None),
        problem("four arms, without prior", rng, 4, 14, 4000, 0.05, [0, 0.1, 0, -0.2], 0.3, tau=None),
        problem("five arms", rng, 5, 28, 4000, 0.05, [0, 0.05, 0.1, 0.2, -0.1], 0.4),
        problem("five arms, strong trend", rng, 5, 28, 4000, 0.03, [0, 0.05, 0.1, 0.2, -0.1], 0.4, trend=2.0),
        problem("tiny footholds", rng, 4, 28, 2000, 0.02, [0, 0.2, 0, -0.2], 0.005),
        problem("an arm that converts nobody", rng, 3, 10, 2000, 0.05, [0, 0, 0], 0.4, dead=[2]),
        problem("control converts nobody", rng, 3, 5, 1000, 0.05, [0, 0, 0], 0.4, dead=[0]),
        problem("nobody converts", rng, 3, 3, 1000, 0.0, [0, 0, 0], 0.4),
        problem("a killed arm", rng, 4, 28, 4000, 0.05, [0, 0.1, -0.4, 0.05], 0.3, killed=[(2, 6)]),
        problem("ten arms", rng, 10, 28, 8000, 0.03, [0, 0.3, 0.15, 0.1, 0, 0, -0.1, -0.15, -0.2, -0.3], 0.2),
        problem("sixty-four arms", rng, 64, 7, 60000, 0.04, list(rng.normal(0, 0.1, 64)), 0.2),
        problem("an extreme lift", rng, 2, 7, 20000, 0.01, [0, 9.0], 0.3, tau=2.0),
        problem("high conversion", rng, 3, 28, 900, 0.6, [0, 0.1, -0.1], 0.4),
        problem("wide prior, little data", rng, 3, 4, 60, 0.1, [0, 0, 0], 0.4, tau=2.0),
    ]
    json.dump(problems, sys.stdout, separators=(",", ":"))
    print()


main()
