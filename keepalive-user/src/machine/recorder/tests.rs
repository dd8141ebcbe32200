//! The contents of recordings, and the errors for truncated, damaged and foreign files.

mod ends;
mod files;
mod host;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use jiff::tz::TimeZone;
use keepalive_ebpf::{ABI_VERSION, Identity, Kind, Record};

use super::*;
use crate::{
    core::{
        event::{Backend, Lost, LostWhere, Process, Start},
        owners::Recorded,
        pipeline::{Output, Pipeline, Wanted},
        recording::{Frame, Reader},
        replay::{Recording, ReplayStats, play},
    },
    output::{
        Format, Lines,
        tests::{CLOCK, HZ, story},
    },
};

const START: u64 = 1000 * 1_000_000_000;

pub fn header() -> Header {
    Header {
        abi_version: ABI_VERSION,
        sequence: 0,
        start: Start {
            host: None,
            when: CLOCK.at(START),
            schema_version: "1".to_owned(),
            version: "0".to_owned(),
            kernel: "6.12.0".to_owned(),
            backend: Backend::Fentry,
            refused: Vec::new(),
            hz: HZ,
            clock_offset_ns: CLOCK.offset_ns,
            keepalive_timer: "sock.sk_timer".to_owned(),
            ring_bytes: 4096,
            live_answers: false,
            filters: BTreeMap::new(),
        },
        pid: None,
        count: None,
        layout: vec![1, 2, 3],
    }
}

/// A sink whose contents can be read.
#[derive(Clone, Default)]
struct SharedBytes(Arc<Mutex<Vec<u8>>>);

