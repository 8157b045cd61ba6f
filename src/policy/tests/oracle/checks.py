"""Intervals, alternative estimates, guardrails and checks, each computed from its definition."""

import mpmath as mp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, chi2_contingency, multinomial

from glm import dispersions, fit_each

Z = float(mp.sqrt(2) * mp.erfinv(mp.mpf("0.95")))
RHO, ALPHA, GUARD_RHO = 40.0, 0.05, 12
LIFTS = (-1.0, 1e4)


def lifted(log, half):
    return [float(mp.expm1(max(-100, min(100, mp.mpf(end))))) for end in (log, log - half, log + half)]


def anytime(log, variance):
    v = 1 / mp.mpf(variance)
    return lifted(log, mp.sqrt((v + RHO) * mp.log((v + RHO) / (RHO * mp.mpf(ALPHA) ** 2))) / v)


def blocks(data, arm):
    """(weight, means, variances) of control and an arm, per block."""
    groups, open_group = [], []
    for e in range(len(data.units)):
        if data.shares is not None and min(data.shares[e][0], data.shares[e][arm]) <= 0:
            continue
        if data.shares is None and min(data.units[e][0], data.units[e][arm]) <= 0:
            continue
        open_group.append(e)
        rate = data.s[open_group].sum() / max(data.units[open_group].sum(), 1)
        if all(data.units[open_group, side].sum() * rate >= 5 for side in (0, arm)):
            groups.append(open_group)
            open_group = []
    if groups:
        groups[-1] = groups[-1] + open_group
    result = []
    for group in groups:
        freedom = np.maximum(data.units[group] - 1, 0).sum()
        spread = data.squares[group].sum() / freedom
        mean, variance = [], []
        for side in (0, arm):
            if data.shares is None:
                q = data.units[group, side] / data.units[group].sum(axis=1)
            else:
                q = data.shares[group, side]
            base = (data.size[group, side] / q).sum()
            mean.append((data.total[group, side] / q).sum() / base)
            variance.append(spread * (data.units[group, side] / q**2).sum() / base**2)
        if spread > 0:
            result.append((data.size[group].sum(), mean, variance))
    return result


def alternatives(data, arm, log_lift):
    """Alternative estimates of a lift, and whether they are more than two standard errors from `log_lift`, if it is known."""
    found = blocks(data, arm)
    if not found:
        return None
    weight = np.array([block[0] for block in found], float)
    weight /= weight.sum()
    mean, variance = np.array([b[1] for b in found]), np.array([b[2] for b in found])
    m, v = weight @ mean, weight**2 @ variance
    if min(m) <= 0:
        return None
    error = np.sqrt(v[1] / m[1] ** 2 + v[0] / m[0] ** 2)
    half = Z * np.sqrt(v.sum())

    def z(lift):
        ratio = 1 + lift
        return (np.sqrt(weight) * (mean[:, 1] - ratio * mean[:, 0]) / np.sqrt(variance[:, 1] + ratio**2 * variance[:, 0])).sum()

    def reach(wanted):
        if z(LIFTS[0]) <= wanted:
            return LIFTS[0]
        if z(LIFTS[1]) >= wanted:
            return LIFTS[1]
        return brentq(lambda lift: z(lift) - wanted, *LIFTS, xtol=1e-15, rtol=1e-14, maxiter=1000)

    return {
        "period": lifted(np.log(m[1] / m[0]), Z * error),
        "difference": [m[1] - m[0], m[1] - m[0] - half, m[1] - m[0] + half],
        "batched": [reach(0.0), reach(Z), reach(-Z)],
        "disagrees": log_lift is None or abs(np.log(m[1] / m[0]) - log_lift) / error > 2 or abs(z(np.exp(log_lift) - 1)) > 2,
    }


def guardrail(data, measure, arm, sign, margin):
    """ln of the normal mixture of exp(theta S - theta^2 V / 2) over theta > 0."""
    both = [0, arm]
    pooled, _ = dispersions(measure, data.units[:, both], data.total[:, both], data.squares[:, both])
    with mp.workdps(40):
        score, information = mp.mpf(0), mp.mpf(0)
        for n, s in zip(data.size[:, both], data.total[:, both]):
            if s.sum() <= 0:
                continue
            total = mp.mpf(float(s.sum())) / pooled
            odds = mp.mpf(float(n[1])) * (1 - sign * mp.mpf(margin))
            share = odds / (odds + mp.mpf(float(n[0])))
            score += sign * (total * share - mp.mpf(float(s[1])) / pooled)
            information += total * share * (1 - share)
        scale = information + GUARD_RHO
        x = score / mp.sqrt(scale)
        closed = mp.log(4 * GUARD_RHO / scale) / 2 + x**2 / 2 + mp.log(mp.erfc(-x / mp.sqrt(2)) / 2)
        peak = max(score, 0) / scale
        width = 1 / mp.sqrt(scale)
        if x > -5:
            grid = [0] + [t for t in (peak - 8 * width, peak, peak + 8 * width, peak + 20 * width) if t > 0]
            height = peak * score - peak**2 * scale / 2
            mass = mp.quad(lambda t: mp.exp(t * score - t**2 * scale / 2 - height), grid)
            mixture = height + mp.log(mass * 2 * mp.sqrt(GUARD_RHO / (2 * mp.pi)))
            assert abs(mixture - closed) < 1e-12 * (1 + abs(closed)), (mixture, closed)
        return float(closed)


