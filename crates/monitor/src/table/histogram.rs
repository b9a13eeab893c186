//! How often which time was measured.

use std::time::Duration;

/// The upper ends of its buckets in microseconds: from a loopback's round trip to a day's connection. A handshake whose first
/// packet was lost once, twice or three times takes 1, 3 or 7 s more.
const BOUNDS: [u64; 21] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    3_500_000,
    5_000_000,
    7_500_000,
    30_000_000,
    300_000_000,
    3_600_000_000,
];

/// Counts by bucket, with the sum of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUNDS.len()],
    beyond: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn observe(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        match bucket.and_then(|at| self.buckets.get_mut(at)) {
            Some(count) => *count += 1,
            None => self.beyond += 1,
        }
        self.sum = self.sum.saturating_add(time);
    }

    /// How many were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.beyond
    }

    /// All of them together, in seconds.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Each bucket's upper end in seconds with its count, the endless one last.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the bounds are small")]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let ends = BOUNDS.iter().map(|bound| *bound as f64 / 1e6);
        ends.zip(self.buckets).chain(std::iter::once((f64::INFINITY, self.beyond))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for micros in [50, 51, 7_200_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = histogram.buckets().iter().map(|(_, count)| *count).collect();
        assert_eq!((counts[0], counts[1], counts[21]), (1, 1, 1));
        assert_eq!(histogram.count(), 3);
        let lost = |seconds: u64| {
            let mut histogram = Histogram::default();
            histogram.observe(Duration::from_millis(seconds * 1_000 + 40));
            histogram.buckets().iter().position(|(_, count)| *count == 1)
        };
        assert!([0, 1, 3, 7].map(lost).is_sorted_by(|a, b| a < b), "a packet more that was lost is another bucket");
        assert!((histogram.sum() - 7_200.000_101).abs() < 1e-9);
    }
}
