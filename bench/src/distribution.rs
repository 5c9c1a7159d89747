//! What many gaps look like together: quantiles, and a histogram that fits a terminal.

use std::fmt::Write as _;

/// The bounds of the histogram's rows within one power of ten: each is about half as much again.
const STEPS: [f64; 6] = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0];
/// Samples that differ by no more than this factor get rows of one width.
const ONE_MAGNITUDE: f64 = 8.0;
/// About how many rows of one width there are.
const ROWS: f64 = 14.0;
/// Nothing is measured to less than this.
const LEAST: f64 = 0.1;
/// The widest bar.
const BAR: usize = 44;

/// Milliseconds, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Distribution {
    sorted: Vec<f64>,
}

/// One row of the histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) from: f64,
    pub(crate) below: f64,
    pub(crate) count: usize,
}

impl Distribution {
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest sample that at least this share of all does not exceed; 0 without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (self.sorted.len() as f64 * share).ceil() as usize;
        self.sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(0.0)
    }

    pub(crate) fn max(&self) -> f64 {
        self.sorted.last().copied().unwrap_or(0.0)
    }

    /// How many are at most this large.
    pub(crate) fn within(&self, limit: f64) -> usize {
        self.sorted.partition_point(|sample| *sample <= limit)
    }

    /// From the first row that holds something to the last. Rows are equally wide where the
    /// samples are of one magnitude, and grow with the bound where they are not.
    pub(crate) fn buckets(&self) -> Vec<Bucket> {
        let (Some(least), Some(most)) = (self.sorted.first(), self.sorted.last()) else {
            return Vec::new();
        };
        let scale = Scale::of(*least, *most);
        let mut buckets = vec![scale.first(*least)];
        for sample in &self.sorted {
            while let Some(last) = buckets.last_mut() {
                if *sample < last.below {
                    last.count += 1;
                    break;
                }
                let from = last.below;
                buckets.push(Bucket {
                    from,
                    below: scale.next(from),
                    count: 0,
                });
            }
        }
        buckets
    }

    /// A line of quantiles, and a line for every row of the histogram.
    pub(crate) fn render(&self) -> String {
        let mut text = format!(
            "  p50 {:.1} ms   p90 {:.1} ms   p99 {:.1} ms   max {:.1} ms",
            self.quantile(0.5),
            self.quantile(0.9),
            self.quantile(0.99),
            self.max()
        );
        let buckets = self.buckets();
        let highest = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1);
        for Bucket { from, below, count } in buckets {
            // A single sample among thousands must still be seen.
            let bar = (count * BAR).div_ceil(highest.max(1));
            let bar = "█".repeat(bar);
            write!(text, "\n  {from:>7} to {below:>7} ms {count:>6} {bar}")
                .expect("writing to a string cannot fail");
        }
        text
    }
}

/// Where one row ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    /// Every so many milliseconds.
    Even(f64),
    /// At [`STEPS`] of every power of ten.
    Growing,
}

impl Scale {
    fn of(least: f64, most: f64) -> Self {
        if most > least * ONE_MAGNITUDE {
            return Self::Growing;
        }
        let mut step = LEAST;
        while (most - least) / step > ROWS {
            // 1, 2, 5 and 10 of every power of ten.
            let unit = 10_f64.powf((step * 1.000_001).log10().floor());
            step = rounded(if step > unit * 4.0 {
                unit * 10.0
            } else if step > unit * 1.5 {
                unit * 5.0
            } else {
                unit * 2.0
            });
        }
        Self::Even(step)
    }

    fn first(self, least: f64) -> Bucket {
        let from = match self {
            Self::Even(step) => rounded((least / step).floor() * step),
            Self::Growing => {
                let mut from = 0.0;
                while self.next(from) <= least {
                    from = self.next(from);
                }
                from
            }
        };
        Bucket {
            from,
            below: self.next(from),
            count: 0,
        }
    }

    fn next(self, bound: f64) -> f64 {
        match self {
            Self::Even(step) => rounded(bound + step),
            Self::Growing if bound <= 0.0 => LEAST,
            Self::Growing => {
                // Counted from the power of ten each time: errors of rounding do not add up.
                let above = bound * 1.000_001;
                let unit = 10_f64.powf(above.log10().floor());
                let step = STEPS.into_iter().find(|step| step * unit > above);
                rounded(step.unwrap_or(10.0) * unit)
            }
        }
    }
}

fn rounded(bound: f64) -> f64 {
    (bound * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tenths of a millisecond, which compare exactly.
    fn tenths(milliseconds: f64) -> i64 {
        (milliseconds * 10.0).round() as i64
    }

    fn bounds(samples: &[f64]) -> Vec<i64> {
        let buckets = Distribution::of(samples).buckets();
        buckets.iter().map(|bucket| tenths(bucket.from)).collect()
    }

    #[test]
    fn a_quantile_is_a_sample_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let distribution = Distribution::of(&hundred);
        let quantiles = [0.5, 0.9, 0.99, 1.0].map(|share| tenths(distribution.quantile(share)));
        assert_eq!(quantiles, [500, 900, 990, 1_000]);
        assert_eq!(tenths(distribution.max()), 1_000);
        assert_eq!(tenths(Distribution::of(&[7.5]).quantile(0.99)), 75);
        assert_eq!(tenths(Distribution::default().quantile(0.5)), 0);
    }

    #[test]
    fn what_is_exactly_at_the_limit_is_within() {
        let distribution = Distribution::of(&[1.0, 2.0, 2.0, 3.0]);
        assert_eq!(distribution.within(2.0), 3);
        assert_eq!(distribution.within(0.5), 0);
    }

    #[test]
    fn every_sample_is_in_one_row_and_rows_are_contiguous() {
        let wide = [0.02, 0.1, 0.99, 1.0, 4.9, 5.0, 6.99, 7.0, 999.0, 3_000.0];
        let narrow = [2_000.0, 2_100.0, 2_099.9, 2_450.0, 3_050.0];
        for samples in [&wide[..], &narrow, &[5.0], &[0.0]] {
            let buckets = Distribution::of(samples).buckets();
            for pair in buckets.windows(2) {
                assert_eq!(tenths(pair[0].below), tenths(pair[1].from));
            }
            for bucket in &buckets {
                let inside = samples
                    .iter()
                    .filter(|sample| (bucket.from..bucket.below).contains(*sample));
                assert_eq!(inside.count(), bucket.count, "{bucket:?}");
            }
            let counted: usize = buckets.iter().map(|bucket| bucket.count).sum();
            assert_eq!(counted, samples.len(), "{buckets:?}");
        }
        assert_eq!(Distribution::default().buckets(), []);
    }

    #[test]
    fn rows_have_round_bounds() {
        assert_eq!(
            bounds(&[1.2, 21.0]),
            [10, 15, 20, 30, 50, 70, 100, 150, 200]
        );
        assert_eq!(
            bounds(&[2_010.0, 2_990.0]),
            [
                20_000, 21_000, 22_000, 23_000, 24_000, 25_000, 26_000, 27_000, 28_000, 29_000
            ]
        );
        assert_eq!(bounds(&[30.2, 33.1]), [300, 305, 310, 315, 320, 325, 330]);
    }

    #[test]
    fn the_histogram_fits_a_terminal_and_shows_single_samples() {
        let mut samples = vec![12.0; 5_000];
        samples.push(60_000.0);
        let text = Distribution::of(&samples).render();
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        assert!(text.lines().last().unwrap().ends_with("     1 █"), "{text}");
    }
}