impl SharedBytes {
    fn output(&self) -> Vec<Box<dyn Output>> {
        let format = Format::of(true, false, TimeZone::UTC);
        let writer = self.clone();
        vec![Box::new(Lines { format, writer })]
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for SharedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn destination(path: &Path, limits: Limits, force: bool) -> Destination {
    Destination {
        path: path.to_owned(),
        limits,
        force,
    }
}

fn create(path: &Path, limits: Limits, force: bool) -> Result<Recorder> {
    destination(path, limits, force).begin(header())
}

const ANY: Limits = Limits {
    size: None,
    files: 3,
    rate: None,
    compressed: false,
};

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keepalive-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Begins a recorded trace, and what it prints.
fn begin(path: &Path, limits: Limits) -> (SharedBytes, Pipeline<Recorded>) {
    let shown = SharedBytes::default();
    let recorder = create(path, limits, false).unwrap();
    let pipeline = Pipeline::start(
        header().start,
        Recorded::default(),
        Wanted::default(),
        shown.output(),
        Some(recorder),
    );
    (shown, pipeline.unwrap())
}

/// Records a live trace of these records, with a flush after each; returns its output.
fn live(path: &Path, limits: Limits, records: &[Record]) -> String {
    let (shown, mut pipeline) = begin(path, limits);
    let mut older = records[0].id;
    (older.sk, older.cookie) = (7, 7);
    pipeline.seed(&older, START, None).unwrap();
    for (number, record) in records.iter().enumerate() {
        if number == 2 {
            let process = Process {
                pid: 4711,
                comm: "evil\u{1b}[31m".to_owned(),
            };
            pipeline.owners.set_process(77, Some(process));
            pipeline.owners.set_cgroup(5, Some("/system.slice"));
        }
        let mut record = *record;
        (record.id.inode, record.id.cgroup) = (77, 5);
        pipeline.record(&record).unwrap();
        pipeline.flush().unwrap();
    }
    let when = CLOCK.at(START + 9_000_000_000);
    let lost = Lost {
        probes: 0,
        when,
        count: 3,
        place: LostWhere::Ring,
    };
    pipeline.lost(lost).unwrap();
    pipeline.finish(when).unwrap();
    shown.text()
}

/// Replays a recording; returns the output and the result.
pub fn replayed(bytes: &[u8]) -> (String, Result<ReplayStats>) {
    let shown = SharedBytes::default();
    let outcome = Reader::new(bytes).and_then(|reader| {
        let recording = Recording {
            name: "x.kar".to_owned(),
            reader,
            length: None,
        };
        play(
            vec![recording],
            Wanted::default(),
            shown.output(),
            &mut |_| {},
        )
    });
    (shown.text(), outcome)
}

#[test]
fn a_replay_prints_what_the_trace_printed() {
    let directory = Directory::new("again");
    for compressed in [false, true] {
        let path = directory.file(if compressed { "zstd.kar" } else { "plain.kar" });
        let shown = live(&path, Limits { compressed, ..ANY }, &story());
        let (again, outcome) = replayed(&fs::read(&path).unwrap());
        assert_eq!(outcome.unwrap().cut, None);
        assert_eq!(again, shown);
        assert!(
            shown.contains("4711") && shown.contains("system.slice"),
            "{shown}"
        );
        assert!(shown.contains("keepalive_probes"), "{shown}");
    }
}

/// Everything complete before the cut is replayed, and the cut is reported.
#[test]
fn a_truncated_recording_is_replayed_up_to_the_cut() {
    let directory = Directory::new("cut");
    let path = directory.file("x.kar");
    let shown = live(&path, ANY, &story());
    let bytes = fs::read(&path).unwrap();
    let header = 20 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut most = 0;
    for length in 0..bytes.len() {
        let (text, outcome) = replayed(&bytes[..length]);
        if length < header {
            let error = format!("{:#}", outcome.unwrap_err());
            assert!(
                error.contains("truncated") || error.contains("not a keepalive recording"),
                "{error}"
            );
            continue;
        }
        let cut = outcome.unwrap().cut.expect("a truncated file is reported");
        assert!(cut.contains("truncated at byte"), "{cut}");
        let events = same_beginning(&text, &shown);
        assert!(events >= most, "a longer file replays fewer events");
        most = events;
    }
    // The last block has the loss and the end.
    assert_eq!(most, shown.lines().count() - 2);
}

/// The number of equal lines at the beginning. Only the end, and lines that are printed late at the end,
/// may differ.
fn same_beginning(text: &str, shown: &str) -> usize {
    let same = text.lines().zip(shown.lines());
    let same = same.take_while(|(line, live)| line == live).count();
    for line in text.lines().skip(same) {
        let late = ["closed", "end"].map(|kind| format!("{{\"event\":\"{kind}\""));
        assert!(late.iter().any(|late| line.starts_with(late)), "{line}");
    }
    assert!(same + 2 >= text.lines().count());
    same
}

/// Every changed byte is detected, and the position is reported.
#[test]
fn damage_is_detected_and_located() {
    let directory = Directory::new("damage");
    let path = directory.file("x.kar");
    let shown = live(&path, ANY, &story());
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let (text, outcome) = replayed(&damaged);
        match outcome {
            Err(error) => {
                let error = format!("{error:#}");
                let known = [
                    "byte",
                    "header",
                    "version",
                    "not a keepalive recording",
                    "records have",
                ];
                assert!(
                    known.iter().any(|word| error.contains(word)),
                    "{at}: {error}"
                );
            }
            // A larger length field looks like a truncated file.
            Ok(stats) => assert!(stats.cut.is_some(), "byte {at}: damage not detected"),
        }
        same_beginning(&text, &shown);
    }
}

#[test]
fn files_of_one_trace_are_replayed_in_order() {
    let directory = Directory::new("rotate");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        files: 20,
        ..ANY
    };
    let shown = live(&path, limits, &story());
    let files = |numbers: std::ops::Range<u32>| -> Vec<PathBuf> {
        let name = |number| match number {
            0 => path.clone(),
            number => directory.file(&format!("x.kar.{number}")),
        };
        numbers.map(name).filter(|path| path.exists()).collect()
    };
    let all = files(0..20);
    assert!(all.len() > 3, "{all:?}");
    let again = SharedBytes::default();
    let recordings = open_all(&all).unwrap();
    let outcome = play(recordings, Wanted::default(), again.output(), &mut |_| {}).unwrap();
    assert_eq!((again.text(), outcome.cut), (shown, None));
    // The last file alone is readable as well; the same one twice is an error.
    assert!(open_all(&all[..1]).is_ok());
    let twice = [all[0].clone(), all[0].clone()];
    let error = open_all(&twice).err().expect("twice").to_string();
    assert!(error.contains("does not continue"), "{error}");
}

#[test]
fn old_files_are_removed_and_others_are_not_overwritten() {
    let directory = Directory::new("keep");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        files: 2,
        ..ANY
    };
    live(&path, limits, &story());
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 2);
    let error = create(&path, ANY, false).err().unwrap();
    assert!(error.to_string().contains("not overwritten"), "{error}");
}

#[test]
fn records_above_the_rate_are_counted() {
    let directory = Directory::new("rate");
    let limits = Limits {
        rate: Some(2),
        ..ANY
    };
    let path = directory.file("x.kar");
    let mut recorder = create(&path, limits, false).unwrap();
    let records = story();
    let admitted = records.iter().filter(|record| {
        let mut record = **record;
        record.after.time = START;
        recorder.admits(&record)
    });
    assert_eq!(admitted.count(), 2);
    assert_eq!(recorder.take_dropped(), story().len() as u64 - 2);
    assert_eq!(recorder.take_dropped(), 0);
}

/// A recording that another trace is still writing is not overwritten, with `--force` either.
#[test]
fn a_recording_in_use_is_not_overwritten() {
    let directory = Directory::new("locked");
    let path = directory.file("a.kar");
    let recorder = create(&path, ANY, false).unwrap();
    let error = destination(&path, ANY, true)
        .check()
        .unwrap_err()
        .to_string();
    assert!(error.contains("being written by another"), "{error}");
    drop(recorder);
    create(&path, ANY, true).unwrap();
}
