//! Seeded standard normal points, shared by every experiment that ticks together. They depend on the seed, the number
//! of dimensions and the number of draws, never on an experiment: so a thousand reallocations pay for them once.
//!
//! The points are Sobol's with Owen scrambling by hash (Burley, *Practical Hash-based Owen Scrambling*, JCGT 9(4),
//! 2020; the crate `sobol_burley`), taken through Φ⁻¹. The crate's own `sample` gives `f32` under a 32-bit seed; its
//! parts give all 32 bits of a coordinate, and both halves of our 64-bit seed enter the scramble. It holds 256
//! dimensions and 2¹⁶ points: more than the 64 dimensions and the draws that a policy may ask for.

use sobol_burley::parts::{hash, owen_scramble_rev, sobol_rev};

use crate::{PolicyError, normal_quantile};

/// The most draws a policy may ask for, as a power of two.
pub const MAX_LOG2_DRAWS: u32 = 16;
/// The fewest: below, the draws would be noise.
const MIN_LOG2_DRAWS: u32 = 6;

/// A matrix of standard normals in single precision, one column per dimension, one row per draw.
#[derive(Debug, Clone)]
pub struct NormalPoints {
    seed: u64,
    log2_draws: u32,
    columns: Vec<f32>,
    means: Vec<f64>,
}

impl NormalPoints {
    /// 2^`log2_draws` points (6..=16) in `dimensions` (0..=64) dimensions. Dimension i does not depend on how many follow.
    pub fn new(seed: u64, dimensions: usize, log2_draws: u32) -> Result<Self, PolicyError> {
        if !(MIN_LOG2_DRAWS..=MAX_LOG2_DRAWS).contains(&log2_draws) {
            return Err(PolicyError::Setting { name: "draws_log2" });
        }
        let mut points = Self { seed, log2_draws, columns: Vec::new(), means: Vec::new() };
        points.extend_to(dimensions)?;
        Ok(points)
    }

    /// How many draws.
    #[must_use]
    pub fn draws(&self) -> usize {
        1 << self.log2_draws
    }

    /// How many dimensions.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.means.len()
    }

    /// One dimension's coordinate of every draw.
    #[must_use]
    pub fn column(&self, dimension: usize) -> &[f32] {
        let draws = self.draws();
        &self.columns[dimension * draws..(dimension + 1) * draws]
    }

    /// The mean of a column: close to 0, but the draws' own mean is what their estimates are relative to.
    pub(crate) fn mean(&self, dimension: usize) -> f64 {
        self.means[dimension]
    }

    fn extend_to(&mut self, dimensions: usize) -> Result<(), PolicyError> {
        if dimensions >= crate::MAX_ARMS {
            return Err(PolicyError::ArmCount { expected: crate::MAX_ARMS, found: dimensions + 1 });
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
        // One half after the other, not one against the other: a symmetric mix gives seeds and their mirror images the
        // same points.
        let (low, high) = (self.seed as u32, (self.seed >> 32) as u32);
        let scramble = hash(hash(hash(dimension.wrapping_mul(0x9c8f_2d3b)) ^ low).wrapping_add(high));
        let draws = 1_u32 << self.log2_draws;
        let mut sobol = 0;
        for index in 0..draws {
            // The Gray code order of Antonov & Saleev: each point differs from the one before in one direction.
            if index > 0 {
                sobol ^= directions[index.trailing_zeros() as usize];
            }
            let coordinate = owen_scramble_rev(sobol, scramble).reverse_bits();
            // The middle of the cell, so that neither 0 nor 1 occurs.
            self.columns.push(normal_quantile((f64::from(coordinate) + 0.5) / 4_294_967_296.0) as f32);
        }
    }
}

/// The points of the tick at hand: made on first use, widened when an experiment has more arms, replaced when the seed
/// or the number of draws changes. Give experiments that tick together the same seed.
#[derive(Debug, Default)]
pub struct PointsCache {
    points: Option<NormalPoints>,
}

impl PointsCache {
    /// Points of at least this many dimensions. A wider set begins with the same columns, so who asked before changes
    /// nothing.
    pub fn get(&mut self, seed: u64, dimensions: usize, log2_draws: u32) -> Result<&NormalPoints, PolicyError> {
        let kept = self.points.take().filter(|points| points.seed == seed && points.log2_draws == log2_draws);
        let mut points = match kept {
            Some(points) => points,
            None => NormalPoints::new(seed, dimensions, log2_draws)?,
        };
        points.extend_to(dimensions)?;
        Ok(self.points.insert(points))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_stratified_and_standard() {
        let points = NormalPoints::new(7, 64, 12).unwrap();
        for dimension in 0..64 {
            let column = points.column(dimension);
            let mut sorted: Vec<f64> = column.iter().map(|z| crate::normal_cdf(f64::from(*z))).collect();
            sorted.sort_by(f64::total_cmp);
            for (stratum, u) in sorted.iter().enumerate() {
                // Exactly one point in each stratum, but for what rounding to single precision moves.
                let place = u * sorted.len() as f64 - stratum as f64;
                assert!((-1e-3..1.0 + 1e-3).contains(&place), "dimension {dimension}, stratum {stratum}: {place}");
            }
            let variance = column.iter().map(|z| f64::from(z * z)).sum::<f64>() / column.len() as f64;
            assert!(points.mean(dimension).abs() < 2e-3 && (variance - 1.0).abs() < 0.01, "{dimension}");
        }
    }

    #[test]
    fn columns_are_uncorrelated() {
        let points = NormalPoints::new(11, 64, 14).unwrap();
        for i in 0..64 {
            for j in 0..i {
                let product: f64 = points.column(i).iter().zip(points.column(j)).map(|(a, b)| f64::from(a * b)).sum();
                // Four standard errors of 2¹⁴ independent products, over 2,016 pairs.
                assert!((product / points.draws() as f64).abs() < 4.5 / 128.0, "{i} {j}");
            }
        }
    }

    #[test]
    fn the_seed_and_nothing_else_decides_the_points() {
        let narrow = NormalPoints::new(u64::MAX, 2, 8).unwrap();
        let wide = NormalPoints::new(u64::MAX, 5, 8).unwrap();
        assert_eq!(narrow.column(1), wide.column(1));
        for other in [u64::MAX - 1, u64::MAX >> 1, 0, 1, 1 << 32] {
            assert!(NormalPoints::new(other, 2, 8).unwrap().column(0) != narrow.column(0), "{other:x}");
        }
        let mut cache = PointsCache::default();
        assert_eq!(cache.get(3, 1, 8).unwrap().dimensions(), 1);
        assert_eq!(cache.get(3, 4, 8).unwrap().dimensions(), 4);
        assert_eq!(cache.get(u64::MAX, 1, 8).unwrap().column(0), narrow.column(0));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(NormalPoints::new(1, 2, 17).is_err());
        assert!(NormalPoints::new(1, 65, 8).is_err());
    }
}
