//! Frames, back and forth, and from any bytes; and files of older versions.

use std::{fs, io::Write as _, path::Path};

use keepalive_ebpf::{Identity, Record};
use proptest::prelude::*;

use super::*;
use crate::{
    core::{
        event::{LostWhere, MissedWhere},
        wire::tests::sound,
    },
    machine::recorder::tests::{header, told},
};

/// A file of each version there was is kept, and told as it was.
#[test]
fn older_versions_stay_readable() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    for version in 1..=VERSION {
        let read = |kind| fs::read(directory.join(format!("v{version}.{kind}"))).unwrap();
        let (text, outcome) = told(&read("kar"));
        assert_eq!(outcome.unwrap().cut, None);
        assert_eq!(text, String::from_utf8(read("jsonl")).unwrap());
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], size_of::<Record>())
        .prop_map(|bytes| sound(&bytes))
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
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut rest = &*bytes;
        loop {
            let (mut place, mut left) = ([0; _], rest);
            if Frame::read(&mut left, &mut place).is_err() {
                break;
            }
            rest = &rest[rest.len() - left.len()..];
        }
        // The same as contents of a sound block in a sound file.
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &header(), false).unwrap();
        writer.flush().unwrap();
        let prefix = [bytes.len() as u32, bytes.len() as u32, crc32fast::hash(&bytes)];
        for number in prefix {
            file.write_all(&number.to_le_bytes()).unwrap();
        }
        file.extend(&bytes);
        let _ = told(&file);
    }
}
