"""Computes the expected values for the tests in `estimates/`, by methods other than the crate's.

    python generate.py

writes problems.json (the tallies) and one file of expected values per subject into its own folder. It needs numpy, scipy
and mpmath (written with 2.4, 1.17 and 1.4) and takes two or three minutes. Tallies are sums over simulated units. The spread
of the units is computed from the units themselves, not from the sums that the crate gets.
"""

import json
import math
from pathlib import Path

import mpmath as mp
import numpy as np
from scipy.special import ndtri

import best
import checks
from glm import fit, fit_each

HERE = Path(__file__).parent


class Data:
    """Arrays of counts and sums, epochs by arms."""

    FIELDS = ["first", "units", "s", "early", "size", "total", "squares"]

    def __init__(self, shares, **fields):
        self.shares = shares
        for field in self.FIELDS:
            setattr(self, field, np.asarray(fields[field]))

    def part(self, rows):
        return Data(None, **{field: getattr(self, field)[rows] for field in self.FIELDS})


def schedule(epochs, arms, start, end, killed):
    """Served shares. The variations' share grows, more slowly for higher arms. A killed arm's share goes to control."""
    shares = np.zeros((epochs, arms))
    for e in range(epochs):
        treated = start + (end - start) * (e / max(epochs - 1, 1))
        weight = np.array([1 + e / (k * epochs) for k in range(1, arms)])
        shares[e, 1:] = np.round(treated * weight / weight.sum(), 6)
        for k, since in killed:
            if e >= since:
                shares[e, k] = 0
        shares[e, 0] = 1 - shares[e, 1:].sum()
    return shares


def units_of(kind, rng, n, rate, dispersion):
    """(x, y) of n units whose x/y is about `rate`."""
    if kind == "conversion":
        return (rng.random(n) < rate).astype(float), None
    if kind == "revenue":
        # In cents. One unit in twenty pays a log-normal amount with a heavy tail.
        return np.round((rng.random(n) < 0.05) * rng.lognormal(np.log(rate * 2000) - 0.5 * dispersion**2, dispersion, n)), None
    if kind == "count":
        return rng.negative_binomial(dispersion, dispersion / (dispersion + rate), n).astype(float), None
    if kind == "refund":
        return np.round((rng.random(n) < 0.05) * rng.normal(rate * 2000, dispersion * rate * 2000, n)), None
    y = 1.0 + rng.poisson(3, n) * rng.integers(0, 3, n)
    if kind == "sessions":
        # Each unit has its own propensity, so that its sessions are correlated.
        return rng.binomial(y.astype(int), rng.beta(rate * dispersion, (1 - rate) * dispersion, n)).astype(float), y
    return np.round(y * rng.lognormal(np.log(rate * 100), dispersion, n)), y


MEASURE = {"conversion": "conversion", "revenue": "mean", "count": "mean", "refund": "mean", "sessions": "ratio", "basket": "ratio"}


def problem(name, rng, kind, arms, epochs, per_day, base, lifts=(), share=(0.2, 0.2), *, tau=0.25, killed=(), dead=(),
            trend=0.0, dispersion=1.0, spreads=(), better="more", shares=True, margin=0.0, lost=0.0, slow=()):
    lifts = np.concatenate([lifts, np.zeros(arms - len(lifts))])
    served = schedule(epochs, arms, *share, killed)
    shape = (epochs, arms)
    first = np.array([rng.multinomial(per_day, q) for q in served])
    first[:, -1] = np.round(first[:, -1] * (1 - lost))
    n = rng.binomial(first, 0.98)
    s, early = np.zeros(shape, int), np.zeros(shape, int)
    moments, total, size, squares = np.zeros((*shape, 5)), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for e in range(epochs):
        for k in range(arms):
            rate = base * (1 + trend * e / epochs) * (1 + lifts[k])
            spread = spreads[k] if k < len(spreads) else dispersion
            x, y = units_of(kind, rng, int(n[e, k]), min(rate, 1.0) if kind in ("conversion", "sessions") else rate, spread)
            if k in dead:
                x = x * 0
            w = np.ones(len(x)) if y is None else y
            s[e, k] = int((x != 0).sum())
            early[e, k] = rng.binomial(s[e, k], slow[k] if k < len(slow) else 0.6)
            size[e, k], total[e, k] = w.sum(), max(x.sum(), 0.0) if len(x) else 0.0
            mean = x.sum() / w.sum() if len(x) else 0.0
            squares[e, k] = ((x - mean * w) ** 2).sum()
            moments[e, k] = [x.sum(), (x * x).sum(), *((0, 0, 0) if y is None else (y.sum(), (y * y).sum(), (x * y).sum()))]
    live = [k not in [arm for arm, _ in killed] for k in range(arms)]
    data = Data(served if shares else None, first=first, units=n, s=s, early=early, size=size, total=total, squares=squares)
    given = {
        "name": name, "measure": MEASURE[kind], "better": better, "tau": tau, "live": live, "margin": margin,
        "first": first, "n": n, "s": s, "early": early, "shares": served if shares else [],
    }
    if kind != "conversion":
        given["moments"] = moments[..., : 5 if MEASURE[kind] == "ratio" else 2]
    return given, data


