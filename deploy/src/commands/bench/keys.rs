//! Which key comes next: the same in every run with the same numbers, and without state that clients share.

/// Spreads numbers without a pattern (SplitMix64's finalizer, Steele et al., OOPSLA 2014).
pub fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The random number of one operation of one client; `salt` tells several of them apart.
pub fn draw(client: u32, sequence: u64, salt: u64) -> u64 {
    mix(mix(u64::from(client) << 40 | sequence).wrapping_add(salt))
}

/// How often which key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// All equally often
    Uniform,
    /// A few very often, and these lie anywhere
    Zipfian,
    /// The newest ones most often
    Latest,
}

impl Distribution {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipfian => "zipfian",
            Self::Latest => "latest",
        }
    }
}

/// How unequal: YCSB's constant, with which a tenth of the keys gets most of the requests.
const THETA: f64 = 0.99;

/// Ranks from 0, the first one the most frequent, each half as likely as the one of half its number
/// (Gray et al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994).
#[derive(Clone, Debug)]
pub struct Zipf {
    count: u64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// For ranks below `count`, which is at least 1. Takes time in proportion to `count`.
    pub fn new(count: u64) -> Self {
        let term = |n: u64| 1.0 / (n as f64).powf(THETA);
        let zeta: f64 = (1..=count).map(term).sum();
        let first_two: f64 = (1..=2).map(term).sum();
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - first_two / zeta);
        Self { count, zeta, eta }
    }

    /// The rank that a random number stands for.
    pub fn rank(&self, random: u64) -> u64 {
        let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
        let place = unit * self.zeta;
        if place < 1.0 || self.count < 2 {
            return 0;
        }
        if place < 1.0 + 0.5f64.powf(THETA) || self.count < 3 {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as u64).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal numbers give equal draws, others spread over all remainders.
    #[test]
    fn draws() {
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let seen: std::collections::HashSet<u64> =
            (0..4).flat_map(|client| (0..250).map(move |n| draw(client, n, 0) % 64)).collect();
        assert_eq!(seen.len(), 64);
        assert_ne!(draw(1, 2, 3), draw(1, 2, 4));
    }

    /// The first ranks come as often as the formula says, none is out of bounds, and tiny sets work.
    #[test]
    fn zipf() {
        let zipf = Zipf::new(1000);
        let draws = 100_000;
        let ranks: Vec<u64> = (0..draws).map(|n| zipf.rank(mix(n))).collect();
        assert!(ranks.iter().all(|rank| *rank < 1000));
        let often = |rank| ranks.iter().filter(|found| **found == rank).count() as f64 / draws as f64;
        for rank in [0, 1] {
            let wanted = 1.0 / ((rank + 1) as f64).powf(THETA) / zipf.zeta;
            assert!((often(rank) / wanted - 1.0).abs() < 0.1, "{rank}: {} of {wanted}", often(rank));
        }
        let tenth = ranks.iter().filter(|rank| **rank < 100).count();
        assert!((60_000..75_000).contains(&tenth), "{tenth}");
        for count in 1..4 {
            let zipf = Zipf::new(count);
            assert!((0..1000).all(|n| zipf.rank(mix(n)) < count));
        }
    }
}
