//! The resolved cgroups: their paths, by id.

use super::{
    budget::{Budget, Nanoseconds, Tokens},
    cgroups::{self, Answer, Handles, Walked},
};
use crate::{
    core::owners::{CGROUPS, LruMap, Place},
    machine::clock,
};

const SECOND: Nanoseconds = 1_000_000_000;
/// The most lookups of cgroups by handle per second between records: some microseconds each.
const ASKED: u64 = 64;
/// A cgroup that was not found is resolved again after this time.
const PAUSE: Nanoseconds = 10 * SECOND;
/// The share of one CPU (1/n) for walks in a command that waits for them.
const WALKS: u64 = 20;

/// How unresolved cgroups are found.
pub enum Mode {
    /// By handle, as often as the tokens allow; else by the resolver.
    Live {
        handles: Option<Handles>,
        tokens: Tokens,
    },
    /// At once, whatever it costs.
    AtOnce {
        handles: Option<Handles>,
        walks: Budget,
    },
}

impl Mode {
    pub fn live() -> Self {
        Self::Live {
            handles: Handles::open(),
            tokens: Tokens::new(ASKED),
        }
    }

    pub fn at_once() -> Self {
        Self::AtOnce {
            handles: Handles::open(),
            walks: Budget::new(WALKS, 0),
        }
    }
}

enum Cached {
    At(Place),
    /// Not found, or not below this mount; resolved again after this time.
    Nowhere(Nanoseconds),
}

pub struct Places {
    known: LruMap<u64, Cached>,
    mode: Mode,
}

impl Places {
    pub fn new(mode: Mode) -> Self {
        Self {
            known: LruMap::new(CGROUPS),
            mode,
        }
    }

    /// The cgroup with this id, if it is resolved.
    pub fn get(&self, id: u64) -> Option<Place> {
        match self.known.peek(&id) {
            _ if id == 0 => None,
            Some(Cached::At(place)) => Some(place.clone()),
            Some(Cached::Nowhere(_)) | None => Some(Place::new(id, None)),
        }
    }

    fn set(&mut self, id: u64, path: &str) {
        let place = Place::new(id, Some(path));
        self.known.insert(id, Cached::At(place));
    }

    /// Resolves the cgroup if that is possible at once; true if the resolver has to find it.
    pub fn resolve(&mut self, id: u64, now: Nanoseconds) -> bool {
        match self.known.get_mut(&id) {
            _ if id == 0 => return false,
            Some(Cached::At(_)) => return false,
            Some(Cached::Nowhere(until)) if now < *until => return false,
            Some(Cached::Nowhere(_)) | None => {}
        }
        let answer = match &mut self.mode {
            Mode::Live { handles, tokens } => match handles {
                Some(_) if !tokens.take(now) => return false,
                Some(handles) => handles.path(id),
                None => return true,
            },
            Mode::AtOnce { handles, .. } => handles
                .as_ref()
                .map_or(Answer::Refused, |handles| handles.path(id)),
        };
        match answer {
            Answer::Path(path) => self.set(id, &path),
            Answer::None => self.known.insert(id, Cached::Nowhere(now + PAUSE)),
            Answer::Refused => return self.refused(id, now),
        }
        false
    }

    /// As [`Places::resolve`], where handles are not usable.
    fn refused(&mut self, id: u64, now: Nanoseconds) -> bool {
        let walks = match &mut self.mode {
            Mode::Live { handles, .. } => {
                *handles = None;
                return true;
            }
            Mode::AtOnce { handles, walks } => {
                *handles = None;
                walks
            }
        };
        if walks.ready_at() <= now {
            let begun = clock::cpu_time();
            let known = &mut self.known;
            cgroups::directories(|id, path| {
                known.insert(id, Cached::At(Place::new(id, Some(path))));
                true
            });
            walks.spend(now, clock::cpu_time().saturating_sub(begun));
            if !matches!(known.peek(&id), Some(Cached::At(_))) {
                known.insert(id, Cached::Nowhere(now + PAUSE));
            }
        }
        false
    }

    pub fn take(&mut self, walked: &Walked, now: Nanoseconds) {
        for (id, path) in &walked.found {
            self.set(*id, path);
        }
        for id in &walked.missing {
            self.known.insert(*id, Cached::Nowhere(now + PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_cgroup_is_not_requested_each_time() {
        let mut places = Places::new(Mode::Live {
            handles: None,
            tokens: Tokens::new(1),
        });
        assert!(places.resolve(7, SECOND));
        let walked = Walked {
            found: vec![(8, "/b".to_owned())],
            missing: vec![7],
        };
        places.take(&walked, SECOND);
        assert!(!places.resolve(7, 2 * SECOND));
        assert!(!places.resolve(8, 2 * SECOND));
        assert_eq!(places.get(8).unwrap().cgroup.path.as_deref(), Some("/b"));
        assert!(places.resolve(7, SECOND + PAUSE));
    }

    #[test]
    fn our_own_is_found_at_once() {
        let Ok(groups) = std::fs::read_to_string("/proc/self/cgroup") else {
            return;
        };
        let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
            return;
        };
        let Some(root) = cgroups::cgroup2_root() else {
            return;
        };
        let directory = root.join(own.trim_start_matches('/'));
        let Ok(metadata) = std::fs::metadata(directory) else {
            return;
        };
        let id = std::os::unix::fs::MetadataExt::ino(&metadata);
        for handles in [None, Handles::open()] {
            let mut places = Places::new(Mode::AtOnce {
                handles,
                walks: Budget::new(WALKS, 0),
            });
            places.resolve(id, SECOND);
            assert_eq!(places.get(id).unwrap().cgroup.path.as_deref(), Some(own));
        }
    }
}