def sample_ratio(first, shares):
    epochs, arms = first.shape
    seen = np.where(shares > 0, first, 0)
    total = seen.sum(axis=1)
    expected = (total[:, None] * shares).sum(axis=0)
    # Cells with fewer than five expected exposures are merged into the largest.
    largest = int(np.argmax(expected))
    kept = [k for k in range(arms) if k != largest and expected[k] >= 5] + [largest]
    merge = np.zeros((len(kept), arms))
    for row, k in enumerate(kept):
        merge[row, k] = 1
    for k in set(range(arms)) - set(kept):
        merge[-1, k] = 1
    d = merge @ (seen - total[:, None] * shares).sum(axis=0)
    sigma = sum(n * (np.diag(q) - np.outer(q, q)) for n, q in zip(total, shares))
    sigma = merge @ sigma @ merge.T
    chi, df = (float(d @ np.linalg.pinv(sigma, rcond=1e-12, hermitian=True) @ d), len(kept) - 1)
    pearson = []
    for o, n, q in zip(seen, total, shares):
        large = (n * q >= 5) & (q > 0)
        if large.sum() >= 2:
            pearson.append(chi2.sf(((o - n * q)[large] ** 2 / (n * q)[large]).sum(), large.sum() - 1))
    log_m, peak, o, x = 0.0, 0.0, np.full(arms, 2000.0), np.full(arms, 2000.0)
    for count, n, q in zip(seen, total, shares):
        live = q > 0
        tilted = q[live] * o[live] / x[live]
        tilted /= tilted.sum()
        if n > 0:
            log_m += multinomial.logpmf(count[live], n, tilted) - multinomial.logpmf(count[live], n, q[live] / q[live].sum())
        peak = max(peak, log_m)
        o, x = o + count, x + n * q
    p = float(mp.gammainc(mp.mpf(df) / 2, mp.mpf(chi) / 2, regularized=True)) if df else 1.0
    holm = min(1.0, min(pearson, default=1.0) * max(len(pearson), 1))
    return {"chi_squared": chi, "df": df, "p_value": p, "epoch_p_value": holm, "log_evidence": log_m, "peak": peak}


def delay(data):
    early, s = data.early.sum(axis=0), data.s.sum(axis=0)
    found = [None]
    for k in range(1, len(s)):
        if s[k] == 0 or s[0] == 0:
            found.append(None)
            continue
        table = np.array([[early[k], s[k] - early[k]], [early[0], s[0] - early[0]]])
        # The square of the pooled two-proportion z is Pearson's chi-squared.
        p = 1.0 if table.sum(axis=0).min() == 0 else chi2_contingency(table, correction=False).pvalue
        found.append([early[k] / s[k], early[0] / s[0], p])
    return found


def novelty(data, measure):
    """The lifts in the first half of the events and in the second, and the p-value of their difference."""
    events = np.cumsum(data.s.sum(axis=1))
    cut = int((events <= events[-1] // 2).sum())
    halves = [data.part(slice(0, cut)), data.part(slice(cut, None))]
    fits = [fit_each(measure, h.size, h.total, h.units, h.squares, None) if len(h.units) else None for h in halves]
    found = [None]
    for k in range(1, data.units.shape[1]):
        if any(f is None or h.s[:, k].sum() < 10 or h.s[:, 0].sum() < 10 for f, h in zip(fits, halves)):
            found.append(None)
            continue
        (m0, c0), (m1, c1) = fits
        v = [c0[k - 1, k - 1], c1[k - 1, k - 1]]
        z = (m0[k - 1] - m1[k - 1]) / np.sqrt(sum(v))
        found.append(
            {
                "early": lifted(m0[k - 1], Z * np.sqrt(v[0])),
                "late": lifted(m1[k - 1], Z * np.sqrt(v[1])),
                "p_value": float(mp.erfc(abs(z) / mp.sqrt(2))),
            }
        )
    return found
