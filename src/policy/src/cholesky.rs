//! Cholesky factorisation of the small dense matrices of this crate (at most 64 rows). It works in place, so that
//! thousands of experiments can be estimated without heap allocation. Matrices are row-major; only the lower triangle
//! is read.

/// Factors `a` (n×n, positive definite) into its lower Cholesky factor, in place. False if it is not positive definite.
pub(crate) fn factor(a: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        for j in 0..=i {
            let mut sum = a[i * n + j];
            for k in 0..j {
                sum -= a[i * n + k] * a[j * n + k];
            }
            if i == j {
                // Also catches NaN, which compares false to everything.
                if !(sum > 0.0 && sum.is_finite()) {
                    return false;
                }
                a[i * n + i] = sum.sqrt();
            } else {
                a[i * n + j] = sum / a[j * n + j];
            }
        }
    }
    true
}

/// Solves L·Lᵀ·x = `x` in place, given the lower factor.
pub(crate) fn solve(l: &[f64], n: usize, x: &mut [f64]) {
    for i in 0..n {
        let mut sum = x[i];
        for k in 0..i {
            sum -= l[i * n + k] * x[k];
        }
        x[i] = sum / l[i * n + i];
    }
    for i in (0..n).rev() {
        let mut sum = x[i];
        for k in i + 1..n {
            sum -= l[k * n + i] * x[k];
        }
        x[i] = sum / l[i * n + i];
    }
}

/// Inverts the lower factor `l` in place; only the lower triangle is written.
pub(crate) fn invert_factor(l: &mut [f64], n: usize) {
    for j in 0..n {
        l[j * n + j] = 1.0 / l[j * n + j];
        for i in j + 1..n {
            let mut sum = 0.0;
            for k in j..i {
                sum -= l[i * n + k] * l[k * n + j];
            }
            l[i * n + j] = sum / l[i * n + i];
        }
    }
}

/// C·M·C for symmetric C and M of the same size. The lower triangle is copied to the upper one, so that the result is
/// symmetric to the last bit in spite of rounding.
pub(crate) fn sandwich(c: &[Vec<f64>], m: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let size = c.len();
    let product = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let row = |i: usize| (0..size).map(|j| (0..size).map(|k| a[i][k] * b[k][j]).sum()).collect();
        (0..size).map(row).collect()
    };
    let whole = product(&product(c, m), c);
    (0..size).map(|i| (0..size).map(|j| whole[i.max(j)][i.min(j)]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_matrix_is_factored_solved_and_inverted() {
        // A = [[4,2,1],[2,5,3],[1,3,6]], x = (1,-2,3) gives A·x = (3,1,13).
        let a = [4.0, 2.0, 1.0, 2.0, 5.0, 3.0, 1.0, 3.0, 6.0];
        let mut l = a;
        assert!(factor(&mut l, 3));
        let mut x = [3.0, 1.0, 13.0];
        solve(&l, 3, &mut x);
        for (found, wanted) in x.iter().zip([1.0, -2.0, 3.0]) {
            assert!((found - wanted).abs() < 1e-12);
        }
        invert_factor(&mut l, 3);
        for i in 0..3 {
            for j in 0..3 {
                // (L⁻ᵀ·L⁻¹·A)ᵢⱼ must be the identity.
                let inverse = |r: usize, c: usize| (r.max(c)..3).map(|k| l[k * 3 + r] * l[k * 3 + c]).sum::<f64>();
                let product: f64 = (0..3).map(|k| inverse(i, k) * a[k * 3 + j]).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12, "{i} {j} {product}");
            }
        }
    }

    #[test]
    fn matrix_that_is_not_positive_definite_is_refused() {
        assert!(!factor(&mut [1.0, 2.0, 2.0, 1.0], 2));
        assert!(!factor(&mut [f64::NAN], 1));
    }
}
