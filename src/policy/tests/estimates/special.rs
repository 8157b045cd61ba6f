//! The normal distribution over its tails. The χ² tail, which nobody outside the crate sees, is compared in its module.

use inroad_policy::{normal_cdf, normal_quantile};
use serde::Deserialize;

use crate::oracle::Ledger;

#[derive(Deserialize)]
struct Special {
    normal: Vec<[f64; 2]>,
    quantile: Vec<[f64; 2]>,
}

#[test]
fn the_normal_distribution_agrees_over_its_tails() {
    let special: Special = serde_json::from_str(include_str!("../oracle/special.json")).unwrap();
    let mut ledger = Ledger::default();
    for [x, p] in special.normal {
        ledger.see(&format!("Φ({x})"), normal_cdf(x), p, 1e-12 * p);
    }
    for [p, x] in special.quantile {
        ledger.see(&format!("Φ⁻¹({p})"), normal_quantile(p), x, 1e-14 * (1.0 + x.abs()));
    }
    ledger.close("normal");
}
