//! The sockets by the address of their `struct sock`: an index of 32-bit positions in one dense
//! array, because there may be a million.

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};
use std::hash::BuildHasher;

use super::socket::Socket;

/// All sockets.
#[derive(Default)]
pub struct Table {
    /// Positions in `sockets`, by the key there.
    index: HashTable<u32>,
    sockets: Vec<Keyed>,
    /// Recordings can choose the keys, so their hashes must not be predictable.
    seed: RandomState,
}

struct Keyed {
    key: u64,
    socket: Socket,
}

impl Table {
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    pub fn get(&mut self, key: u64) -> Option<&mut Socket> {
        let sockets = &self.sockets;
        let place = *self.index.find(hash(&self.seed, key), |&place| {
            sockets[place as usize].key == key
        })?;
        Some(&mut self.sockets[place as usize].socket)
    }

    /// Adds a socket; it replaces one with the same key.
    pub fn insert(&mut self, key: u64, socket: Socket) -> &mut Socket {
        let (sockets, seed) = (&self.sockets, &self.seed);
        let entry = self.index.entry(
            hash(seed, key),
            |&place| sockets[place as usize].key == key,
            |&place| hash(seed, sockets[place as usize].key),
        );
        let place = match entry {
            Entry::Occupied(entry) => {
                let place = *entry.get() as usize;
                self.sockets[place] = Keyed { key, socket };
                place
            }
            Entry::Vacant(entry) => {
                let place = self.sockets.len();
                // The tracker's capacity is far below `u32::MAX`.
                entry.insert(u32::try_from(place).unwrap_or(u32::MAX));
                self.sockets.push(Keyed { key, socket });
                place
            }
        };
        &mut self.sockets[place].socket
    }

    pub fn remove(&mut self, key: u64) -> Option<Socket> {
        let sockets = &self.sockets;
        let entry = self
            .index
            .find_entry(hash(&self.seed, key), |&place| {
                sockets[place as usize].key == key
            })
            .ok()?;
        let (place, _) = entry.remove();
        let removed = self.sockets.swap_remove(place as usize);
        // The last socket moved to the free position.
        if let Some(moved) = self.sockets.get(place as usize) {
            let last = self.sockets.len();
            if let Some(entry) = self
                .index
                .find_mut(hash(&self.seed, moved.key), |&there| there as usize == last)
            {
                *entry = place;
            }
        }
        Some(removed.socket)
    }

    /// The keys of the sockets that satisfy the predicate.
    pub fn keys(&self, wanted: impl Fn(&Socket) -> bool) -> impl Iterator<Item = u64> {
        let sockets = self.sockets.iter();
        sockets
            .filter(move |keyed| wanted(&keyed.socket))
            .map(|keyed| keyed.key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().map(|keyed| &keyed.socket)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Socket> {
        self.sockets.iter_mut().map(|keyed| &mut keyed.socket)
    }

    /// Keeps the sockets that satisfy the predicate.
    pub fn retain(&mut self, keep: impl Fn(&Socket) -> bool) {
        self.sockets.retain(|keyed| keep(&keyed.socket));
        self.index.clear();
        for (place, keyed) in (0u32..).zip(&self.sockets) {
            let (sockets, seed) = (&self.sockets, &self.seed);
            self.index
                .insert_unique(hash(seed, keyed.key), place, |&place| {
                    hash(seed, sockets[place as usize].key)
                });
        }
    }
}

fn hash(seed: &RandomState, key: u64) -> u64 {
    seed.hash_one(key)
}
