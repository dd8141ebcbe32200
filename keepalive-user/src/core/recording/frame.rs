//! The frames in a block: each is one input of the tracker or of owner resolution.
//!
//! A frame is its kind u8, the length of its contents u16, and the contents. How it may change without
//! a new version of the format:
//!
//! - A field is only ever added at the end of the contents. If it is missing it is absent, as in a
//!   file of an older program; bytes after the last known field are skipped, as in a file
//!   of a newer one.
//! - A frame of an unknown kind is skipped by its length, and counted as undecodable.
//! - A record is a mask and the words that are not zero. Words are only ever added at its end, or in
//!   place of reserved ones: an older file has zero there. A change of a word's meaning or position needs
//!   a new [`keepalive_ebpf::ABI_VERSION`].
//! - Numbers of kinds and places are never reused.
//!
//! A longer text than `bytes.rs` allows is damage to an older program: raising a bound needs a new version.

use anyhow::Result;
use keepalive_ebpf::{Identity, RawRecord, Record, TcpSample};
use zerocopy::TryFromBytes;

use super::{
    abi1,
    bytes::{
        COMM_MAX, FINDING_MAX, PATH_MAX, read_optional, read_text, read_words, take,
        take_added_u64, take_some, take_u16, take_u32, take_u64, write_optional, write_text,
        write_words,
    },
    host::{self, HostFrame},
    places::Numbered,
};
use crate::core::{
    event::{LostWhere, MissedWhere},
    wire::{self, RawIdentity, Unknown},
};

/// One input of the tracker or of owner resolution.
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
    /// From now on this process is the owner of the socket with this inode number, or it has no owner.
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
    /// An event of the host, or an offset of its clock.
    Host(HostFrame),
    /// A finding of `audit`, JSON.
    Finding(&'a str),
    /// The recording continues in the next file.
    Continued,
    /// The trace ended, CLOCK_MONOTONIC, nanoseconds.
    End { time: u64 },
    /// A complete frame of a kind or with a value that this version does not know: counted and
    /// skipped. Never written.
    Undecodable(Unknown),
}

/// The number of a kind of frame in a file. 9 was another form of `Lost` in version 1.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
pub enum FrameKind {
    Record = 1,
    Seed = 2,
    Process = 3,
    Cgroup = 4,
    Lost = 5,
    Finding = 6,
    Continued = 7,
    End = 8,
    Missed = 10,
    Clock = 11,
    Suspend = 12,
    ClockStep = 13,
    Sysctl = 14,
}

/// 32-bit words of a record.
const RECORD_WORDS: usize = size_of::<Record>() / 4;
/// The positions of `before` and `after`, in words, and their length, independent of later fields.
const BEFORE: usize = std::mem::offset_of!(Record, before) / 4;
const AFTER: usize = std::mem::offset_of!(Record, after) / 4;
const SAMPLE: usize = size_of::<TcpSample>() / 4;

