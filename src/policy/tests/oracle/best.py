"""Probability to be best and expected loss by methods other than the crate's. For jointly normal lifts: integrals if arms
are independent given control, otherwise a million quasi-random points, which are checked against the multivariate normal
distribution function. For Betas: mpmath."""

import mpmath as mp
import numpy as np
from scipy import special
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, qmc

DRAWS = 2**14  # number of draws in the crate
LEVEL = 0.95
LEVELS = [LEVEL - 3 * (LEVEL * (1 - LEVEL) / DRAWS) ** 0.5, LEVEL, LEVEL + 3 * (LEVEL * (1 - LEVEL) / DRAWS) ** 0.5]
GAUSS = np.polynomial.legendre.leggauss(40)


def panels(edges):
    """Nodes and weights of Gauss-Legendre between neighbouring edges."""
    edges = np.unique(edges)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * GAUSS[0]).ravel(), (half[:, None] * GAUSS[1]).ravel()


def others(values):
    """For each row, the product of all other rows."""
    before = np.vstack([np.ones(values.shape[1]), np.cumprod(values[:-1], axis=0)])
    after = np.vstack([np.cumprod(values[:0:-1], axis=0)[::-1], np.ones(values.shape[1])])
    return before * after


def independent(mean, sd):
    """For independent normals, control included: P(best), E[max] - E[k], and quantiles of max - leader."""
    mean, sd = np.asarray(mean, float), np.asarray(sd, float)
    x, w = panels(np.concatenate([m + s * np.linspace(-12, 12, 49) for m, s in zip(mean, sd)]))
    z = (x - mean[:, None]) / sd[:, None]
    density = np.exp(-0.5 * z**2) / (sd[:, None] * np.sqrt(2 * np.pi))
    win = density * others(special.ndtr(z)) * w
    p = win.sum(axis=1)
    assert abs(p.sum() - 1) < 1e-11
    loss = (win @ x).sum() - mean
    leader = int(np.argmax(p))
    rest = np.delete(np.arange(len(mean)), leader)

    def below(gain):
        far = (x + gain - mean[rest, None]) / sd[rest, None]
        return (w * density[leader]) @ np.prod(special.ndtr(far), axis=0)

    top = 20 * sd.sum() + np.ptp(mean)
    left = [0.0 if below(0.0) >= q else brentq(lambda g: below(g) - q, 0, top, xtol=1e-14) for q in LEVELS]
    return {"p_best": p, "loss": loss, "leader": leader, "remaining": np.expm1(left)}


def loss_errors(mean, covariance, log2=15):
    """Standard error of max - k over the crate's draws, which gives the tolerance. Control is first."""
    theta = sample(mean, covariance, log2, 5)
    return (theta.max(axis=1)[:, None] - theta).std(axis=0) / DRAWS**0.5


def sample(mean, covariance, log2, seed):
    value, vector = np.linalg.eigh(covariance)
    order = np.argsort(-value)
    root = vector[:, order] * np.sqrt(np.maximum(value[order], 0))
    u = qmc.Sobol(len(mean), rng=seed).random_base2(log2)
    theta = np.empty((len(u), len(mean) + 1))
    theta[:, 0] = 0
    theta[:, 1:] = mean + special.ndtri(np.clip(u, 1e-15, 1 - 1e-15)) @ root.T
    return theta


def correlated(mean, covariance, live):
    """The same for any jointly normal lifts over control. Killed arms are None."""
    arms = len(mean) + 1
    alive = [k for k in range(arms) if live[k]]
    result = {"p_best": np.zeros(arms), "loss": [None] * arms, "loss_error": [None] * arms}
    if alive == [0]:
        result["p_best"][0], result["loss"][0], result["loss_error"][0] = 1.0, 0.0, 0.0
        return result | {"leader": 0, "remaining": [0.0] * 3}
    treated = [k - 1 for k in alive[1:]]
    m, c = mean[treated], covariance[np.ix_(treated, treated)]
    runs = []
    for seed in range(2 if len(alive) > 20 else 1):
        theta = sample(m, c, 18 if len(alive) > 20 else 19, 7 + seed)
        best = theta.max(axis=1)
        won = np.bincount(theta.argmax(axis=1), minlength=len(alive)) / len(theta)
        runs.append((won, best.mean(), (best[:, None] - theta).std(axis=0) / DRAWS**0.5, theta, best))
    p = np.mean([run[0] for run in runs], axis=0)
    top = np.mean([run[1] for run in runs])
    if len(alive) <= 5:
        check = exact(m, c)
        assert np.abs(check - p).max() < 1e-4, (check, p)
        p = check
    leader = int(np.argmax(p))
    gains = np.concatenate([run[4] - run[3][:, leader] for run in runs])
    result["p_best"][alive] = p
    for at, k in enumerate(alive):
        result["loss"][k] = top - (0.0 if at == 0 else m[at - 1])
        result["loss_error"][k] = runs[0][2][at]
    return result | {"leader": alive[leader], "remaining": np.expm1(np.quantile(gains, LEVELS))}


