//! Tests whether the order of a log's rows predicts a column. Offline evaluation reads row order as time if the log has
//! no times, so a log that is sorted by arm or by outcome gives figures without meaning.
//!
//! Two tests look at each column, because a log can be sorted as a whole or in blocks:
//!
//! - *As a whole*: do row numbers differ between the arms (Kruskal and Wallis 1952), or correlate with the outcome
//!   (Spearman 1904; for outcomes of 0 and 1 this is the test of Mann and Whitney 1947)?
//! - *In blocks*: do neighbouring rows have the same arm, or the same outcome of 0 or 1, more often than in random order
//!   (the runs test of Wald and Wolfowitz 1940; moments for several categories by Barton and David 1957)? Fewer equal
//!   neighbours than by chance are no finding: arms that are assigned in rotation are balanced in every block.

use inroad_policy::{chi_squared_tail, normal_cdf};

/// Fewest rows for a test: the approximations of the p-values need about this many.
const ROWS_MIN: usize = 20;
/// A p-value that leaves no doubt.
const DECISIVE: f64 = 1e-9;

/// The result of the two tests of one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowOrder {
    /// The test of the order as a whole if it is decisive, otherwise the test with the smaller p-value.
    pub test: OrderTest,
    /// Probability of a result at least as extreme in random order, 0 to 1: twice the smaller p-value of the two tests
    /// (Bonferroni), at most 1.
    pub p_value: f64,
}

/// A test of row order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderTest {
    /// Row numbers of the arms, Kruskal–Wallis.
    KruskalWallis,
    /// Correlation of row number and outcome, Spearman.
    Spearman,
    /// Equal neighbours, Wald–Wolfowitz.
    Runs,
}

impl OrderTest {
    /// The usual name of the test.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KruskalWallis => "Kruskal–Wallis test of row numbers",
            Self::Spearman => "Spearman rank correlation with the row number",
            Self::Runs => "Wald–Wolfowitz runs test",
        }
    }
}

/// Tests whether row order predicts the arm. `arms` has the arm of each row. None for fewer than 20 rows or two arms.
#[must_use]
pub fn row_order_of_arms(arms: &[usize]) -> Option<RowOrder> {
    let counts = category_counts(arms);
    if arms.len() < ROWS_MIN || counts.iter().filter(|count| **count > 0).count() < 2 {
        return None;
    }
    Some(combined((OrderTest::KruskalWallis, kruskal_wallis(arms, &counts)), (OrderTest::Runs, runs(arms, &counts))))
}

/// Tests whether row order predicts the outcome. None for fewer than 20 rows or if all outcomes are equal.
#[must_use]
pub fn row_order_of_outcomes(outcomes: &[f64]) -> Option<RowOrder> {
    let first = outcomes.first()?;
    if outcomes.len() < ROWS_MIN || outcomes.iter().all(|outcome| outcome == first) {
        return None;
    }
    let categories: Vec<usize> = outcomes.iter().map(|outcome| usize::from(*outcome > 0.0)).collect();
    let binary = outcomes.iter().all(|outcome| *outcome == 0.0 || *outcome == 1.0);
    let blocks = if binary { runs(&categories, &category_counts(&categories)) } else { 1.0 };
    Some(combined((OrderTest::Spearman, spearman(outcomes)), (OrderTest::Runs, blocks)))
}

fn combined(whole: (OrderTest, f64), blocks: (OrderTest, f64)) -> RowOrder {
    // Sorted rows also have too few runs, but the order as a whole explains more.
    let (test, p) = if blocks.1 < whole.1 && whole.1 > DECISIVE { blocks } else { whole };
    RowOrder { test, p_value: (2.0 * p).min(1.0) }
}

/// The number of rows of each category.
fn category_counts(categories: &[usize]) -> Vec<usize> {
    let mut counts = vec![0; categories.iter().max().map_or(0, |most| most + 1)];
    categories.iter().for_each(|category| counts[*category] += 1);
    counts
}

/// The p-value of H = 12/(n(n+1))·Σ R_k²/n_k − 3(n+1), with R_k the sum of the row numbers of arm k.
fn kruskal_wallis(arms: &[usize], counts: &[usize]) -> f64 {
    let n = arms.len() as f64;
    let mut sums = vec![0.0; counts.len()];
    arms.iter().enumerate().for_each(|(i, arm)| sums[*arm] += i as f64 + 1.0);
    let present = || sums.iter().zip(counts).filter(|(_, count)| **count > 0);
    // The deviations from the mean row number, because the difference of two large sums loses digits.
    let middle = (n + 1.0) / 2.0;
    let squares: f64 = present()
        .map(|(sum, count)| {
            let deviation = sum / *count as f64 - middle;
            *count as f64 * deviation * deviation
        })
        .sum();
    chi_squared_tail(12.0 * squares / (n * (n + 1.0)), present().count() - 1)
}

/// The p-value of too many equal neighbours, by the normal approximation.
fn runs(categories: &[usize], counts: &[usize]) -> f64 {
    let n = categories.len() as f64;
    let observed = 1.0 + categories.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64;
    let sum_of_powers = |power: i32| counts.iter().map(|count| (*count as f64).powi(power)).sum::<f64>();
    let (squares, cubes) = (sum_of_powers(2), sum_of_powers(3));
    let mean = (n * (n + 1.0) - squares) / n;
    let variance = (squares * (squares + n * (n + 1.0)) - 2.0 * n * cubes - n * n * n) / (n * n * (n - 1.0));
    if variance <= 0.0 { 1.0 } else { normal_cdf((observed - mean) / variance.sqrt()) }
}

