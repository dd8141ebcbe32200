//! A distribution over many orders of magnitude, in half octaves.

/// Number of bins, for values up to 2⁶⁴.
const BINS: usize = 128;

#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u64; BINS],
    pub total: u64,
    pub most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; BINS],
            total: 0,
            most: 0,
        }
    }
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.counts[bin(value)] += 1;
        self.total += 1;
        self.most = self.most.max(value);
    }

    /// The bins from the first to the last that is not empty: start, end and count.
    pub fn bins(&self) -> Vec<(f64, f64, u64)> {
        let used = |count: &u64| *count > 0;
        let first = self.counts.iter().position(used).unwrap_or(0);
        let last = self.counts.iter().rposition(used).unwrap_or(0);
        (first..=last)
            .map(|bin| (edge(bin), edge(bin + 1), self.counts[bin]))
            .collect()
    }

    /// The value below which this share of the values is, to the width of a bin.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bin, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return (edge(bin + 1).ceil() as u64).min(self.most);
            }
        }
        self.most
    }
}

/// `floor(2 log2 value)`; 0 is in the bin of 1.
fn bin(value: u64) -> usize {
    let value = value.max(1);
    let octave = value.ilog2() as usize;
    let upper = value as f64 >= edge(2 * octave + 1);
    2 * octave + usize::from(upper)
}

/// The start of a bin.
fn edge(bin: usize) -> f64 {
    2f64.powf(bin as f64 / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_bin() {
        for value in [0, 1, 2, 3, 5, 6, 1000, 1 << 40, u64::MAX] {
            let bin = bin(value);
            assert!(edge(bin) <= value.max(1) as f64, "{value}");
            assert!(value as f64 <= edge(bin + 1), "{value}");
        }
    }

    #[test]
    fn quantiles_are_near_and_at_most_the_maximum() {
        let mut histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.add(value);
        }
        let median = histogram.quantile(0.5);
        assert!((500..=750).contains(&median), "{median}");
        assert_eq!(histogram.quantile(1.0), 1000);
        let counted: u64 = histogram.bins().iter().map(|bin| bin.2).sum();
        assert_eq!(counted, 1000);
    }
}
