//! A map of bounded size: when it is full, the least recently used entry is removed.

use std::hash::Hash;

use foldhash::fast::RandomState;
use lru::LruCache;

pub struct LruMap<K: Hash + Eq, V> {
    /// Recordings can choose the keys, so their hashes must not be predictable.
    entries: LruCache<K, V, RandomState>,
    capacity: usize,
}

impl<K: Hash + Eq, V> LruMap<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self {
            // Bounded in `insert`: a bounded `LruCache` allocates its whole capacity at once.
            entries: LruCache::unbounded_with_hasher(RandomState::default()),
            capacity: capacity.max(1),
        }
    }

    /// Returns the entry without marking it as used.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.entries.peek(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.entries.put(key, value);
        while self.entries.len() > self.capacity {
            self.entries.pop_lru();
        }
    }

    pub fn get_or_insert(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        // Makes room for the new entry.
        while self.entries.len() >= self.capacity && !self.entries.contains(&key) {
            self.entries.pop_lru();
        }
        self.entries.get_or_insert_mut(key, value)
    }

    pub fn remove(&mut self, key: &K) {
        self.entries.pop(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut map = LruMap::new(3);
        for key in 1..=3 {
            map.insert(key, key * 10);
        }
        assert_eq!(map.peek(&1), Some(&10));
        assert_eq!(map.get_mut(&2), Some(&mut 20));
        map.insert(4, 40);
        let left = |map: &LruMap<i32, i32>| [1, 2, 3, 4, 5].map(|key| map.peek(&key).is_some());
        assert_eq!(left(&map), [false, true, true, true, false]);
        map.insert(5, 50);
        assert_eq!(left(&map), [false, true, false, true, true]);
        map.insert(4, 41);
        map.remove(&2);
        assert_eq!(left(&map), [false, false, false, true, true]);
        assert_eq!(map.peek(&4), Some(&41));
        assert_eq!(*map.get_or_insert(4, || 42), 41);
        for key in 1..=3 {
            assert_eq!(*map.get_or_insert(key, || key), key);
        }
        assert_eq!(left(&map), [true, true, true, false, false]);
    }
}
