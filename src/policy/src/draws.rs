//! Seeded standard normal draws, shared by all experiments that tick together. They depend only on the seed, the number
//! of dimensions and the number of draws, so a thousand experiments can use the same ones.
//!
//! The draws are Sobol points with Owen scrambling by hash (Burley, *Practical Hash-based Owen Scrambling*, JCGT 9(4),
//! 2020; the crate `sobol_burley`), mapped through Φ⁻¹. The crate's function `sample` gives `f32` under a 32-bit seed.
//! Its parts give all 32 bits of a coordinate, and both halves of our 64-bit seed enter the scrambling. The crate
//! supports 256 dimensions and 2¹⁶ points, more than the 64 dimensions and 2¹⁶ draws that a policy may use.

use sobol_burley::parts::{hash, owen_scramble_rev, sobol_rev};

use crate::error::PolicyError;
use crate::normal::normal_quantile;
use crate::tallies::MAX_ARMS;

/// The most draws that a policy may use, as a power of two.
pub const MAX_LOG2_DRAWS: u32 = 16;
/// The fewest draws, as a power of two. Fewer would be too noisy.
const MIN_LOG2_DRAWS: u32 = 6;

/// A matrix of standard normal numbers in single precision: one column per dimension, one row per draw.
#[derive(Debug, Clone)]
pub struct NormalDraws {
    seed: u64,
    log2_draws: u32,
    columns: Vec<f32>,
    means: Vec<f64>,
}

impl NormalDraws {
    /// Makes 2^`log2_draws` (6..=16) draws in `dimensions` (0..=64) dimensions. A column does not depend on the number
    /// of columns after it. Fails if either number is out of range.
    pub fn new(seed: u64, dimensions: usize, log2_draws: u32) -> Result<Self, PolicyError> {
        if !(MIN_LOG2_DRAWS..=MAX_LOG2_DRAWS).contains(&log2_draws) {
            return Err(PolicyError::Setting { name: "draws_log2" });
        }
        let mut draws = Self { seed, log2_draws, columns: Vec::new(), means: Vec::new() };
        draws.extend_to(dimensions)?;
        Ok(draws)
    }

    /// The number of draws.
    #[must_use]
    pub fn draws(&self) -> usize {
        1 << self.log2_draws
    }

    /// The number of dimensions.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.means.len()
    }

    /// One coordinate of every draw.
    #[must_use]
    pub fn column(&self, dimension: usize) -> &[f32] {
        let draws = self.draws();
        &self.columns[dimension * draws..(dimension + 1) * draws]
    }

    /// The mean of a column. It is close to 0, but estimates from the draws must be relative to the exact value.
    pub(crate) fn mean(&self, dimension: usize) -> f64 {
        self.means[dimension]
    }

    fn extend_to(&mut self, dimensions: usize) -> Result<(), PolicyError> {
        if dimensions >= MAX_ARMS {
            return Err(PolicyError::ArmCount { expected: MAX_ARMS, found: dimensions + 1 });
        }
        self.columns.reserve((dimensions.saturating_sub(self.dimensions())) * self.draws());
        for dimension in self.dimensions()..dimensions {
            self.push_column(dimension as u32);
            let column = self.column(dimension);
            self.means.push(column.iter().map(|z| f64::from(*z)).sum::<f64>() / column.len() as f64);
        }
        Ok(())
    }

    fn push_column(&mut self, dimension: u32) {
        let directions: [u32; MAX_LOG2_DRAWS as usize] =
            core::array::from_fn(|bit| sobol_rev((1_u32 << bit).reverse_bits(), dimension));
        // The halves are mixed one after the other: a symmetric mix would give a seed and its mirror image the same
        // draws.
        let (low, high) = (self.seed as u32, (self.seed >> 32) as u32);
        let scramble = hash(hash(hash(dimension.wrapping_mul(0x9c8f_2d3b)) ^ low).wrapping_add(high));
        let draws = 1_u32 << self.log2_draws;
        let mut sobol = 0;
        for index in 0..draws {
            // The Gray code order of Antonov & Saleev: each point differs from the previous one in one direction
            // number.
            if index > 0 {
                sobol ^= directions[index.trailing_zeros() as usize];
            }
            let coordinate = owen_scramble_rev(sobol, scramble).reverse_bits();
            // The middle of the cell, because Φ⁻¹ is infinite at 0 and 1.
            self.columns.push(normal_quantile((f64::from(coordinate) + 0.5) / 4_294_967_296.0) as f32);
        }
    }
}

