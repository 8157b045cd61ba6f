//! E3 of every measure against the whole regression, epoch effects and sandwich included.

use std::collections::BTreeMap;

use inroad_policy::{Estimator, Measure, Prior};
use serde::Deserialize;

use crate::oracle::{Ledger, problems};

#[derive(Deserialize)]
struct Expected {
    mean: Vec<f64>,
    sd: Vec<f64>,
    /// From the diagonal on; only the first rows where there are many arms.
    covariance: Vec<Vec<f64>>,
    /// None for arms that have no estimate without prior.
    flat_mean: Option<Vec<Option<f64>>>,
    flat_sd: Option<Vec<Option<f64>>>,
}

#[test]
fn e3_agrees_with_the_whole_regression_for_every_measure() {
    let expected: Vec<BTreeMap<String, Expected>> =
        serde_json::from_str(include_str!("../oracle/estimates.json")).unwrap();
    let mut ledger = Ledger::default();
    // One estimator for all, so that nothing of one problem may be left in the buffers of the next.
    let mut estimator = Estimator::default();
    for (problem, expected) in problems().iter().zip(&expected) {
        for (measure, wanted) in expected {
            let measure: Measure = serde_json::from_value(measure.as_str().into()).unwrap();
            let name = format!("{}, {measure:?}", problem.name);
            let found = estimator.fit(measure, problem.arms(), &problem.epochs(), Prior::Normal(problem.tau)).unwrap();
            assert_eq!((found.mean[0], found.sd(0)), (0.0, 0.0));
            for (i, (&mean, &sd)) in wanted.mean.iter().zip(&wanted.sd).enumerate() {
                ledger.see(&format!("{name}, mean {i}"), found.mean[i + 1], mean, 1e-6 * sd);
                ledger.see(&format!("{name}, sd {i}"), found.sd(i + 1), sd, 1e-6 * sd);
            }
            for (i, row) in wanted.covariance.iter().enumerate() {
                for (j, &value) in (i..).zip(row) {
                    let scale = 1e-6 * wanted.sd[i] * wanted.sd[j];
                    ledger.see(&format!("{name}, covariance {i} {j}"), found.covariance[i + 1][j + 1], value, scale);
                }
            }
            let (Some(means), Some(sds)) = (&wanted.flat_mean, &wanted.flat_sd) else { continue };
            let found = estimator.fit(measure, problem.arms(), &problem.epochs(), Prior::Flat).unwrap();
            for (i, (mean, sd)) in means.iter().zip(sds).enumerate() {
                let (Some(mean), Some(sd)) = (mean, sd) else { continue };
                // "No prior" is a precision of 1e-6, which pulls what is hardly known by about that times its variance.
                let slack = 1e-6 * (1.0 + 2.0 * (1.0 + mean.abs()) * sd.max(sd * sd)) * sd;
                ledger.see(&format!("{name}, flat mean {i}"), found.mean[i + 1], *mean, slack);
                ledger.see(&format!("{name}, flat sd {i}"), found.sd(i + 1), *sd, slack);
            }
        }
    }
    ledger.close("E3");
}
