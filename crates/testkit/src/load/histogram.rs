//! A histogram of durations with constant relative precision, as HdrHistogram's.
#![expect(
    clippy::cast_possible_truncation,
    reason = "indices stay below 8 Ki and nanoseconds below 2^64 by construction"
)]

use std::time::Duration;

/// Values of one bucket differ by less than one in 2^7, so every figure is right to 0.8 %.
const PRECISION: u32 = 7;
const SUB: usize = 1 << PRECISION;
/// Buckets that cover all of u64.
const BUCKETS: usize = (64 - PRECISION as usize - 1) * SUB + 2 * SUB;

/// Counts of durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value: Duration) {
        let nanos = value.as_nanos() as u64;
        self.counts[index(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The longest one.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// Their mean.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos((self.sum / u128::from(self.total.max(1))) as u64)
    }

    /// The duration that `fraction` (0 to 1) of all stay at or below; zero when nothing was counted.
    pub fn quantile(&self, fraction: f64) -> Duration {
        let rank = ((self.total as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(highest(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION + 1);
    shift as usize * SUB + (value >> shift) as usize
}

/// The highest value that `index` counts.
fn highest(index: usize) -> u64 {
    let shift = (index / SUB).saturating_sub(1);
    let base = (index - shift * SUB) as u64 + 1;
    // The last bucket ends at the largest value there is.
    base.checked_shl(shift as u32).map_or(u64::MAX, |end| end.wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, Histogram, highest, index};

    #[test]
    fn every_value_lies_in_its_bucket() {
        for shift in 0..64 {
            for offset in [0, 1, 3] {
                let value = (1u64 << shift).wrapping_add(offset);
                let at = index(value);
                assert!(at < BUCKETS);
                assert!(highest(at) >= value, "{value}");
                assert!(at == 0 || highest(at - 1) < value, "{value}");
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_to_one_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (fraction, micros) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0), (1.0, 10_000.0)] {
            let got = histogram.quantile(fraction).as_secs_f64() * 1e6;
            assert!((got / micros - 1.0).abs() < 0.01, "{fraction}: {got}");
        }
        assert_eq!(histogram.count(), 10_000);
        assert_eq!(histogram.mean(), Duration::from_nanos(5_000_500));
    }

    #[test]
    fn merging_adds_everything_up() {
        let mut one = Histogram::default();
        let mut two = Histogram::default();
        one.record(Duration::from_millis(1));
        two.record(Duration::from_millis(9));
        one.merge(&two);
        assert_eq!((one.count(), one.max()), (2, Duration::from_millis(9)));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
