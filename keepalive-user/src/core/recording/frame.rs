//! The frames in a block: one thing each that the tracker or the attribution was told.

use anyhow::{Context, Result, bail, ensure};
use keepalive_ebpf::{Identity, RawRecord, Record};

use crate::core::{
    event::{LostWhere, MissedWhere},
    wire::{self, Unknown},
};

/// One thing that was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame<'a> {
    /// A record of the ring buffer.
    Record(&'a Record),
    /// A socket older than the trace, as it was listed at its start.
    Seed {
        id: Identity,
        /// CLOCK_MONOTONIC, nanoseconds.
        time: u64,
    },
    /// From now on the socket with this inode number is this process's, or nobody's.
    Process {
        inode: u64,
        process: Option<(u32, &'a str)>,
    },
    /// From now on the cgroup with this id has this path, or none.
    Cgroup { id: u64, path: Option<&'a str> },
    /// Observations were lost.
    Lost {
        place: LostWhere,
        count: u64,
        /// Keepalive probes among them.
        probes: u64,
        /// CLOCK_MONOTONIC, nanoseconds.
        time: u64,
    },
    /// The kernel acted and no program saw it.
    Missed {
        place: MissedWhere,
        count: u64,
        /// CLOCK_MONOTONIC of the last observation before, nanoseconds.
        since: u64,
        /// CLOCK_MONOTONIC, nanoseconds.
        time: u64,
    },
    /// A finding of `audit`, JSON.
    Finding(&'a str),
    /// The next file goes on from here.
    Continued,
    /// The trace ended, CLOCK_MONOTONIC, nanoseconds.
    End { time: u64 },
    /// A whole frame with a value that this version does not know: counted, and passed over. Never
    /// written.
    Undecodable(Unknown),
}

const RECORD: u8 = 1;
const SEED: u8 = 2;
const PROCESS: u8 = 3;
const CGROUP: u8 = 4;
const LOST: u8 = 5;
const FINDING: u8 = 6;
const CONTINUED: u8 = 7;
const END: u8 = 8;
/// As [`LOST`], with the number of probes.
const LOST_PROBES: u8 = 9;
const MISSED: u8 = 10;

/// Places by their number in a file: only ever appended to.
const PLACES: [LostWhere; 9] = [
    LostWhere::Ring,
    LostWhere::Decode,
    LostWhere::Tracker,
    LostWhere::Scratch,
    LostWhere::Unreadable,
    LostWhere::Recording,
    LostWhere::Recursion,
    LostWhere::Output,
    LostWhere::Filter,
];

/// As [`PLACES`], of what was missed.
const MISSED_PLACES: [MissedWhere; 5] = [
    MissedWhere::Probe,
    MissedWhere::WindowProbe,
    MissedWhere::Timer,
    MissedWhere::Close,
    MissedWhere::Unread,
];

/// Longest name of a process, bytes: in /proc it has at most 63 (a worker's). Others have 15
/// (`TASK_COMM_LEN`), each of which has become three if it is not UTF-8.
const COMM_MAX: usize = 64;
/// Longest path of a cgroup, bytes: `PATH_MAX`.
const PATH_MAX: usize = 4096;
/// Longest finding, bytes of JSON: several times what `audit` makes.
pub const FINDING_MAX: usize = 1 << 13;
/// 32-bit words of a record, and of a seed.
const RECORD_WORDS: usize = size_of::<Record>() / 4;
const SEED_WORDS: usize = size_of::<Identity>() / 4;
/// Where `before` and `after` begin, in words, and how long they are.
const BEFORE: usize = std::mem::offset_of!(Record, before) / 4;
const AFTER: usize = std::mem::offset_of!(Record, after) / 4;
const NUMBERS: usize = RECORD_WORDS - AFTER;

impl Frame<'_> {
    /// Appends the frame to a block.
    pub fn write(&self, block: &mut Vec<u8>) {
        match self {
            Self::Record(record) => {
                block.push(RECORD);
                let mut words: [u32; RECORD_WORDS] = zerocopy::transmute!(**record);
                // Most numbers are the same at both ends of a timer run.
                exclusive_or(&mut words);
                write_words(&words, block);
            }
            Self::Seed { id, time } => {
                block.push(SEED);
                let words: [u32; SEED_WORDS] = zerocopy::transmute!(*id);
                write_words(&words, block);
                block.extend(time.to_le_bytes());
            }
            Self::Process { inode, process } => {
                block.push(PROCESS);
                block.extend(inode.to_le_bytes());
                write_optional(process.is_some(), block);
                if let Some((pid, comm)) = process {
                    block.extend(pid.to_le_bytes());
                    write_text(comm, COMM_MAX, block);
                }
            }
            Self::Cgroup { id, path } => {
                block.push(CGROUP);
                block.extend(id.to_le_bytes());
                write_optional(path.is_some(), block);
                if let Some(path) = path {
                    write_text(path, PATH_MAX, block);
                }
            }
            Self::Lost {
                place,
                count,
                probes,
                time,
            } => {
                block.push(if *probes == 0 { LOST } else { LOST_PROBES });
                block.push(number_of(&PLACES, place));
                block.extend(count.to_le_bytes());
                block.extend(time.to_le_bytes());
                if *probes > 0 {
                    block.extend(probes.to_le_bytes());
                }
            }
            Self::Missed {
                place,
                count,
                since,
                time,
            } => {
                block.push(MISSED);
                block.push(number_of(&MISSED_PLACES, place));
                for number in [count, since, time] {
                    block.extend(number.to_le_bytes());
                }
            }
            Self::Finding(json) => {
                block.push(FINDING);
                write_text(json, FINDING_MAX, block);
            }
            Self::Undecodable(_) => {}
            Self::Continued => block.push(CONTINUED),
            Self::End { time } => {
                block.push(END);
                block.extend(time.to_le_bytes());
            }
        }
    }
}

impl<'a> Frame<'a> {
    /// Takes the next frame off a block; a record goes to `place`.
    pub fn read(block: &mut &'a [u8], place: &'a mut RawRecord) -> Result<Self> {
        let [kind] = take(block)?;
        Ok(match kind {
            RECORD => {
                let words: &mut [u32; RECORD_WORDS] = zerocopy::transmute_mut!(place);
                words.fill(0);
                read_words(words, block)?;
                exclusive_or(words);
                wire::record(place).map_or_else(Self::Undecodable, Self::Record)
            }
            SEED => {
                let mut words = [0; SEED_WORDS];
                read_words(&mut words, block)?;
                let time = take_u64(block)?;
                wire::identity(words).map_or_else(Self::Undecodable, |id| Self::Seed { id, time })
            }
            PROCESS => Self::Process {
                inode: take_u64(block)?,
                process: match read_optional(block)? {
                    true => Some((
                        u32::from_le_bytes(take(block)?),
                        read_text(COMM_MAX, block)?,
                    )),
                    false => None,
                },
            },
            CGROUP => Self::Cgroup {
                id: take_u64(block)?,
                path: match read_optional(block)? {
                    true => Some(read_text(PATH_MAX, block)?),
                    false => None,
                },
            },
            LOST | LOST_PROBES => {
                let place = numbered("loss kind", &PLACES, block)?;
                let (count, time) = (take_u64(block)?, take_u64(block)?);
                let probes = if kind == LOST { 0 } else { take_u64(block)? };
                place.map_or_else(Self::Undecodable, |&place| Self::Lost {
                    place,
                    count,
                    probes,
                    time,
                })
            }
            MISSED => {
                let place = numbered("kind of missed event", &MISSED_PLACES, block)?;
                let [count, since, time] = [take_u64(block)?, take_u64(block)?, take_u64(block)?];
                place.map_or_else(Self::Undecodable, |&place| Self::Missed {
                    place,
                    count,
                    since,
                    time,
                })
            }
            FINDING => Self::Finding(read_text(FINDING_MAX, block)?),
            CONTINUED => Self::Continued,
            END => Self::End {
                time: take_u64(block)?,
            },
            other => bail!("unknown frame kind {other}"),
        })
    }
}

/// The number of a place in a file.
fn number_of<T: PartialEq>(places: &[T], place: &T) -> u8 {
    let number = places.iter().position(|known| known == place);
    number.map_or(u8::MAX, |number| number as u8)
}

/// The place whose number is next in the block, if there is one of that number.
fn numbered<'a, T>(
    field: &'static str,
    places: &'a [T],
    block: &mut &[u8],
) -> Result<Result<&'a T, Unknown>> {
    let [value] = take(block)?;
    let place = places.get(usize::from(value));
    Ok(place.ok_or(Unknown { field, value }))
}

