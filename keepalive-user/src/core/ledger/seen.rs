//! Which sockets were seen: one bit per number, because numbers are assigned in order.

#[derive(Clone, Debug, Default)]
pub struct Seen {
    words: Vec<u64>,
}

impl Seen {
    /// Adds a socket; returns whether it was seen before.
    pub fn insert(&mut self, id: u64) -> bool {
        let (word, bit) = (
            usize::try_from(id / 64).unwrap_or(usize::MAX),
            1 << (id % 64),
        );
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let was_seen = self.words[word] & bit != 0;
        self.words[word] |= bit;
        was_seen
    }

    /// Sockets seen.
    pub fn count(&self) -> u64 {
        let words = self.words.iter();
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}
