//! The upper tail of the χ² distribution, for the sample ratio report. It is written here because it is short and
//! because its logarithms must come from `libm`, for the same bits on every platform.

/// P(χ²_df > x), 0 to 1. 1 for zero degrees of freedom, which test nothing.
///
/// The regularised incomplete gamma function, by its series (Abramowitz & Stegun 6.5.29) below a+1 and by Lentz's
/// method on its continued fraction (6.5.31) above.
pub fn chi_squared_tail(x: f64, df: usize) -> f64 {
    if df == 0 || x <= 0.0 {
        return 1.0;
    }
    let (a, x) = (df as f64 / 2.0, x / 2.0);
    let front = libm::exp(a * libm::log(x) - x - libm::lgamma(a));
    if x < a + 1.0 { 1.0 - front * series(a, x) } else { front * continued_fraction(a, x) }.clamp(0.0, 1.0)
}

fn series(a: f64, x: f64) -> f64 {
    let mut term = 1.0 / a;
    let mut sum = term;
    for i in 1..1000 {
        term *= x / (a + f64::from(i));
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}

fn continued_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..1000 {
        let an = -f64::from(i) * (f64::from(i) - a);
        b += 2.0;
        d = an * d + b;
        if d.abs() < TINY {
            d = TINY;
        }
        c = b + an / c;
        if c.abs() < TINY {
            c = TINY;
        }
        d = 1.0 / d;
        let delta = d * c;
        h *= delta;
        if (delta - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_matches_known_values() {
        // scipy.stats.chi2.sf 1.17; two degrees of freedom are exp(-x/2) exactly.
        for (x, df, wanted) in [
            (3.841_458_820_694_124, 1, 0.05),
            (10.0, 2, (-5.0f64).exp()),
            (100.0, 2, (-50.0f64).exp()),
            (5.991_464_547_107_979, 2, 0.05),
            (18.307_038_053_275_146, 10, 0.05),
            (64.0, 64, 0.476_488_305_476_258_6),
            (0.5, 4, 0.973_500_978_839_256_1),
        ] {
            let found = chi_squared_tail(x, df);
            let tolerance = 1e-12;
            assert!((found / wanted - 1.0).abs() < tolerance, "{x} {df}: {found} {wanted}");
        }
        assert_eq!(chi_squared_tail(0.0, 3), 1.0);
        assert_eq!(chi_squared_tail(3.0, 0), 1.0);
    }

    #[test]
    fn tail_matches_mpmath_for_many_degrees_of_freedom() {
        let special: serde_json::Value = serde_json::from_str(include_str!("../tests/oracle/special.json")).unwrap();
        for row in special["chi_squared"].as_array().unwrap() {
            let [df, x, wanted] = [0, 1, 2].map(|i| row[i].as_f64().unwrap());
            let found = chi_squared_tail(x, df as usize);
            assert!((found / wanted - 1.0).abs() < 1e-11, "{df} {x}: {found:e} {wanted:e}");
        }
    }
}
