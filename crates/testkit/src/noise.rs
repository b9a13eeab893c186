//! Reproducible noise: test bodies that no compressor, counter or shortcut can guess.

/// A small, fast generator (splitmix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// A generator whose whole output follows from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, or 0 when `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.draw() % end }
    }

    /// Overwrites `out` with noise.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let word = self.draw().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// `length` bytes of noise that follow from `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    Noise::new(seed).fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn the_same_seed_gives_the_same_noise() {
        assert_eq!(bytes(7, 1001), bytes(7, 1001));
        assert_ne!(bytes(7, 1001), bytes(8, 1001));
    }
}
