//! The elements of frames: numbers, texts and sparse words, written and read. Input is untrusted: every
//! length is checked before it is used.
//!
//! The functions that read a record are inlined into their caller: they take most of a replay's time.

use anyhow::{Context, Result, bail, ensure};

/// Longest name of a process, bytes: in /proc it has at most 63 (a worker's). Others have 15
/// (`TASK_COMM_LEN`), each of which becomes three if it is not UTF-8.
pub const COMM_MAX: usize = 64;
/// Longest path of a cgroup, bytes: `PATH_MAX`.
pub const PATH_MAX: usize = 4096;
/// Longest finding, bytes of JSON: several times the longest one of `audit`.
pub const FINDING_MAX: usize = 1 << 13;

/// The length in bytes of a mask for this many words.
pub const fn mask_bytes(words: usize) -> usize {
    words.div_ceil(8)
}

/// Writes the length u8 of the mask in bytes, the mask, which has a bit for each word that is not zero,
/// and those words.
pub fn write_words<const N: usize>(words: &[u32; N], block: &mut Vec<u8>) {
    const { assert!(N <= u128::BITS as usize) };
    let mut mask = 0u128;
    for (index, word) in words.iter().enumerate() {
        mask |= u128::from(*word != 0) << index;
    }
    block.push(const { mask_bytes(N) as u8 });
    block.extend(&mask.to_le_bytes()[..mask_bytes(N)]);
    for word in words.iter().filter(|word| **word != 0) {
        block.extend(word.to_le_bytes());
    }
}

/// Reads what [`write_words`] of any version has written. Words that are not in the mask are zero, and
/// words beyond this version's are skipped.
#[inline]
pub fn read_words<const N: usize>(words: &mut [u32; N], from: &mut &[u8]) -> Result<()> {
    let [length] = take(from)?;
    let mask = take_some(length.into(), from)?;
    let more = read_masked(words, mask, from)?;
    take_some(4 * more as usize, from).map(drop)
}

/// Reads the words of a mask as far as they fit; returns how many more there are.
#[inline]
pub fn read_masked<const N: usize>(
    words: &mut [u32; N],
    mask: &[u8],
    from: &mut &[u8],
) -> Result<u32> {
    const MOST: usize = size_of::<u128>();
    let (known, beyond) = mask.split_at(mask.len().min(MOST));
    let mut bits = [0; MOST];
    bits[..known.len()].copy_from_slice(known);
    let all = u128::from_le_bytes(bits);
    let ours = all & const { u128::MAX >> (u128::BITS as usize - N) };
    let more = (all ^ ours).count_ones() + beyond.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let stored = take_some(4 * ours.count_ones() as usize, from)?;
    let mut stored = stored.as_chunks().0.iter();
    words.fill(0);
    // In halves, for which processors have instructions.
    for (half, base) in [(ours as u64, 0), ((ours >> 64) as u64, 64)] {
        let mut bits = half;
        while bits != 0 {
            let index = base + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let (Some(place), Some(word)) = (words.get_mut(index), stored.next()) {
                *place = u32::from_le_bytes(*word);
            }
        }
    }
    Ok(more)
}

pub fn write_optional(is_some: bool, block: &mut Vec<u8>) {
    block.push(u8::from(is_some));
}

pub fn read_optional(from: &mut &[u8]) -> Result<bool> {
    match take(from)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => bail!("invalid boolean {other}"),
    }
}

/// Writes length u16 and bytes; a longer text is truncated.
pub fn write_text(text: &str, most: usize, block: &mut Vec<u8>) {
    let text = &text[..text.floor_char_boundary(most.min(u16::MAX.into()))];
    block.extend((text.len() as u16).to_le_bytes());
    block.extend(text.as_bytes());
}

/// Reads a text after its length.
pub fn read_text<'a>(length: usize, most: usize, from: &mut &'a [u8]) -> Result<&'a str> {
    ensure!(
        length <= most,
        "a text of {length} bytes exceeds the limit of {most} bytes"
    );
    let text = take_some(length, from).context("the block ends within a text")?;
    std::str::from_utf8(text).context("a text is not UTF-8")
}

#[inline]
pub fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = from
        .split_first_chunk()
        .context("the block ends within a frame")?;
    *from = rest;
    Ok(*taken)
}

#[inline]
pub fn take_some<'a>(length: usize, from: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (taken, rest) = from
        .split_at_checked(length)
        .context("the block ends within a frame")?;
    *from = rest;
    Ok(taken)
}

#[inline]
pub fn take_u16(from: &mut &[u8]) -> Result<u16> {
    Ok(u16::from_le_bytes(take(from)?))
}

pub fn take_u32(from: &mut &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(take(from)?))
}

/// As [`take_u64`], of a field that may be absent.
pub fn take_added_u64(from: &mut &[u8]) -> Result<Option<u64>> {
    if from.is_empty() {
        return Ok(None);
    }
    take_u64(from).map(Some)
}

#[inline]
pub fn take_u64(from: &mut &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(take(from)?))
}