def problems():
    rng = np.random.default_rng(20240607)
    p = lambda name, *args, **more: problem(name, rng, *args, **more)
    c = "conversion"
    return [
        p("two arms", c, 2, 14, 1500, 0.1, [0, 0.1]),
        p("two arms, one epoch", c, 2, 1, 400, 0.1, [0, 0.5], (0.5, 0.5), shares=False),
        p("four arms, growing", c, 4, 14, 4000, 0.05, [0, 0.1, 0, -0.2], (0.1, 0.7)),
        p("five arms, strong trend", c, 5, 14, 4000, 0.03, [0, 0.05, 0.1, 0.2, -0.1], (0.1, 0.6), trend=2.0),
        p("tiny footholds", c, 4, 10, 5000, 0.02, [0, 0.2, 0, -0.2], (0.005, 0.01)),
        p("twenty units beside two hundred thousand", c, 2, 4, 50000, 0.03, [0, 0.5], (0.0001, 0.0001)),
        p("twenty units each of five, without conversion", c, 6, 4, 50000, 0.03, [], (0.0005, 0.0005), dead=[1, 2, 3, 4, 5]),
        p("an arm that converts nobody", c, 3, 10, 2000, 0.05, [], (0.4, 0.4), dead=[2]),
        p("control converts nobody", c, 3, 5, 1000, 0.05, [], (0.4, 0.4), dead=[0]),
        p("nobody converts", c, 3, 3, 1000, 0.0, [], (0.4, 0.4)),
        p("nobody of very many converts", c, 3, 3, 100000, 0.0, [], (0.1, 0.2)),
        p("a handful converts of very many", c, 3, 4, 100000, 4e-6, [0, 1.0, 0], (0.3, 0.3)),
        p("a killed arm", c, 4, 14, 4000, 0.05, [0, 0.1, -0.4, 0.05], (0.3, 0.5), killed=[(2, 5)]),
        p("only control is left", c, 3, 6, 2000, 0.05, [0, -0.3, -0.2], (0.3, 0.3), killed=[(1, 3), (2, 4)]),
        p("one of two killed", c, 2, 8, 2000, 0.1, [0, -0.4], (0.3, 0.3), killed=[(1, 4)]),
        p("ten arms", c, 10, 10, 8000, 0.03, [0, 0.3, 0.15, 0.1, 0, 0, -0.1, -0.15, -0.2, -0.3], (0.2, 0.5)),
        p("thirty-two arms", c, 32, 5, 30000, 0.05, list(rng.normal(0, 0.1, 32)), (0.3, 0.6)),
        p("sixty-four arms", c, 64, 4, 60000, 0.04, list(rng.normal(0, 0.1, 64)), (0.2, 0.2)),
        p("an extreme lift", c, 2, 7, 20000, 0.01, [0, 9.0], (0.3, 0.3), tau=2.0),
        p("extreme lifts both ways", c, 3, 7, 20000, 0.05, [0, 8.0, -0.9], (0.3, 0.3), tau=1.0),
        p("rates of 60%", c, 3, 14, 900, 0.6, [0, 0.1, -0.1], (0.4, 0.4)),
        p("rates of 95%", c, 4, 8, 1500, 0.95, [0, 0.02, -0.03, 0.05], (0.3, 0.6)),
        p("everybody converts", c, 2, 4, 500, 1.0, [], (0.5, 0.5)),
        p("wide prior, little data", c, 3, 4, 60, 0.1, [], (0.4, 0.4), tau=2.0),
        p("fewer conversions are better", c, 4, 10, 3000, 0.08, [0, 0.15, -0.15, -0.05], (0.3, 0.5), better="less", margin=0.05),
        p("fewer are better, tiny footholds without any", c, 3, 4, 20000, 0.01, [], (0.002, 0.002), better="less", dead=[1]),
        p("a foothold that is better by far, many looks", c, 2, 10, 40000, 0.04, [0, 2.0], (0.3, 0.3), tau=1.0),
        p("units lost in the last arm", c, 4, 12, 8000, 0.05, [0, 0.1, 0, 0], (0.2, 0.6), lost=0.06, slow=[0.6, 0.6, 0.45]),
        p("sixteen arms, units lost", c, 16, 6, 40000, 0.05, [], (0.01, 0.4), lost=0.5),
        p("revenue", "revenue", 3, 10, 3000, 2.0, [0, 0.2, -0.1], (0.3, 0.5)),
        p("revenue with a heavy tail", "revenue", 4, 8, 4000, 2.0, [0, 0.2, 0, -0.2], (0.2, 0.5), dispersion=1.8, margin=0.02),
        p("revenue, tiny footholds without a sale", "revenue", 4, 6, 20000, 2.0, [], (0.003, 0.003), dispersion=1.5, dead=[1, 2]),
        p("revenue of unequal spread", "revenue", 3, 8, 4000, 2.0, [0, 0.1, 0.1], (0.5, 0.5), spreads=[0.5, 2.0, 1.0]),
        p("revenue, less is better (cost)", "revenue", 3, 8, 4000, 1.0, [0, 0.3, -0.3], (0.4, 0.4), better="less", margin=0.1),
        p("refunds above sales in some cells", "refund", 3, 8, 500, 1.0, [0, 0.1, 0.5], (0.3, 0.3), dispersion=2.5),
        p("counts", "count", 4, 8, 2000, 1.4, [0, 0.1, 0, -0.1], (0.3, 0.6), dispersion=0.7),
        p("counts of unequal spread", "count", 3, 8, 2000, 3.0, [0, 0.05, 0], (0.5, 0.5), spreads=[0.3, 3.0, 10.0]),
        p("counts, twenty arms", "count", 20, 4, 10000, 0.5, list(rng.normal(0, 0.1, 20)), (0.5, 0.6), dispersion=0.5),
        p("ratio: conversions a session", "sessions", 3, 8, 2000, 0.2, [0, 0.1, -0.1], (0.3, 0.5), dispersion=3.0),
        p("ratio: value of a basket's item", "basket", 4, 8, 1500, 3.0, [0, 0.05, 0, -0.1], (0.3, 0.6), spreads=[0.5, 0.5, 1.2, 0.5]),
        p("ratio, less is better, a dead arm", "sessions", 3, 6, 1500, 0.1, [0, 0.2, 0], (0.3, 0.3), better="less", dispersion=5.0, dead=[2]),
    ]


