//! Frames survive writing and reading, any bytes are read without a panic, older versions are readable.

use std::{fs, path::Path};

use keepalive_ebpf::{Identity, Kind, Record};
use proptest::prelude::*;

use super::*;
use crate::{
    core::{
        clock::Offset,
        event::{LostWhere, MissedWhere, Sysctl, UnaffectedSockets},
        wire::{Unknown, tests::sound},
    },
    fuzzing::as_recordings,
    machine::recorder::tests::replayed,
};

/// A file of each version of the format is kept, and must replay unchanged. `examples/recording.rs` makes
/// the one of the newest version.
#[test]
fn older_versions_stay_readable() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    for version in 1..=VERSION {
        let read = |kind| fs::read(directory.join(format!("v{version}.{kind}"))).unwrap();
        let (text, outcome) = replayed(&read("kar"));
        assert_eq!(outcome.unwrap().cut, None);
        assert_eq!(text, String::from_utf8(read("jsonl")).unwrap());
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], size_of::<Record>())
        .prop_map(|bytes| sound(&bytes))
}

/// All frames of a block, as text.
fn read(block: &[u8]) -> Result<Vec<String>> {
    let (mut rest, mut frames) = (block, Vec::new());
    while !rest.is_empty() {
        let (mut place, mut left) = ([0; _], rest);
        frames.push(format!("{:?}", Frame::read(&mut left, &mut place)?));
        rest = &rest[rest.len() - left.len()..];
    }
    Ok(frames)
}

fn read_record(record: &Record) -> String {
    format!("{:?}", Frame::Record(record))
}

/// A frame of this kind with these contents.
fn framed(kind: u8, contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u16).to_le_bytes();
    [&[kind], &length[..], contents].concat()
}

#[test]
fn frames_of_unknown_kinds_are_skipped_and_named() {
    let mut block = Vec::new();
    for kind in [0, 9, 97, 255] {
        block.extend(framed(kind, b"whatever it is"));
        Frame::Continued.write(&mut block);
    }
    let frames = read(&block).unwrap();
    assert_eq!(frames.len(), 8);
    for (unknown, kind) in frames.iter().step_by(2).zip([0, 9, 97, 255]) {
        let field = "frame kind";
        let expected = Frame::Undecodable(Unknown { field, value: kind });
        assert_eq!(*unknown, format!("{expected:?}"));
    }
    assert!(frames.iter().skip(1).step_by(2).all(|it| it == "Continued"));
    // In a file they count as losses, consecutive ones together, and the rest is replayed.
    let block = [framed(99, &[]), framed(98, &[1; 500]), framed(8, &[0; 8])].concat();
    let file = as_recordings(&block).last().unwrap();
    let (text, outcome) = replayed(&file);
    assert_eq!(outcome.unwrap().cut, None);
    assert!(text.contains(r#""count":2,"where":"decode""#), "{text}");
}

#[test]
fn what_an_older_program_lacks_is_absent() {
    // A record with only its first word, whose mask is therefore short.
    let record = Record::new(Kind::Ack);
    let block = framed(1, &[&[1, 1], &[Kind::Ack as u8, 0, 0, 0][..]].concat());
    assert_eq!(read(&block).unwrap(), [read_record(&record)]);
    let absent = [
        (5, [&[0], &[0; 16][..]].concat(), "probes: 0"),
        (3, vec![0; 8], "process: None"),
        (4, vec![0; 8], "path: None"),
    ];
    for (kind, contents, expected) in absent {
        let frames = read(&framed(kind, &contents)).unwrap();
        assert!(frames[0].contains(expected), "{frames:?}");
    }
}

/// A length that exceeds the available bytes is an error.
#[test]
fn lengths_are_bounded() {
    for block in [
        vec![1],
        vec![1, 0],
        // The frame, its mask, its words, and a text.
        vec![1, 200, 0, 0],
        framed(1, &[255, 1, 1]),
        framed(1, &[1, 3, 0, 0, 0, 0]),
        framed(1, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]),
        framed(6, &[5, 0, b'{', b'}']),
        framed(6, &[0xff; 9000]),
        // A mandatory field.
        framed(8, &[0; 7]),
        framed(5, &[&[0; 17][..], &[1; 3]].concat()),
        framed(3, &[&[0; 8][..], &[2]].concat()),
    ] {
        assert!(read(&block).is_err(), "{block:?}");
    }
}

proptest! {
    #[test]
    fn frames_come_back(record in any_record(), inode: u64, pid: u32, comm in "\\PC{0,16}", time: u64) {
        let id: Identity = record.id;
        let frames = [
            Frame::Record(&record),
            Frame::Seed { id, time },
            Frame::Process { inode, process: Some((pid, &comm)) },
            Frame::Process { inode, process: None },
            Frame::Cgroup { id: inode, path: Some(&comm) },
            Frame::Lost { place: LostWhere::Recording, count: inode, probes: 0, time },
            Frame::Lost { place: LostWhere::Ring, count: inode, probes: inode, time },
            Frame::Missed { place: MissedWhere::Close, count: inode, since: time, time },
            Frame::Host(HostFrame::Clock(Offset { since: time, offset_ns: -5 })),
            Frame::Host(HostFrame::Suspend { duration_ns: inode, time }),
            Frame::Host(HostFrame::ClockStep { step_ns: -1, time }),
            Frame::Host(HostFrame::Sysctl {
                time,
                since: inode,
                netns: pid,
                name: Sysctl::TcpRetries2,
                old: 15,
                new: 8,
                sockets: UnaffectedSockets { tracked: 3, armed: 2, own: 1 },
            }),
            Frame::Finding(&comm),
            Frame::Continued,
            Frame::End { time },
        ];
        let mut block = Vec::new();
        for frame in &frames {
            frame.write(&mut block);
        }
        let mut rest = &*block;
        for frame in &frames {
            let (mut place, mut left) = ([0; _], rest);
            prop_assert_eq!(&Frame::read(&mut left, &mut place).unwrap(), frame);
            rest = &rest[rest.len() - left.len()..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_a_newer_program_adds_is_skipped(record in any_record(), more in 1usize..99, word: u32) {
        let mut block = Vec::new();
        Frame::Record(&record).write(&mut block);
        // A longer mask, the last of its words, and something else.
        let (mask, words) = (usize::from(block[3]), block.split_off(4));
        let mut contents = vec![(mask + more) as u8];
        contents.extend(&words[..mask]);
        contents.extend(vec![0; more - 1]);
        contents.push(0x80);
        contents.extend(&words[mask..]);
        contents.extend(word.to_le_bytes());
        contents.extend(b"something else");
        prop_assert_eq!(read(&framed(1, &contents)).unwrap(), [read_record(&record)]);
        let lost = Frame::Lost { place: LostWhere::Ring, count: 1, probes: 1, time: 3 };
        let mut block = Vec::new();
        lost.write(&mut block);
        let block = framed(5, &[&block[3..], &[7; 5]].concat());
        prop_assert_eq!(read(&block).unwrap(), [format!("{lost:?}")]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
        // The same as contents of a valid block in a valid file of each version.
        for file in as_recordings(&bytes) {
            let _ = replayed(&file);
        }
    }
}
