//! Tests of the normal distribution in its tails. The χ² tail is private to the crate and tested in its module.

use inroad_policy::{normal_cdf, normal_quantile};
use serde::Deserialize;

use crate::oracle::Comparisons;

#[derive(Deserialize)]
struct Special {
    normal: Vec<[f64; 2]>,
    quantile: Vec<[f64; 2]>,
}

#[test]
fn normal_distribution_matches_in_its_tails() {
    let special: Special = serde_json::from_str(include_str!("../oracle/special.json")).unwrap();
    let mut comparisons = Comparisons::default();
    for [x, p] in special.normal {
        comparisons.compare(&format!("Φ({x})"), normal_cdf(x), p, 1e-12 * p);
    }
    for [p, x] in special.quantile {
        comparisons.compare(&format!("Φ⁻¹({p})"), normal_quantile(p), x, 1e-14 * (1.0 + x.abs()));
    }
    comparisons.finish("normal");
}
