//! A trace during which the host is suspended, its wall clock is set, and sysctls are changed.

use super::*;
use crate::{
    core::{
        clock::{ClockWatch, Reading},
        event::Sysctls,
    },
    machine::recorder::open_all,
};

const SECOND: u64 = 1_000_000_000;

/// The clocks at a time, after this much suspend and steps of the wall clock, seconds.
fn clocks(at: u64, suspended: i64, set: i64) -> Reading {
    let second = SECOND.cast_signed();
    Reading {
        at,
        realtime_ns: CLOCK.offset_ns + (suspended + set) * second,
        boottime_ns: suspended * second,
        uncertainty_ns: 100,
    }
}

/// The records of [`story`], with the clocks read before each: after the second one the host was
/// suspended for an hour, after the third one the wall clock was set back.
fn trace(path: &Path, limits: Limits) -> String {
    let (shown, mut pipeline) = begin(path, limits);
    let mut watch = ClockWatch::new(clocks(START, 0, 0));
    for (number, record) in story().iter().enumerate() {
        let (suspended, set) = (
            if number > 1 { 3600 } else { 0 },
            if number > 2 { -7 } else { 0 },
        );
        let reading = clocks(record.after.time - 1000, suspended, set);
        if let Some(change) = watch.observe(reading) {
            pipeline.clock_changed(&change).unwrap();
        }
        pipeline.record(record).unwrap();
        pipeline.flush().unwrap();
    }
    let at = |second| pipeline.clock().at(START + second * SECOND);
    let (changed, end) = (at(8), at(9));
    let mut sysctls = Sysctls {
        time_ms: 7_200_000,
        interval_ms: 75_000,
        probes: 9,
        retries2: 15,
    };
    pipeline.polled_sysctls(77, &sysctls, START + 5 * SECOND);
    sysctls.probes = 3;
    pipeline.polled_sysctls(77, &sysctls, START + 6 * SECOND);
    pipeline.report_sysctls(changed).unwrap();
    pipeline.report_sysctls(changed).unwrap();
    pipeline.finish(end).unwrap();
    shown.text()
}

fn lines<'a>(text: &'a str, event: &str) -> Vec<&'a str> {
    let kind = format!(r#"{{"event":"{event}""#);
    text.lines().filter(|it| it.starts_with(&kind)).collect()
}

#[test]
fn times_are_right_after_a_suspend_and_a_step() {
    let directory = Directory::new("suspend");
    let path = directory.file("x.kar");
    let shown = trace(&path, ANY);
    let [suspend] = lines(&shown, "suspend")[..] else {
        panic!("{shown}");
    };
    assert!(suspend.contains(r#""duration_ms":3600000"#), "{suspend}");
    let [step] = lines(&shown, "clock_step")[..] else {
        panic!("{shown}");
    };
    assert!(step.contains(r#""step_us":-7000000"#), "{step}");
    let [sysctl] = lines(&shown, "sysctl")[..] else {
        panic!("{shown}");
    };
    assert!(
        sysctl.contains(r#""netns":77,"name":"tcp_keepalive_probes","old":9,"new":3"#),
        "{sysctl}"
    );
    let [end] = lines(&shown, "end")[..] else {
        panic!("{shown}");
    };
    assert!(
        end.contains(r#""suspend":1,"clock_step":1,"sysctl":1"#),
        "{end}"
    );
    // 2026-01-01 00:00:00 is the time of the start, and the story takes seconds.
    let time = |line: &str| line.split(r#""timestamp":""#).nth(1).unwrap()[..17].to_owned();
    let times: Vec<_> = shown.lines().map(time).collect();
    assert!(times[0].starts_with("2026-01-01T00:00:"), "{times:?}");
    assert!(time(suspend).starts_with("2026-01-01T01:00:"), "{suspend}");
    assert!(time(end).starts_with("2026-01-01T01:00:"), "{end}");
    let (again, outcome) = replayed(&fs::read(&path).unwrap());
    assert_eq!(outcome.unwrap().cut, None);
    assert_eq!(again, shown);
}

/// A later file repeats the offsets and not the events, and can be replayed on its own.
#[test]
fn each_file_has_the_offsets() {
    let directory = Directory::new("offsets");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        files: 20,
        ..ANY
    };
    let shown = trace(&path, limits);
    let mut files: Vec<_> = fs::read_dir(&directory.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() > 4, "{files:?}");
    let replayed = |files: &[PathBuf]| {
        let again = SharedBytes::default();
        let recordings = open_all(files).unwrap();
        play(recordings, Wanted::default(), again.output(), &mut |_| {}).unwrap();
        again.text()
    };
    assert_eq!(replayed(&files), shown);
    files.retain(|file| *file == path);
    let last = replayed(&files);
    assert!(lines(&last, "suspend").is_empty(), "{last}");
    let times = |text: &str| lines(text, "sysctl").concat();
    assert_eq!(times(&last), times(&shown));
}

/// The rest of a recording from which a file was deleted is replayed, and the gap is reported.
#[test]
fn the_rest_of_a_recording_is_replayed() {
    let directory = Directory::new("gap");
    let path = directory.file("x.kar");
    let limits = Limits {
        size: Some(1),
        files: 20,
        ..ANY
    };
    let shown = trace(&path, limits);
    fs::remove_file(directory.file("x.kar.2")).unwrap();
    let files: Vec<_> = fs::read_dir(&directory.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let again = SharedBytes::default();
    let recordings = open_all(&files).unwrap();
    let stats = play(recordings, Wanted::default(), again.output(), &mut |_| {}).unwrap();
    let cut = stats.cut.unwrap();
    assert!(cut.starts_with("1 file between "), "{cut}");
    assert_eq!(lines(&again.text(), "sysctl"), lines(&shown, "sysctl"));
    assert!(again.text().contains(r#""cut":"1 file between "#));
}

#[test]
fn a_deleted_file_is_reported_once() {
    let directory = Directory::new("deleted");
    let path = directory.file("x.kar");
    let mut recorder = create(&path, ANY, false).unwrap();
    assert_eq!(recorder.new_trouble(), None);
    fs::remove_file(&path).unwrap();
    let trouble = recorder.new_trouble().unwrap();
    assert!(trouble.contains("x.kar was deleted"), "{trouble}");
    assert_eq!(recorder.new_trouble(), None);
}