/// The two-sided p-value of the rank correlation of row number and value, with mean ranks for equal values.
fn spearman(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let middle = (n + 1.0) / 2.0;
    let (mut covariance, mut spread, mut start) = (0.0, 0.0, 0);
    while start < order.len() {
        let equal = order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count();
        let rank = start as f64 + (equal as f64 + 1.0) / 2.0 - middle;
        for i in &order[start..start + equal] {
            covariance += rank * (*i as f64 + 1.0 - middle);
            spread += rank * rank;
        }
        start += equal;
    }
    let rows = n * (n * n - 1.0) / 12.0;
    let correlation = covariance / (spread * rows).sqrt();
    2.0 * normal_cdf(-correlation.abs() * (n - 1.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn p_values_equal_other_forms_of_the_same_formulas() {
        // Kruskal and Wallis, with sums of ranks.
        let arms: Vec<usize> = (0..24).map(|i| usize::from(i % 3 == 0) + usize::from(i >= 18)).collect();
        let ranks = |arm: usize| arms.iter().enumerate().filter(move |(_, a)| **a == arm).map(|(i, _)| i as f64 + 1.0);
        let h: f64 = (0..3).map(|arm| ranks(arm).sum::<f64>().powi(2) / ranks(arm).count() as f64).sum();
        let h = 12.0 / (24.0 * 25.0) * h - 3.0 * 25.0;
        // The tail of χ² with two degrees of freedom is exp(−x/2).
        assert!((kruskal_wallis(&arms, &category_counts(&arms)) - (-h / 2.0).exp()).abs() < 1e-12);
        // For two categories, Wald and Wolfowitz: mean 1 + 2ab/n, variance 2ab(2ab − n)/(n²(n − 1)).
        let two: Vec<usize> = (0..30).map(|i| usize::from(i % 5 < 2)).collect();
        let (a, b, n) = (12.0, 18.0, 30.0);
        let (mean, variance) = (1.0 + 2.0 * a * b / n, 2.0 * a * b * (2.0 * a * b - n) / (n * n * (n - 1.0)));
        let observed = 12.0;
        assert!((runs(&two, &[18, 12]) - normal_cdf((observed - mean) / f64::sqrt(variance))).abs() < 1e-12);
        // Without ties: 1 − 6Σd²/(n(n² − 1)).
        let values: Vec<f64> = (0..20).map(|i| f64::from((i * 7) % 20)).collect();
        let squares: f64 = values.iter().enumerate().map(|(i, value)| (i as f64 - value).powi(2)).sum();
        let correlation: f64 = 1.0 - 6.0 * squares / (20.0 * 399.0);
        assert!((spearman(&values) - 2.0 * normal_cdf(-correlation.abs() * 19.0_f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn random_order_is_found_at_most_as_often_as_promised() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let (mut found, mut tests) = ([0_u32; 3], 0_u32);
        for round in 0..3000 {
            let n = [40, 200, 900][round % 3];
            let arms: Vec<usize> = (0..n).map(|_| rng.random_range(0..3)).collect();
            let converted: Vec<f64> = (0..n).map(|_| f64::from(u8::from(rng.random_bool(0.1)))).collect();
            let mut spent: Vec<f64> = (0..n).map(|i| if i % 4 == 0 { f64::from(i).sqrt() } else { 0.0 }).collect();
            spent.shuffle(&mut rng);
            let tested = [row_order_of_arms(&arms), row_order_of_outcomes(&converted), row_order_of_outcomes(&spent)];
            for (found, order) in found.iter_mut().zip(tested) {
                *found += u32::from(order.is_some_and(|order| order.p_value < 0.01));
            }
            tests += 1;
        }
        // 1% at most, with four standard deviations of 3,000 tests.
        let most = 0.01 * f64::from(tests) + 4.0 * (0.01 * f64::from(tests)).sqrt();
        assert!(found.iter().all(|found| f64::from(*found) <= most), "{found:?} of {tests}");
    }

    #[test]
    fn sorted_rows_are_found_and_rotation_is_not() {
        let p = |order: Option<RowOrder>| order.unwrap();
        let sorted: Vec<usize> = (0..400).map(|i| i / 200).collect();
        assert!(p(row_order_of_arms(&sorted)).p_value < 1e-12);
        let blocks: Vec<usize> = (0..400).map(|i| i / 10 % 2).collect();
        let found = p(row_order_of_arms(&blocks));
        assert!(found.test == OrderTest::Runs && found.p_value < 1e-12, "{found:?}");
        let rotation: Vec<usize> = (0..400).map(|i| i % 4).collect();
        assert_eq!(p(row_order_of_arms(&rotation)).p_value, 1.0);
        let late: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i >= 380))).collect();
        assert!(p(row_order_of_outcomes(&late)).p_value < 1e-12);
        let rising: Vec<f64> = (0..400).map(f64::from).collect();
        assert_eq!(p(row_order_of_outcomes(&rising)).test, OrderTest::Spearman);
    }

    #[test]
    fn too_few_rows_or_values_are_not_tested() {
        assert!(row_order_of_arms(&[0, 1, 0, 1]).is_none() && row_order_of_arms(&[1; 50]).is_none());
        assert!(row_order_of_outcomes(&[0.0; 50]).is_none() && row_order_of_outcomes(&[]).is_none());
    }
}