def exact(mean, covariance):
    """P(best) by the distribution function of the differences between arms."""
    arms = len(mean) + 1
    full_mean, full = np.concatenate([[0.0], mean]), np.zeros((arms, arms))
    full[1:, 1:] = covariance
    p = np.zeros(arms)
    for k in range(arms):
        rest = [j for j in range(arms) if j != k]
        contrast = np.zeros((len(rest), arms))
        contrast[:, k] = 1
        contrast[range(len(rest)), rest] -= 1
        m, c = contrast @ full_mean, contrast @ full @ contrast.T
        p[k] = multivariate_normal.cdf(m, m * 0, c, maxpts=1_000_000, abseps=1e-6, releps=1e-6, rng=1)
    return p


def beta_above(treated, control):
    """P(treated > control) of two Betas with integer parameters: a finite sum, computed with 40 digits."""
    (a, b), (c, d) = treated, control
    with mp.workdps(40):
        total, term = mp.mpf(0), None
        # Sum over i < a of B(c+i, b+d) / ((b+i) B(1+i, b) B(c, d)). Each term is computed from the previous one.
        for i in range(a):
            if term is None:
                term = mp.exp(log_beta(c, b + d) - mp.log(b) - log_beta(1, b) - log_beta(c, d))
            else:
                # B(c+i, b+d)/B(c+i-1, b+d) over (b+i)B(1+i, b)/((b+i-1)B(i, b)) = i/(b+i-1).
                term *= mp.mpf(c + i - 1) / (c + i - 1 + b + d) * (b + i - 1) / i
            total += term
        return total


def log_beta(a, b):
    return mp.loggamma(a) + mp.loggamma(b) - mp.loggamma(a + b)


def beta_edges(parameters, number):
    """Panel edges at the quantiles of every arm, with tails down to 1e-30."""
    edges = [0.0, 1.0]
    tails = 10.0 ** -np.array([1, 2, 3, 4.5, 6, 8, 10, 13, 16, 20, 25, 30])
    inside = np.linspace(0.1, 0.9, number)
    for a, b in parameters:
        edges += list(special.betaincinv(a, b, np.concatenate([tails, inside])))
        edges += list(special.betainccinv(a, b, tails))
    edges = np.unique(np.array(edges))
    return edges[np.concatenate([[True], np.diff(edges) > 1e-14])]


def beta_best(parameters):
    """P(best) and E[max] of independent Betas: composite quadrature in double precision."""
    a, b = np.array(parameters, float).T
    x, w = panels(beta_edges(parameters, 3))
    log = (a[:, None] - 1) * np.log(x) + (b[:, None] - 1) * np.log1p(-x)
    density = np.exp(log - np.array([float(log_beta(*p)) for p in parameters])[:, None])
    win = density * others(special.betainc(a[:, None], b[:, None], x)) * w
    p = win.sum(axis=1)
    assert abs(p.sum() - 1) < 1e-8, p.sum()
    return p / p.sum(), (win @ x).sum() / p.sum()


def fraction(a, b, x):
    """Lower incomplete Beta integral, not regularised, by its continued fraction, for x below the mean."""
    tiny = mp.mpf(10) ** -60
    c, d = mp.mpf(1), 1 - (a + b) * x / (a + 1)
    d = 1 / (d if d else tiny)
    h = d
    for m in range(1, 5000):
        step = mp.mpf(m) * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / (1 + step * d), 1 + step / c
        h *= d * c
        step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / (1 + step * d), 1 + step / c
        h *= d * c
        if abs(d * c - 1) < mp.mpf(10) ** -32:
            return h / a
    raise ArithmeticError((a, b, x))


def beta_best_exact(parameters):
    """The same with 35 digits."""
    with mp.workdps(35):
        norms = [log_beta(*p) for p in parameters]
        # Twelve nodes per panel are enough, because the panels are narrow.
        rule = []
        for root in np.polynomial.legendre.leggauss(12)[0]:
            node = mp.findroot(lambda t: mp.legendre(12, t), mp.mpf(root))
            slope = 12 * (node * mp.legendre(12, node) - mp.legendre(11, node)) / (node**2 - 1)
            rule.append((node, 2 / ((1 - node**2) * slope**2)))
        edges = [mp.mpf(float(edge)) for edge in beta_edges(parameters, 9)]
        p, top = [mp.mpf(0)] * len(parameters), mp.mpf(0)
        for low, high in zip(edges, edges[1:]):
            for node, weight in rule:
                x = low + (high - low) * (1 + node) / 2
                density, below = [], []
                for (a, b), norm in zip(parameters, norms):
                    mass = mp.exp(a * mp.log(x) + b * mp.log1p(-x) - norm)
                    density.append(mass / (x * (1 - x)))
                    if x < mp.mpf(a + 1) / (a + b + 2):
                        below.append(mass * fraction(mp.mpf(a), mp.mpf(b), x))
                    else:
                        below.append(1 - mass * fraction(mp.mpf(b), mp.mpf(a), 1 - x))
                for k in range(len(parameters)):
                    rest = mp.fprod(below[j] for j in range(len(parameters)) if j != k)
                    part = weight * (high - low) / 2 * density[k] * rest
                    p[k] += part
                    top += part * x
        assert abs(sum(p) - 1) < mp.mpf(10) ** -12, sum(p)
        return [float(v / sum(p)) for v in p], float(top / sum(p))
