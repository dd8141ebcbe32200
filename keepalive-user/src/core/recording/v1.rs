//! Frames of version 1: without a length, so that a frame of an unknown kind, or with an unknown
//! field, cannot be skipped. Read only, and unchanged since.

use anyhow::{Result, bail, ensure};
use keepalive_ebpf::RawRecord;

use super::{
    abi1,
    bytes::{
        mask_bytes, read_masked, read_optional, read_text, take, take_some, take_u32, take_u64,
    },
    frame::Frame,
    places::Numbered,
};
use crate::core::wire::{self, RawIdentity};

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

/// 32-bit words of a seed in version 1.
const SEED_WORDS_THEN: usize = 22;
/// Longest texts in version 1, bytes.
const COMM_MAX: usize = 64;
const PATH_MAX: usize = 4096;
const FINDING_MAX: usize = 1 << 13;

/// Reads the next frame of a block; a record is stored in `place`.
pub fn read<'a>(block: &mut &'a [u8], place: &'a mut RawRecord) -> Result<Frame<'a>> {
    let [kind] = take(block)?;
    Ok(match kind {
        RECORD => {
            let mut then = [0; abi1::WORDS];
            read_words::<{ abi1::WORDS }>(&mut then, block)?;
            abi1::record(&mut then, place).map_or_else(Frame::Undecodable, Frame::Record)
        }
        SEED => {
            let mut words: RawIdentity = [0; _];
            read_words::<SEED_WORDS_THEN>(&mut words, block)?;
            let time = take_u64(block)?;
            wire::identity(words).map_or_else(Frame::Undecodable, |id| Frame::Seed { id, time })
        }
        PROCESS => Frame::Process {
            inode: take_u64(block)?,
            process: match read_optional(block)? {
                true => Some((take_u32(block)?, text(COMM_MAX, block)?)),
                false => None,
            },
        },
        CGROUP => Frame::Cgroup {
            id: take_u64(block)?,
            path: match read_optional(block)? {
                true => Some(text(PATH_MAX, block)?),
                false => None,
            },
        },
        LOST | LOST_PROBES => {
            let [place] = take(block)?;
            let (count, time) = (take_u64(block)?, take_u64(block)?);
            let probes = if kind == LOST { 0 } else { take_u64(block)? };
            Numbered::of_number(place).map_or_else(Frame::Undecodable, |place| Frame::Lost {
                place,
                count,
                probes,
                time,
            })
        }
        MISSED => {
            let [place] = take(block)?;
            let [count, since, time] = [take_u64(block)?, take_u64(block)?, take_u64(block)?];
            Numbered::of_number(place).map_or_else(Frame::Undecodable, |place| Frame::Missed {
                place,
                count,
                since,
                time,
            })
        }
        FINDING => Frame::Finding(text(FINDING_MAX, block)?),
        CONTINUED => Frame::Continued,
        END => Frame::End {
            time: take_u64(block)?,
        },
        other => bail!("unknown frame kind {other}"),
    })
}

/// A mask of exactly the words of version 1, then those that are not zero.
fn read_words<const N: usize>(words: &mut [u32], block: &mut &[u8]) -> Result<()> {
    let mask = take_some(mask_bytes(N), block)?;
    let mut then = [0; N];
    let more = read_masked(&mut then, mask, block)?;
    ensure!(more == 0, "a frame has more words than version 1 defines");
    words.fill(0);
    words[..N].copy_from_slice(&then);
    Ok(())
}

fn text<'a>(most: usize, block: &mut &'a [u8]) -> Result<&'a str> {
    let length = take_u32(block)? as usize;
    read_text(length, most, block)
}