def estimates(given, data):
    result = {}
    for measure in [given["measure"]] + (["poisson"] if given["measure"] == "conversion" else []):
        mean, covariance = fit(measure, data.size, data.total, data.units, data.squares, given["tau"])
        flat = fit(measure, data.size, data.total, data.units, data.squares, None)
        # For many arms, the first row of the covariance and all variances are enough.
        rows = len(mean) if len(mean) <= 5 else 1
        result[measure] = {
            "mean": mean, "sd": np.sqrt(np.diag(covariance)), "covariance": [covariance[i, i:] for i in range(rows)],
            "flat_mean": None if flat is None else flat[0],
            "flat_sd": None if flat is None else np.sqrt(np.diag(flat[1])),
        }
        if measure == given["measure"]:
            main = mean, covariance, flat
    return result, main


def comparison(given, main):
    sign = 1 if given["better"] == "more" else -1
    return best.correlated(sign * main[0], main[1], given["live"])


def pooled(given, data):
    """Betas of the conversion rates or, if lower values are better, of the rates of not converting. Losses refer to the rates
    of converting."""
    n, s = data.units.sum(axis=0), data.s.sum(axis=0)
    parameters = [(int(1 + s), int(1 + n - s)) for n, s in zip(n, s)]
    if given["better"] == "less":
        parameters = [(b, a) for a, b in parameters]
    alive = [k for k, live in enumerate(given["live"]) if live]
    chosen = [parameters[k] for k in alive]
    p, top = best.beta_best(chosen)
    if len(alive) <= 4:
        digits, exact_top = best.beta_best_exact(chosen)
        assert np.abs(np.array(digits) - p).max() < 1e-9 and abs(exact_top / top - 1) < 1e-9, given["name"]
        p, top = digits, exact_top
    share, loss = [0.0] * len(n), [None] * len(n)
    for at, k in enumerate(alive):
        a, b = parameters[k]
        share[k] = p[at]
        if given["better"] == "less":
            loss[k] = max(math.log(b / (a + b) / (1 - top)), 0.0)
        else:
            loss[k] = max(math.log(top * (a + b) / a), 0.0)
    above = [0.5]
    for k in range(1, len(n)):
        # Four sums give the same value; use the shortest.
        a, c = parameters[k], parameters[0]
        if min(a) < min(c):
            turned = a[0] > a[1]
            value = best.beta_above(a[::-1] if turned else a, c[::-1] if turned else c)
            above.append(1 - value if turned else value)
        else:
            turned = c[0] > c[1]
            value = best.beta_above(c[::-1] if turned else c, a[::-1] if turned else a)
            above.append(value if turned else 1 - value)
    return {"p_best": share, "loss": loss, "above": above}


