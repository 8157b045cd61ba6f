//! Tests of E3 for every measure against the whole regression, with epoch effects and sandwich.

use std::collections::BTreeMap;

use inroad_policy::{Estimator, Measure, Prior};
use serde::Deserialize;

use crate::oracle::{Comparisons, problems};

#[derive(Deserialize)]
struct Expected {
    mean: Vec<f64>,
    sd: Vec<f64>,
    /// Rows from the diagonal on; only the first row if there are many arms.
    covariance: Vec<Vec<f64>>,
    /// None for arms without an estimate if there is no prior.
    flat_mean: Option<Vec<Option<f64>>>,
    flat_sd: Option<Vec<Option<f64>>>,
}

#[test]
fn e3_matches_the_whole_regression_for_every_measure() {
    let expected: Vec<BTreeMap<String, Expected>> =
        serde_json::from_str(include_str!("../oracle/estimates.json")).unwrap();
    let mut comparisons = Comparisons::default();
    // All problems share one estimator, to show that its buffers carry nothing over from one problem to the next.
    let mut estimator = Estimator::default();
    for (problem, expected) in problems().iter().zip(&expected) {
        for (measure, wanted) in expected {
            let measure: Measure = serde_json::from_value(measure.as_str().into()).unwrap();
            let name = format!("{}, {measure:?}", problem.name);
            let found = estimator.fit(measure, problem.arms(), &problem.epochs(), Prior::Normal(problem.tau)).unwrap();
            assert_eq!((found.mean[0], found.sd(0)), (0.0, 0.0));
            for (i, (&mean, &sd)) in wanted.mean.iter().zip(&wanted.sd).enumerate() {
                comparisons.compare(&format!("{name}, mean {i}"), found.mean[i + 1], mean, 1e-6 * sd);
                comparisons.compare(&format!("{name}, sd {i}"), found.sd(i + 1), sd, 1e-6 * sd);
            }
            for (i, row) in wanted.covariance.iter().enumerate() {
                for (j, &value) in (i..).zip(row) {
                    let scale = 1e-6 * wanted.sd[i] * wanted.sd[j];
                    comparisons.compare(
                        &format!("{name}, covariance {i} {j}"),
                        found.covariance[i + 1][j + 1],
                        value,
                        scale,
                    );
                }
            }
            let (Some(means), Some(sds)) = (&wanted.flat_mean, &wanted.flat_sd) else { continue };
            let found = estimator.fit(measure, problem.arms(), &problem.epochs(), Prior::Flat).unwrap();
            for (i, (mean, sd)) in means.iter().zip(sds).enumerate() {
                let (Some(mean), Some(sd)) = (mean, sd) else { continue };
                // "No prior" is a precision of 1e-6, which moves an uncertain estimate by about 1e-6 times its
                // variance.
                let slack = 1e-6 * (1.0 + 2.0 * (1.0 + mean.abs()) * sd.max(sd * sd)) * sd;
                comparisons.compare(&format!("{name}, flat mean {i}"), found.mean[i + 1], *mean, slack);
                comparisons.compare(&format!("{name}, flat sd {i}"), found.sd(i + 1), *sd, slack);
            }
        }
    }
    comparisons.finish("E3");
}
