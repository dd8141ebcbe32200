//! How recordings end: by a count, with ends that were left out, at a failure.

use super::*;

/// A trace that ended by its own count (`-n`) is replayed to its end, also if that is in another file.
#[test]
fn a_replay_ends_as_the_trace_did() {
    let directory = Directory::new("count");
    for (name, size) in [("one.kar", None), ("some.kar", Some(1))] {
        let path = directory.file(name);
        let limits = Limits {
            size,
            files: 20,
            ..ANY
        };
        let count = Some(2);
        let header = Header { count, ..header() };
        let start = header.start.clone();
        let recorder = destination(&path, limits, false).begin(header).unwrap();
        let shown = SharedBytes::default();
        let wanted = Wanted {
            count,
            ..Wanted::default()
        };
        let (owners, outputs) = (Recorded::default(), shown.output());
        let mut pipeline = Pipeline::start(start, owners, wanted, outputs, Some(recorder)).unwrap();
        for record in story() {
            if !pipeline.is_done() {
                pipeline.record(&record).unwrap();
                pipeline.flush().unwrap();
            }
        }
        let when = CLOCK.at(START + 9_000_000_000);
        pipeline.unread(3, when).unwrap();
        pipeline.finish(when).unwrap();
        let others = (1..20).map(|number| directory.file(&format!("{name}.{number}")));
        let all: Vec<_> = others.filter(|path| path.exists()).chain([path]).collect();
        assert_eq!(all.len() > 1, size.is_some(), "{all:?}");
        let again = SharedBytes::default();
        let recordings = open_all(&all).unwrap();
        let stats = play(recordings, Wanted::default(), again.output(), &mut |_| {}).unwrap();
        assert_eq!((again.text(), stats.cut), (shown.text(), None));
        // Without its last file it is not whole.
        let cut = open_all(&all[..all.len() - 1]).unwrap();
        let stats = play(cut, Wanted::default(), Vec::new(), &mut |_| {}).unwrap();
        assert_eq!(stats.cut.is_some(), size.is_some());
    }
}

/// If the end of a socket is left out, a replay still holds its owner: the recording then contains that
/// another socket with the same inode has none.
#[test]
fn an_owner_does_not_outlive_an_end_that_was_left_out() {
    let directory = Directory::new("left-out");
    let path = directory.file("x.kar");
    let limits = Limits {
        rate: Some(1),
        ..ANY
    };
    let (shown, mut pipeline) = begin(&path, limits);
    let owner = Process {
        pid: 4711,
        comm: "server".to_owned(),
    };
    pipeline.owners.set_process(77, Some(owner));
    let story = story();
    let mut timer = *story
        .iter()
        .find(|record| record.kind == Kind::KeepaliveTimer)
        .unwrap();
    timer.id.inode = 77;
    let at = |mut record: Record, cookie, second: u64| {
        record.after.time = START + second * 1_000_000_000;
        record.id.cookie = cookie;
        record
    };
    let mut close = timer;
    (close.kind, close.from_state) = (Kind::Close, 1);
    for record in [at(timer, 1, 1), at(close, 1, 1), at(timer, 2, 2)] {
        pipeline.record(&record).unwrap();
    }
    pipeline.finish(CLOCK.at(START + 3_000_000_000)).unwrap();
    let (again, outcome) = replayed(&fs::read(&path).unwrap());
    outcome.unwrap();
    let owners = |text: &str| -> Vec<bool> {
        let timers = text
            .lines()
            .filter(|line| line.contains(r#""event":"timer""#));
        timers.map(|line| line.contains("4711")).collect()
    };
    assert_eq!(owners(&shown.text()), [true, false]);
    assert_eq!(owners(&again), [true, false], "{again}");
}

/// Nothing is written behind a write that failed: a torn block ends what can be read. What is printed does
/// not depend on it.
#[test]
fn a_recording_ends_at_its_first_failure() {
    /// A file that takes this many bytes, fails once, and takes any number afterwards.
    struct Full {
        left: usize,
        taken: SharedBytes,
    }
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let part = bytes.len().min(self.left);
            if part == 0 {
                self.left = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.left -= part;
            self.taken.write(&bytes[..part])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    /// Has room for one file.
    struct One(Vec<Box<dyn Write>>);
    impl Storage for One {
        fn begin(&mut self) -> Result<Box<dyn Write>> {
            self.0.pop().context("no room for another file")
        }

        fn failure(&self) -> String {
            "cannot write to x.kar".to_owned()
        }
    }
    let records = story();
    let end = CLOCK.at(START + 9_000_000_000);
    // Returns what was printed, and the length of the file.
    let trace = |recording: Option<(Option<u64>, usize)>| {
        let (shown, taken) = (SharedBytes::default(), SharedBytes::default());
        let length = || taken.0.lock().unwrap().len();
        let recorder = recording.map(|(size, left)| {
            let taken = taken.clone();
            let storage = One(vec![Box::new(Full { left, taken })]);
            let limits = Limits { size, ..ANY };
            Recorder::new(Box::new(storage), limits, header()).unwrap()
        });
        let (start, owners) = (header().start, Recorded::default());
        let mut pipeline =
            Pipeline::start(start, owners, Wanted::default(), shown.output(), recorder).unwrap();
        let (mut failures, mut after) = (0, None);
        for record in &records {
            let outcomes = [pipeline.record(record), pipeline.flush()];
            failures += outcomes.iter().filter(|outcome| outcome.is_err()).count();
            if failures > 0 {
                assert_eq!(*after.get_or_insert_with(length), length());
            }
        }
        assert_eq!(failures, usize::from(recording.is_some()), "reported once");
        pipeline.finish(end).unwrap();
        assert_eq!(after.unwrap_or_default(), length());
        (shown.text(), length())
    };
    let (unrecorded, _) = trace(None);
    // The next file cannot begin: this one ends with `Continued`.
    let (shown, whole) = trace(Some((Some(1), usize::MAX - 1)));
    assert_eq!(shown, unrecorded);
    let (shown, torn) = trace(Some((None, whole - 30)));
    assert_eq!((shown, torn), (unrecorded, whole - 30));
}
