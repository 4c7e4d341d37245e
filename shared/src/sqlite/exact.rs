//! A sum of doubles without any rounding.
//!
//! A fixed-point number wide enough for every finite double and for the sum of 2^63 of them, in two's complement
//! (Kulisch's long accumulator; Kulisch, "Computer Arithmetic and Validity", chapter 8). So the sum depends
//! neither on the order of the values nor on how they lie on shards, and is rounded at the end alone.

/// Bits below one: the smallest double is 2^-1074.
const FRACTION_BITS: usize = 1074;

/// Limbs of 64 bits: 1074 bits of fraction, 1024 of the largest double, 63 for as many values, and the sign.
const LIMBS: usize = 34;

/// Bits of a double's significand, the hidden one included.
const SIGNIFICAND_BITS: usize = 53;

/// An exact sum; all zero is 0.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exact([u64; LIMBS]);

impl Default for Exact {
    fn default() -> Self {
        Self([0; LIMBS])
    }
}

impl Exact {
    /// Adds a finite double.
    pub fn add(&mut self, value: f64) {
        let (significand, shift) = split(value);
        let wide = u128::from(significand) << (shift % 64);
        self.add_wide(shift / 64, wide, value.is_sign_negative());
    }

    /// Adds an integer.
    pub fn add_integer(&mut self, value: i128) {
        let magnitude = value.unsigned_abs();
        let (limb, shift) = (FRACTION_BITS / 64, FRACTION_BITS % 64);
        self.add_wide(limb, u128::from(magnitude as u64) << shift, value < 0);
        self.add_wide(limb + 1, u128::from((magnitude >> 64) as u64) << shift, value < 0);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            (*mine, carry) = add_carry(*mine, *theirs, carry);
        }
    }

    /// Adds or subtracts two limbs, the lower of which is at `at`.
    fn add_wide(&mut self, at: usize, wide: u128, negative: bool) {
        let (low, high) = (wide as u64, (wide >> 64) as u64);
        let step = if negative { sub_borrow } else { add_carry };
        let mut carry;
        (self.0[at], carry) = step(self.0[at], low, false);
        (self.0[at + 1], carry) = step(self.0[at + 1], high, carry);
        for limb in &mut self.0[at + 2..] {
            if !carry {
                return;
            }
            (*limb, carry) = step(*limb, 0, true);
        }
    }

    fn is_negative(&self) -> bool {
        self.0[LIMBS - 1] >> 63 == 1
    }

    /// The sum as a double; beyond the range an infinity. It is rounded to two doubles and these to one, as SQLite's
    /// compensated sum ends, so that both agree where the sum lies next to the middle of two doubles.
    pub fn to_f64(&self) -> f64 {
        let high = self.nearest();
        if high.is_infinite() {
            return high;
        }
        let mut rest = self.clone();
        rest.add(-high);
        high + rest.nearest()
    }

    /// The nearest double, of two the even one.
    fn nearest(&self) -> f64 {
        let negative = self.is_negative();
        let mut magnitude = self.clone();
        if negative {
            magnitude = Self::default();
            let mut borrow = false;
            for (limb, mine) in magnitude.0.iter_mut().zip(&self.0) {
                (*limb, borrow) = sub_borrow(0, *mine, borrow);
            }
        }
        let value = magnitude.magnitude();
        if negative { -value } else { value }
    }

    /// The nearest double of a number that is not negative.
    fn magnitude(&self) -> f64 {
        let Some(top) = self.0.iter().rposition(|limb| *limb != 0) else { return 0.0 };
        let bits = top * 64 + 64 - self.0[top].leading_zeros() as usize;
        if bits <= SIGNIFICAND_BITS {
            return f64::from_bits(self.0[0]);
        }
        // The lowest of the bits that a double keeps.
        let low = bits - SIGNIFICAND_BITS;
        let mut significand = self.bits_from(low);
        let half = self.bits_from(low - 1) & 1 == 1;
        if half && (significand & 1 == 1 || self.any_below(low - 1)) {
            significand += 1;
        }
        // The hidden bit is added to the exponent, and so is the carry of rounding up to the next power of two.
        let exponent = low as u64;
        if exponent >= 2046 {
            return f64::INFINITY;
        }
        f64::from_bits((exponent << 52) + significand)
    }

    /// The bits from `low` on, as many as a significand has.
    fn bits_from(&self, low: usize) -> u64 {
        let (limb, shift) = (low / 64, low % 64);
        let high = self.0.get(limb + 1).copied().unwrap_or(0);
        let wide = u128::from(high) << 64 | u128::from(self.0[limb]);
        (wide >> shift) as u64 & ((1 << SIGNIFICAND_BITS) - 1)
    }

    fn any_below(&self, low: usize) -> bool {
        let (limb, shift) = (low / 64, low % 64);
        self.0[..limb].iter().any(|limb| *limb != 0) || self.0[limb] & ((1 << shift) - 1) != 0
    }

    /// The limbs that are needed, and the place of the first: zeros below and repetitions of the sign above are
    /// left out.
    pub fn parts(&self) -> (u8, &[u64]) {
        let Some(first) = self.0.iter().position(|limb| *limb != 0) else { return (0, &[]) };
        let filler = if self.is_negative() { u64::MAX } else { 0 };
        let mut end = LIMBS;
        // The limb that stays on top must tell the sign.
        while end > first + 1 && self.0[end - 1] == filler && self.0[end - 2] >> 63 == filler & 1 {
            end -= 1;
        }
        (first as u8, &self.0[first..end])
    }

    /// The sum of those parts; none if they are of no sum.
    pub fn of_parts(first: u8, limbs: &[u64]) -> Option<Self> {
        let first = usize::from(first);
        let mut sum = Self::default();
        sum.0.get_mut(first..first + limbs.len())?.copy_from_slice(limbs);
        if limbs.last().is_some_and(|top| top >> 63 == 1) {
            sum.0[first + limbs.len()..].fill(u64::MAX);
        }
        Some(sum)
    }
}

/// A finite double as a whole number of 2^-1074: its significand, and by how many bits that is shifted to the left.
fn split(value: f64) -> (u64, usize) {
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7FF) as usize;
    let fraction = bits & ((1 << 52) - 1);
    // A subnormal has the exponent of the smallest normal and no hidden bit.
    match exponent {
        0 => (fraction, 0),
        _ => (fraction | 1 << 52, exponent - 1),
    }
}

fn add_carry(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(carry.into());
    (sum, first || second)
}

fn sub_borrow(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, first) = a.overflowing_sub(b);
    let (difference, second) = difference.overflowing_sub(borrow.into());
    (difference, first || second)
}
