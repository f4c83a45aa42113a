//! The registers of one rule: sixteen bytes four times over, and what of them is known.

/// As many four-byte words as the kernel has, and the verdict's.
const WORDS: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Registers {
    bytes: [[u8; 4]; WORDS],
    /// A bit for each word.
    unknown: u32,
}

/// A value, or that it is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    Known(Vec<u8>),
    Unknown,
}

impl Registers {
    /// Fills whole words, as the kernel does. `None` where there is no such register.
    pub(super) fn put(&mut self, into: usize, bytes: &[u8]) -> Option<()> {
        let words = bytes.len().div_ceil(4);
        let place = self.bytes.get_mut(into..into + words)?;
        place.as_flattened_mut().fill(0);
        place.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
        self.note(into, words, false);
        Some(())
    }

    pub(super) fn get(&self, from: usize, length: usize) -> Option<Held> {
        let words = length.div_ceil(4);
        let held = self.bytes.get(from..from + words)?.as_flattened()[..length].to_vec();
        Some(if self.unknown & mask(from, words) != 0 { Held::Unknown } else { Held::Known(held) })
    }

    /// A value of at most so many bytes is there now that nobody knows.
    pub(super) fn forget(&mut self, into: usize, length: usize) {
        self.note(into, length.div_ceil(4), true);
    }

    /// Something was done that may have changed any.
    pub(super) fn forget_all(&mut self) {
        self.unknown = u32::MAX;
    }

    fn note(&mut self, first: usize, words: usize, unknown: bool) {
        let mask = mask(first, words);
        self.unknown = if unknown { self.unknown | mask } else { self.unknown & !mask };
    }
}

fn mask(first: usize, words: usize) -> u32 {
    (first..first + words).filter(|word| *word < WORDS).fold(0, |mask, word| mask | 1 << word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_unknown_until_it_is_loaded_anew() {
        let mut registers = Registers::default();
        registers.put(1, &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(registers.get(1, 6), Some(Held::Known(vec![1, 2, 3, 4, 5, 0])));
        registers.forget(2, 1);
        assert_eq!(registers.get(1, 5), Some(Held::Unknown));
        assert_eq!(registers.get(1, 4), Some(Held::Known(vec![1, 2, 3, 4])));
        registers.put(2, &[9]).unwrap();
        assert_eq!(registers.get(1, 5), Some(Held::Known(vec![1, 2, 3, 4, 9])));
        registers.forget_all();
        registers.put(0, &[7, 7]).unwrap();
        assert_eq!(registers.get(0, 2), Some(Held::Known(vec![7, 7])));
        assert_eq!(registers.get(31, 4), Some(Held::Unknown));
        assert_eq!((registers.get(31, 5), registers.put(32, &[1])), (None, None));
    }
}