def intervals(given, data):
    """Intervals of lifts as people see them: each arm against control alone."""
    counted = given["measure"], data.size, data.total, data.units, data.squares
    flat = fit_each(*counted, None)
    arms = []
    for k in range(1, len(given["live"])):
        known = flat is not None and math.isfinite(flat[0][k - 1])
        anytime = checks.anytime(flat[0][k - 1], flat[1][k - 1, k - 1]) if known else None
        # A killed arm was stopped by its own data, so it gets an interval that is valid at any stopping time.
        lift = anytime
        if known and given["live"][k]:
            lift = checks.lifted(flat[0][k - 1], checks.Z * math.sqrt(flat[1][k - 1, k - 1]))
        alternatives = checks.alternatives(data, k, flat[0][k - 1] if known else None)
        arms.append({"lift": lift, "anytime": anytime, "opinion": alternatives})
    return arms


def data_checks(given, data):
    sign = 1 if given["better"] == "more" else -1
    arms = range(1, data.units.shape[1])
    return {
        "guardrail": [checks.guardrail(data, given["measure"], k, sign, given["margin"]) for k in arms],
        "sample_ratio": None if data.shares is None else checks.sample_ratio(data.first, data.shares),
        "delay": checks.delay(data),
        "novelty": checks.novelty(data, given["measure"]),
    }


