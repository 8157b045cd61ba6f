"""E3 by another method: the whole quasi-Poisson regression log(mu_ke) = log(size_ke) + a_e + b_k, with every epoch effect
a_e as a parameter and the prior as a ridge on b alone. It does not condition on totals. The sandwich covers all parameters,
epoch effects included; the covariance of the lifts is a block of it."""

import numpy as np

SHRINKAGE = 100.0  # weight of the pooled dispersion, in units, in the dispersion of an arm
LEAST = 0.02  # smallest dispersion of conversions


def clamp(measure, phi):
    return min(max(phi, LEAST), 1.0) if measure == "conversion" else phi


def dispersions(measure, units, total, squares):
    """Pooled dispersion and the dispersion of each arm, from within-cell squares that were summed over units."""
    arms = units.shape[1]
    if measure == "poisson":
        return 1.0, np.ones(arms)
    seen = units >= 2
    variance = np.where(seen, units * squares / np.maximum(units - 1, 1), 0.0)
    mass, count = np.where(seen, total, 0.0), np.where(seen, units, 0)
    if mass.sum() <= 0:
        return 1.0, np.ones(arms)
    pooled = clamp(measure, variance.sum() / mass.sum())
    part = SHRINKAGE / count.sum()
    own = [
        clamp(measure, (variance[:, k].sum() + part * variance.sum()) / (mass[:, k].sum() + part * mass.sum()))
        for k in range(arms)
    ]
    return pooled, np.array(own)


def fit(measure, size, total, units, squares, tau):
    """(b, covariance) of the variations. Without prior, arms without outcomes have no estimate: their lifts are nan, and the
    others are estimated as if those arms did not exist, which is the limit. None if control has no outcomes."""
    pooled, own = dispersions(measure, units, total, squares)
    arms = size.shape[1]
    used = np.ones(arms, bool) if tau is not None else total.sum(axis=0) > 0
    if not used[0]:
        return None
    kept = np.flatnonzero(used)
    epochs = np.flatnonzero(total.sum(axis=1) > 0)
    n, s = size[np.ix_(epochs, kept)].astype(float), total[np.ix_(epochs, kept)].astype(float)
    b, covariance = regress(n, s, pooled, own[kept], 0.0 if tau is None else tau**-2)
    mean, full = np.full(arms, np.nan), np.full((arms, arms), np.nan)
    mean[kept] = np.concatenate([[0.0], b])
    padded = np.zeros((len(kept), len(kept)))
    padded[1:, 1:] = covariance
    full[np.ix_(kept, kept)] = padded
    return mean[1:], full[1:, 1:]


def fit_each(measure, size, total, units, squares, tau):
    """The same with each arm against control alone, without covariances between arms. None if control has no outcomes."""
    arms = size.shape[1]
    mean, covariance = np.full(arms - 1, np.nan), np.full((arms - 1, arms - 1), np.nan)
    for k in range(1, arms):
        pair = [0, k]
        found = fit(measure, size[:, pair], total[:, pair], units[:, pair], squares[:, pair], tau)
        if found is None:
            return None
        mean[k - 1], covariance[k - 1, k - 1] = found[0][0], found[1][0, 0]
    return mean, covariance


def regress(n, s, pooled, own, precision):
    epochs, arms = n.shape
    size = epochs + arms - 1
    rows = [(e, k) for e in range(epochs) for k in range(arms) if n[e, k] > 0]
    design = np.zeros((len(rows), size))
    for row, (e, k) in enumerate(rows):
        design[row, e] = 1
        if k:
            design[row, epochs + k - 1] = 1
    exposure, y = np.array([n[c] for c in rows]), np.array([s[c] for c in rows])
    phi = np.array([own[k] for _, k in rows])
    ridge = np.concatenate([np.zeros(epochs), np.full(arms - 1, precision)])
    theta = np.concatenate([np.log(s.sum(axis=1) / n.sum(axis=1)), np.zeros(arms - 1)])

    def objective(t):
        eta = design @ t
        return (y @ eta - exposure @ np.exp(eta)) / pooled - 0.5 * ridge @ t**2

    for _ in range(2000):
        mu = exposure * np.exp(design @ theta)
        gradient = design.T @ (y - mu) / pooled - ridge * theta
        bread = design.T @ (design * mu[:, None]) / pooled + np.diag(ridge)
        step = np.linalg.solve(bread, gradient)
        step *= min(1.0, 2.0 / np.abs(step).max()) if np.abs(step).max() > 0 else 1.0
        scale, here = 1.0, objective(theta)
        while scale > 1e-6 and objective(theta + scale * step) < here - 1e-12 * abs(here):
            scale /= 2
        theta = theta + scale * step
        if np.abs(step).max() < 1e-12:
            break
    mu = exposure * np.exp(design @ theta)
    inverse = np.linalg.inv(design.T @ (design * mu[:, None]) / pooled + np.diag(ridge))
    meat = design.T @ (design * (mu * phi / pooled**2)[:, None]) + np.diag(ridge)
    covariance = inverse @ meat @ inverse
    return theta[epochs:], covariance[epochs:, epochs:]
