//! Makes the stored recording of the newest version of the format, and its blocks as seeds for fuzzing: the
//! contents of the recording of version 1, and one of each frame and record that it lacks.
//!
//! ```text
//! cd keepalive-user
//! cargo run --example recording tests/recordings/v3.kar fuzz/corpus/frames
//! cargo run -- replay --json tests/recordings/v3.kar > tests/recordings/v3.jsonl
//! ```

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use keepalive_ebpf::{ABI_VERSION, Kind, Record};
use keepalive_user::{
    clock::Offset,
    event::{LostWhere, MissedWhere, Sysctl, UnaffectedSockets},
    recording::{Frame, Header, HostFrame, Reader, VERSION, Writer},
};

const OLDEST: &[u8] = include_bytes!("../tests/recordings/v1.kar");
/// Stored length, plain length, checksum.
const BLOCK_PREFIX: usize = 12;
/// Frames in a block.
const FRAMES: u32 = 4;
/// An hour less two seconds later than that of the header.
const CLOCK_OFFSET_NS: i64 = (1_767_224_600 + 3598) * 1_000_000_000;
const FINDING: &str = r#"{"timestamp":"2026-01-01T00:00:08Z","monotonic_ns":1008000000000,"rule":"suppressed","severity":"warning","socket":null,"process":null,"container_id":null,"netns":4026531840,"evidence":"e","consequence":"c","remedy":"r"}"#;

fn main() -> Result<()> {
    let usage = "usage: recording FILE DIRECTORY";
    let mut arguments = env::args_os().skip(1);
    let file = arguments.next().context(usage)?;
    let directory = arguments.next().context(usage)?;
    let (bytes, blocks) = recording()?;
    fs::write(file, &bytes)?;
    for (number, block) in blocks.iter().enumerate() {
        let name = format!("v{VERSION}-block{number}");
        fs::write(Path::new(&directory).join(name), block)?;
    }
    Ok(())
}

/// The file, and the contents of its blocks.
fn recording() -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut oldest = Reader::new(OLDEST)?;
    let mut bytes = Vec::new();
    let header = Header {
        abi_version: ABI_VERSION,
        ..oldest.header.clone()
    };
    let mut writer = Writer::new(&mut bytes, &header, false)?;
    let mut ends = vec![writer.length()];
    let mut frames = 0_u32;
    let mut write = |frame: &Frame<'_>| -> Result<()> {
        writer.frame(frame)?;
        frames += 1;
        if frames.is_multiple_of(FRAMES) || matches!(frame, Frame::End { .. }) {
            writer.flush()?;
            ends.push(writer.length());
        }
        Ok(())
    };
    let mut last = None;
    while let Some(frame) = oldest.frame()? {
        if let Frame::Record(record) = frame {
            last = Some(*record);
        }
        if let Frame::End { .. } = frame {
            additions(last.context("no record")?, &mut write)?;
        }
        write(&frame)?;
    }
    drop(writer);
    let blocks = ends.windows(2).filter_map(|ends| {
        let (start, end) = (*ends.first()? as usize, *ends.last()? as usize);
        Some(bytes.get(start + BLOCK_PREFIX..end)?.to_vec())
    });
    let blocks = blocks.collect();
    Ok((bytes, blocks))
}

/// Frames and records that the recording of version 1 lacks.
fn additions(last: Record, mut write: impl FnMut(&Frame<'_>) -> Result<()>) -> Result<()> {
    let time = last.after.time;
    for kind in [
        Kind::Setsockopt,
        Kind::WindowProbe,
        Kind::Ack,
        Kind::Closing,
        Kind::Polled,
        Kind::Listed,
    ] {
        let mut record = Record { kind, ..last };
        record.id.sk += 4096 * u64::from(kind as u8);
        record.id.cookie += u64::from(kind as u8);
        record.id.state = 1;
        write(&Frame::Record(&record))?;
    }
    for frame in [
        Frame::Process {
            inode: last.id.inode,
            process: None,
        },
        Frame::Cgroup {
            id: last.id.cgroup,
            path: None,
        },
        Frame::Lost {
            place: LostWhere::Ring,
            count: 5,
            probes: 2,
            time,
        },
        Frame::Lost {
            place: LostWhere::Filter,
            count: 1,
            probes: 0,
            time,
        },
        Frame::Missed {
            place: MissedWhere::Probe,
            count: 1,
            since: time - 1_000_000_000,
            time,
        },
        Frame::Finding(FINDING),
    ] {
        write(&frame)?;
    }
    for frame in host(&last) {
        write(&Frame::Host(frame))?;
    }
    Ok(())
}

/// A suspend, a step of the wall clock, and a changed sysctl.
fn host(last: &Record) -> [HostFrame; 4] {
    let time = last.after.time;
    [
        HostFrame::Clock(Offset {
            since: time,
            offset_ns: CLOCK_OFFSET_NS,
        }),
        HostFrame::Suspend {
            duration_ns: 3_600_000_000_000,
            time,
        },
        HostFrame::ClockStep {
            step_ns: -2_000_000_000,
            time,
        },
        HostFrame::Sysctl {
            time,
            since: time - 1_000_000_000,
            netns: last.id.netns,
            name: Sysctl::TcpKeepaliveTime,
            old: 7200,
            new: 600,
            sockets: UnaffectedSockets {
                tracked: 3,
                armed: 2,
                own: 1,
            },
        },
    ]
}
