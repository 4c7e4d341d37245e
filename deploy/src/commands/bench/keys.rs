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
}