/// `before` against `after`, there and back.
fn exclusive_or(words: &mut [u32; RECORD_WORDS]) {
    for index in 0..NUMBERS {
        words[BEFORE + index] ^= words[AFTER + index];
    }
}

/// A bit for each word that is not zero, then those words.
fn write_words<const N: usize>(words: &[u32; N], block: &mut Vec<u8>) {
    let mut mask = 0u128;
    for (index, word) in words.iter().enumerate() {
        mask |= u128::from(*word != 0) << index;
    }
    block.extend(&mask.to_le_bytes()[..N.div_ceil(8)]);
    for word in words.iter().filter(|word| **word != 0) {
        block.extend(word.to_le_bytes());
    }
}

fn read_words<const N: usize>(words: &mut [u32; N], block: &mut &[u8]) -> Result<()> {
    let mut mask = [0; 16];
    let (head, rest) = block
        .split_at_checked(N.div_ceil(8))
        .context("the block ends within a frame")?;
    mask[..head.len()].copy_from_slice(head);
    let mut mask = u128::from_le_bytes(mask);
    ensure!(mask >> N == 0, "a frame has words that do not exist");
    let (mut stored, rest) = rest
        .split_at_checked(4 * mask.count_ones() as usize)
        .context("the block ends within a frame")?;
    *block = rest;
    while mask != 0 {
        let index = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        if let Some((word, rest)) = stored.split_first_chunk() {
            words[index] = u32::from_le_bytes(*word);
            stored = rest;
        }
    }
    Ok(())
}

fn write_optional(is_some: bool, block: &mut Vec<u8>) {
    block.push(u8::from(is_some));
}

fn read_optional(block: &mut &[u8]) -> Result<bool> {
    match take(block)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => bail!("invalid boolean {other}"),
    }
}

/// Length u32, bytes; what is longer is cut.
fn write_text(text: &str, most: usize, block: &mut Vec<u8>) {
    let text = &text[..text.floor_char_boundary(most)];
    block.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    block.extend(text.as_bytes());
}

fn read_text<'a>(most: usize, block: &mut &'a [u8]) -> Result<&'a str> {
    let length = u32::from_le_bytes(take(block)?) as usize;
    ensure!(
        length <= most,
        "a text of {length} bytes, at most {most} are possible"
    );
    let (text, rest) = block
        .split_at_checked(length)
        .context("the block ends within a text")?;
    *block = rest;
    std::str::from_utf8(text).context("a text is not UTF-8")
}

fn take<const N: usize>(block: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = block
        .split_first_chunk()
        .context("the block ends within a frame")?;
    *block = rest;
    Ok(*taken)
}

fn take_u64(block: &mut &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(take(block)?))
}