/// The draws of the current tick. They are made on first use, widened for an experiment with more arms, and replaced
/// when the seed or the number of draws changes. Experiments that tick together should have the same seed.
#[derive(Debug, Default)]
pub struct DrawsCache {
    draws: Option<NormalDraws>,
}

impl DrawsCache {
    /// Draws of at least this many dimensions. A wider set begins with the same columns, so earlier calls do not change
    /// the result. Fails if a number is out of range, see [`NormalDraws::new`].
    pub fn get(&mut self, seed: u64, dimensions: usize, log2_draws: u32) -> Result<&NormalDraws, PolicyError> {
        let cached = self.draws.take().filter(|draws| draws.seed == seed && draws.log2_draws == log2_draws);
        let mut draws = match cached {
            Some(draws) => draws,
            None => NormalDraws::new(seed, dimensions, log2_draws)?,
        };
        draws.extend_to(dimensions)?;
        Ok(self.draws.insert(draws))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_stratified_and_standard_normal() {
        let draws = NormalDraws::new(7, 64, 12).unwrap();
        for dimension in 0..64 {
            let column = draws.column(dimension);
            let mut sorted: Vec<f64> = column.iter().map(|z| crate::normal_cdf(f64::from(*z))).collect();
            sorted.sort_by(f64::total_cmp);
            for (stratum, u) in sorted.iter().enumerate() {
                // Exactly one draw in each stratum, apart from rounding to single precision.
                let place = u * sorted.len() as f64 - stratum as f64;
                assert!((-1e-3..1.0 + 1e-3).contains(&place), "dimension {dimension}, stratum {stratum}: {place}");
            }
            let variance = column.iter().map(|z| f64::from(z * z)).sum::<f64>() / column.len() as f64;
            assert!(draws.mean(dimension).abs() < 2e-3 && (variance - 1.0).abs() < 0.01, "{dimension}");
        }
    }

    #[test]
    fn columns_are_uncorrelated() {
        let draws = NormalDraws::new(11, 64, 14).unwrap();
        for i in 0..64 {
            for j in 0..i {
                let product: f64 = draws.column(i).iter().zip(draws.column(j)).map(|(a, b)| f64::from(a * b)).sum();
                // Four and a half standard errors of 2¹⁴ independent products, over 2,016 pairs.
                assert!((product / draws.draws() as f64).abs() < 4.5 / 128.0, "{i} {j}");
            }
        }
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let narrow = NormalDraws::new(u64::MAX, 2, 8).unwrap();
        let wide = NormalDraws::new(u64::MAX, 5, 8).unwrap();
        assert_eq!(narrow.column(1), wide.column(1));
        for other in [u64::MAX - 1, u64::MAX >> 1, 0, 1, 1 << 32] {
            assert!(NormalDraws::new(other, 2, 8).unwrap().column(0) != narrow.column(0), "{other:x}");
        }
        let mut cache = DrawsCache::default();
        assert_eq!(cache.get(3, 1, 8).unwrap().dimensions(), 1);
        assert_eq!(cache.get(3, 4, 8).unwrap().dimensions(), 4);
        assert_eq!(cache.get(u64::MAX, 1, 8).unwrap().column(0), narrow.column(0));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(NormalDraws::new(1, 2, 17).is_err());
        assert!(NormalDraws::new(1, 65, 8).is_err());
    }
}
