//! The standard normal distribution in double precision. It uses only `libm`, so that every platform gets the same
//! bits.

/// Φ(x), the distribution function, computed from erfc so that both tails keep their relative precision.
#[must_use]
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * core::f64::consts::FRAC_1_SQRT_2)
}

/// ln Φ(x), also where Φ underflows. Below −37 it uses the leading terms of Mills' ratio, exact there to 1e-6.
pub(crate) fn log_normal_cdf(x: f64) -> f64 {
    if x > -37.0 {
        return libm::log(normal_cdf(x));
    }
    -0.5 * x * x - libm::log(-x) - 0.918_938_533_204_672_7 + libm::log1p(-1.0 / (x * x))
}

/// Φ⁻¹(p), the quantile, for p in 0..1, both excluded. Relative error about 1e-16.
///
/// Wichura, Algorithm AS 241: The Percentage Points of the Normal Distribution, Applied Statistics 37 (1988), PPND16.
#[must_use]
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        return q * ratio(r, &CENTRE.0, &CENTRE.1);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-libm::log(tail)).sqrt();
    let value = if r <= 5.0 { ratio(r - 1.6, &MIDDLE.0, &MIDDLE.1) } else { ratio(r - 5.0, &EXTREME.0, &EXTREME.1) };
    if q < 0.0 { -value } else { value }
}

fn ratio(r: f64, numerator: &[f64; 8], denominator: &[f64; 8]) -> f64 {
    let horner = |c: &[f64; 8]| c.iter().rev().fold(0.0, |sum, coefficient| sum * r + coefficient);
    horner(numerator) / horner(denominator)
}

type Rational = ([f64; 8], [f64; 8]);

// The coefficients are written as AS 241 prints them, so that they can be compared.
#[allow(clippy::excessive_precision)]
const CENTRE: Rational = (
    [
        3.387_132_872_796_366_608_0,
        1.331_416_678_917_843_774_5e2,
        1.971_590_950_306_551_442_7e3,
        1.373_169_376_550_946_112_5e4,
        4.592_195_393_154_987_145_7e4,
        6.726_577_092_700_870_085_3e4,
        3.343_057_558_358_812_810_5e4,
        2.509_080_928_730_122_672_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091_125_2e1,
        6.871_870_074_920_579_083_0e2,
        5.394_196_021_424_751_107_7e3,
        2.121_379_430_158_659_586_7e4,
        3.930_789_580_009_271_061_0e4,
        2.872_908_573_572_194_267_4e4,
        5.226_495_278_852_854_561_0e3,
    ],
);

#[allow(clippy::excessive_precision)]
const MIDDLE: Rational = (
    [
        1.423_437_110_749_683_577_34,
        4.630_337_846_156_545_295_90,
        5.769_497_221_460_691_405_50,
        3.647_848_324_763_204_605_04,
        1.270_458_252_452_368_382_58,
        2.417_807_251_774_506_117_70e-1,
        2.272_384_498_926_918_458_33e-2,
        7.745_450_142_783_414_076_40e-4,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87,
        1.676_384_830_183_803_849_40,
        6.897_673_349_851_000_045_50e-1,
        1.481_039_764_274_800_745_90e-1,
        1.519_866_656_361_645_719_66e-2,
        5.475_938_084_995_344_946_00e-4,
        1.050_750_071_644_416_843_24e-9,
    ],
);

#[allow(clippy::excessive_precision)]
const EXTREME: Rational = (
    [
        6.657_904_643_501_103_777_20,
        5.463_784_911_164_114_369_90,
        1.784_826_539_917_291_335_80,
        2.965_605_718_285_048_912_30e-1,
        2.653_218_952_657_612_309_30e-2,
        1.242_660_947_388_078_438_60e-3,
        2.711_555_568_743_487_578_15e-5,
        2.010_334_399_292_288_132_65e-7,
    ],
    [
        1.0,
        5.998_322_065_558_879_376_90e-1,
        1.369_298_809_227_358_053_10e-1,
        1.487_536_129_085_061_485_25e-2,
        7.868_691_311_456_132_591_00e-4,
        1.846_318_317_510_054_681_80e-5,
        1.421_511_758_316_445_888_70e-7,
        2.044_263_103_389_939_785_64e-15,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_matches_published_values_in_every_branch() {
        // scipy.special.ndtri 1.17
        for (p, wanted) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.075, -1.439_531_470_938_456),
            (1e-3, -3.090_232_306_167_813_5),
            (1e-10, -6.361_340_902_404_056),
            (1e-14, -7.650_628_092_935_269_5),
        ] {
            let found = normal_quantile(p);
            assert!((found - wanted).abs() <= 1e-14 * (1.0 + wanted.abs()) * 10.0, "{p}: {found} {wanted}");
        }
    }

    #[test]
    fn quantile_inverts_the_distribution_function() {
        for i in 1..4096 {
            let p = f64::from(i) / 4096.0;
            assert!((normal_cdf(normal_quantile(p)) / p - 1.0).abs() < 1e-13, "{p}");
        }
    }

    #[test]
    fn log_of_the_tail_is_continuous_where_the_formula_changes() {
        let (above, below) = (log_normal_cdf(-36.999_999), log_normal_cdf(-37.000_001));
        assert!((above - below).abs() < 1e-3 && above > below);
    }
}