def posteriors():
    """Lifts over a shared control. Arms are independent given control, so one-dimensional integrals are exact."""
    rng = np.random.default_rng(7)
    cases = [
        ("two equal arms", [0, 0], [0.05, 0.05]),
        ("a tiny foothold beside a huge control", [0, 0.1], [0.003, 0.6]),
        ("five tiny footholds beside a huge control", [0, 0.1, 0, -0.1, 0.3, 0.2], [0.002, 0.5, 0.4, 0.6, 0.3, 0.7]),
        ("a winner beyond doubt", [0, 2.0, 0.1], [0.02, 0.1, 0.1]),
        ("control beyond doubt", [0, -1.0, -2.0], [0.02, 0.1, 0.1]),
        ("one in a thousand", [0, -0.31, -0.25], [0.02, 0.1, 0.08]),
        ("spreads of four orders of magnitude", [0, 0.001, 0.05, -0.2], [0.0001, 0.001, 0.1, 1.0]),
        ("an uncertain control", [0, 0.1, 0.15, 0.2], [0.3, 0.02, 0.05, 0.1]),
        ("nine arms", list(np.linspace(-0.1, 0.1, 9)), [0.05] * 9),
        ("ten arms", [0, *rng.normal(0, 0.1, 9)], [0.03, *rng.uniform(0.03, 0.2, 9)]),
        ("thirty arms", [0, *rng.normal(0, 0.1, 29)], [0.01, *rng.uniform(0.03, 0.3, 29)]),
        ("sixty-four equal arms", [0] * 64, [0.1] * 64),
        ("sixty-five arms", [0, *rng.normal(0, 0.1, 64)], [0.01, *rng.uniform(0.05, 0.2, 64)]),
    ]
    found = []
    for name, mean, sd in cases:
        mean, sd = np.array(mean, float), np.array(sd, float)
        contrast = np.diag(sd[1:] ** 2) + sd[0] ** 2
        errors = best.loss_errors(mean[1:] - mean[0], contrast)
        found.append({"name": name, "mean": mean - mean[0], "sd": sd, "loss_error": errors} | best.independent(mean - mean[0], sd))
    return found


def special():
    normal = [[x, mp.erfc(-mp.mpf(x) / mp.sqrt(2)) / 2] for x in [-37.5, -30.1, -20.3, -12.7, -8.2, -5.5, -3.1, -1.7, -0.9, -0.3, -1e-3, 0.0, 1e-9, 0.2, 0.7, 1.3, 2.9, 4.4, 6.6, 9.0]]
    tails = [2.0**-1000, 1e-200, 1e-100, 1e-50, 1e-20, 1e-12, 1e-7, 1e-4, 0.003, 0.02, 0.0749, 0.0751, 0.2, 0.45, 0.5, 0.6, 0.9, 0.9249, 0.9251, 0.99, 0.9999, 1 - 2.0**-30, 1 - 2.0**-50]
    quantile = []
    for p in tails:
        root = mp.findroot(lambda x: mp.log(mp.erfc(-x / mp.sqrt(2)) / 2) - mp.log(mp.mpf(p)), mp.mpf(float(ndtri(p))))
        quantile.append([p, root])
    chi = [[df, x, mp.gammainc(mp.mpf(df) / 2, mp.mpf(x) / 2, regularized=True)]
           for df in (1, 2, 3, 5, 9, 31, 63, 64) for x in (0.01, 0.5, 1.0, 3.84, 10.0, 30.0, 64.0, 65.9, 66.1, 120.0, 400.0, 1300.0)]
    return {"normal": normal, "quantile": quantile, "chi_squared": chi}


def compact(value, digits=17):
    """A value for JSON: floats are rounded to `digits` digits, and integers have no decimal point."""
    if isinstance(value, dict):
        return {key: compact(inner, digits) for key, inner in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [compact(inner, digits) for inner in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating, mp.mpf)):
        value = float(value)
        if math.isnan(value):
            return None
        value = float(f"{value:.{digits}g}")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def write(name, value, digits=11):
    (HERE / name).write_text(json.dumps(compact(value, digits), separators=(",", ":")) + "\n")


def main():
    mp.mp.dps = 40
    given, fits, compared, betas, spans, checked = [], [], [], [], [], []
    for question, data in problems():
        print(question["name"], flush=True)
        found, central = estimates(question, data)
        given.append(question)
        fits.append(found)
        compared.append(comparison(question, central))
        betas.append(pooled(question, data) if question["measure"] == "conversion" else None)
        spans.append(intervals(question, data))
        checked.append(data_checks(question, data))
    write("problems.json", given, 17)
    write("estimates.json", fits)
    write("comparisons.json", compared, 8)
    write("betas.json", betas)
    write("intervals.json", spans)
    write("data_checks.json", checked)
    write("posteriors.json", posteriors())
    write("special.json", special(), 17)


if __name__ == "__main__":
    main()