impl Frame<'_> {
    /// Appends the frame to a block.
    pub fn write(&self, block: &mut Vec<u8>) {
        let Some(kind) = self.kind() else {
            return;
        };
        block.extend([kind as u8, 0, 0]);
        let start = block.len();
        self.write_contents(block);
        let length = (block.len() - start) as u16;
        block[start - 2..start].copy_from_slice(&length.to_le_bytes());
    }

    fn kind(&self) -> Option<FrameKind> {
        Some(match self {
            Self::Record(_) => FrameKind::Record,
            Self::Seed { .. } => FrameKind::Seed,
            Self::Process { .. } => FrameKind::Process,
            Self::Cgroup { .. } => FrameKind::Cgroup,
            Self::Lost { .. } => FrameKind::Lost,
            Self::Missed { .. } => FrameKind::Missed,
            Self::Host(host) => host.kind(),
            Self::Finding(_) => FrameKind::Finding,
            Self::Continued => FrameKind::Continued,
            Self::End { .. } => FrameKind::End,
            Self::Undecodable(_) => return None,
        })
    }

    /// Texts are bounded, so the total length fits in a u16.
    fn write_contents(&self, block: &mut Vec<u8>) {
        match self {
            Self::Record(record) => {
                let mut words: [u32; RECORD_WORDS] = zerocopy::transmute!(**record);
                // Most values are the same at both ends of a timer run.
                exclusive_or(&mut words);
                write_words(&words, block);
            }
            Self::Seed { id, time } => {
                let words: RawIdentity = zerocopy::transmute!(*id);
                write_words(&words, block);
                write_numbers([*time], block);
            }
            Self::Process { inode, process } => {
                write_numbers([*inode], block);
                write_optional(process.is_some(), block);
                if let Some((pid, comm)) = process {
                    block.extend(pid.to_le_bytes());
                    write_text(comm, COMM_MAX, block);
                }
            }
            Self::Cgroup { id, path } => {
                write_numbers([*id], block);
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
                block.push(place.number());
                write_numbers([*count, *time], block);
                // The last field, which may therefore be omitted.
                if *probes > 0 {
                    write_numbers([*probes], block);
                }
            }
            Self::Missed {
                place,
                count,
                since,
                time,
            } => {
                block.push(place.number());
                write_numbers([*count, *since, *time], block);
            }
            Self::Host(host) => host.write(block),
            Self::Finding(json) => write_text(json, FINDING_MAX, block),
            Self::End { time } => write_numbers([*time], block),
            Self::Continued | Self::Undecodable(_) => {}
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads the next frame of a block; a record is stored in `place`.
    ///
    /// # Errors
    /// If the block ends within it, or a mandatory field is missing or damaged.
    pub fn read(block: &mut &'a [u8], place: &'a mut RawRecord) -> Result<Self> {
        Self::read_with(block, place, |from, place| {
            let words: &mut [u32; RECORD_WORDS] = zerocopy::transmute_mut!(place);
            read_words(words, from)?;
            exclusive_or(words);
            Ok(wire::record(place).map_or_else(Self::Undecodable, Self::Record))
        })
    }

    /// As [`Frame::read`], with a record of ABI 1.
    ///
    /// # Errors
    /// As those of [`Frame::read`].
    pub fn read_abi1(block: &mut &'a [u8], place: &'a mut RawRecord) -> Result<Self> {
        Self::read_with(block, place, |from, place| {
            let mut then = [0; abi1::WORDS];
            read_words(&mut then, from)?;
            Ok(abi1::record(&mut then, place).map_or_else(Self::Undecodable, Self::Record))
        })
    }

    #[inline]
    fn read_with(
        block: &mut &'a [u8],
        place: &'a mut RawRecord,
        record: impl FnOnce(&mut &'a [u8], &'a mut RawRecord) -> Result<Self>,
    ) -> Result<Self> {
        let [kind] = take(block)?;
        let length = take_u16(block)?;
        let mut contents = take_some(length.into(), block)?;
        match FrameKind::try_read_from_bytes(&[kind]) {
            Ok(kind) => Self::read_contents(kind, &mut contents, place, record),
            Err(_) => Ok(Self::Undecodable(Unknown {
                field: "frame kind",
                value: kind,
            })),
        }
    }

    /// Remaining bytes of the contents are from a newer version.
    fn read_contents(
        kind: FrameKind,
        from: &mut &'a [u8],
        place: &'a mut RawRecord,
        record: impl FnOnce(&mut &'a [u8], &'a mut RawRecord) -> Result<Self>,
    ) -> Result<Self> {
        Ok(match kind {
            FrameKind::Record => record(from, place)?,
            FrameKind::Seed => {
                let mut words: RawIdentity = [0; _];
                read_words(&mut words, from)?;
                let time = take_u64(from)?;
                wire::identity(words).map_or_else(Self::Undecodable, |id| Self::Seed { id, time })
            }
            FrameKind::Process => Self::Process {
                inode: take_u64(from)?,
                process: match is_present(from)? {
                    true => Some((take_u32(from)?, text(COMM_MAX, from)?)),
                    false => None,
                },
            },
            FrameKind::Cgroup => Self::Cgroup {
                id: take_u64(from)?,
                path: match is_present(from)? {
                    true => Some(text(PATH_MAX, from)?),
                    false => None,
                },
            },
            FrameKind::Lost => {
                let [place] = take(from)?;
                let (count, time) = (take_u64(from)?, take_u64(from)?);
                let probes = take_added_u64(from)?.unwrap_or(0);
                Numbered::of_number(place).map_or_else(Self::Undecodable, |place| Self::Lost {
                    place,
                    count,
                    probes,
                    time,
                })
            }
            FrameKind::Missed => read_missed(from)?,
            FrameKind::Clock => Self::Host(host::read_clock(from)?),
            FrameKind::Suspend => Self::Host(host::read_suspend(from)?),
            FrameKind::ClockStep => Self::Host(host::read_clock_step(from)?),
            FrameKind::Sysctl => {
                host::read_sysctl(from)?.map_or_else(Self::Undecodable, Self::Host)
            }
            FrameKind::Finding => Self::Finding(text(FINDING_MAX, from)?),
            FrameKind::Continued => Self::Continued,
            FrameKind::End => Self::End {
                time: take_u64(from)?,
            },
        })
    }
}

fn read_missed<'a>(from: &mut &[u8]) -> Result<Frame<'a>> {
    let [place] = take(from)?;
    let [count, since, time] = [take_u64(from)?, take_u64(from)?, take_u64(from)?];
    Ok(
        Numbered::of_number(place).map_or_else(Frame::Undecodable, |place| Frame::Missed {
            place,
            count,
            since,
            time,
        }),
    )
}

/// XORs `before` into `after`; a second call reverts it.
fn exclusive_or(words: &mut [u32; RECORD_WORDS]) {
    for index in 0..SAMPLE {
        words[BEFORE + index] ^= words[AFTER + index];
    }
}

/// Whether an optional field is present.
fn is_present(from: &mut &[u8]) -> Result<bool> {
    if from.is_empty() {
        return Ok(false);
    }
    read_optional(from)
}

pub fn write_numbers<const N: usize>(numbers: [u64; N], block: &mut Vec<u8>) {
    for number in numbers {
        block.extend(number.to_le_bytes());
    }
}

fn text<'a>(most: usize, from: &mut &'a [u8]) -> Result<&'a str> {
    let length = take_u16(from)?;
    read_text(length.into(), most, from)
}
