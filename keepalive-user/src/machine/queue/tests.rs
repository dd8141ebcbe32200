//! The queue with readers that are fast, slow, stopped and closed.

use std::{
    io::{BufRead, BufReader, PipeReader, Read, pipe},
    os::fd::OwnedFd,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn queue(limit: usize) -> (Queue, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let file = File::from(OwnedFd::from(writer));
    let policy = Policy::of(&file);
    assert_eq!(policy, Policy::Drop);
    (Queue::with_limit(file, policy, limit), reader)
}

fn line(number: usize) -> Vec<u8> {
    format!("{number:>99}\n").into_bytes()
}

/// Waits until all accepted lines are written.
fn drained(queue: &Queue) {
    let begin = Instant::now();
    while !queue.is_idle() {
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_reader_that_reads_gets_every_line_in_order() {
    let (mut queue, reader) = queue(1 << 14);
    let reading = thread::spawn(move || {
        BufReader::new(reader)
            .lines()
            .map(|line| line.unwrap().trim().parse().unwrap())
            .collect::<Vec<usize>>()
    });
    for number in 0..5000 {
        queue.offer(&line(number)).unwrap();
        if number % 7 == 0 {
            queue.flush().unwrap();
        }
        if number % 50 == 0 {
            queue.flush().unwrap();
            drained(&queue);
        }
    }
    assert_eq!(queue.finish(PATIENCE).unwrap(), Finished::Written);
    assert_eq!(queue.take_missed().lines, 0);
    drop(queue);
    assert_eq!(reading.join().unwrap(), (0..5000).collect::<Vec<_>>());
}

#[test]
fn a_stopped_reader_misses_whole_lines_and_they_are_counted() {
    const LINES: usize = 5000;
    let (mut queue, reader) = queue(1 << 16);
    for number in 0..LINES {
        queue.offer(&line(number)).unwrap();
        queue.flush().unwrap();
    }
    assert_eq!(queue.take_missed().lines, 0, "reported while it is full");
    // It reads again: the gap is reported before the next line.
    let reading = thread::spawn(move || {
        BufReader::new(reader)
            .lines()
            .map(|line| line.unwrap().trim().parse().unwrap())
            .collect::<Vec<usize>>()
    });
    let begin = Instant::now();
    let missed = loop {
        match queue.take_missed().lines {
            0 => assert!(begin.elapsed() < PATIENCE),
            missed => break missed,
        }
        thread::sleep(Duration::from_millis(1));
    };
    queue.offer(&line(LINES)).unwrap();
    assert_eq!(queue.finish(PATIENCE).unwrap(), Finished::Written);
    drop(queue);
    let read = reading.join().unwrap();
    let (last, before) = read.split_last().unwrap();
    assert_eq!(*last, LINES);
    assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    assert_eq!(missed as usize, LINES - before.len());
    assert!(missed > 0);
}

#[test]
fn what_a_stopped_reader_does_not_take_is_abandoned_in_time() {
    let (mut queue, mut reader) = queue(1 << 20);
    for number in 0..2000 {
        queue.offer(&line(number)).unwrap();
    }
    let begin = Instant::now();
    let Finished::Abandoned(lines) = queue.finish(Duration::from_millis(100)).unwrap() else {
        panic!("more than fits into a pipe");
    };
    assert!(begin.elapsed() >= Duration::from_millis(100));
    assert!((1..=2000).contains(&lines), "{lines}");
    drop(queue);
    let mut all = Vec::new();
    // The thread continues as soon as the reader reads.
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 2000 * 100);
}

#[test]
fn a_reader_that_has_gone_is_a_broken_pipe_each_time() {
    let (mut queue, reader) = queue(1 << 20);
    drop(reader);
    queue.offer(&line(0)).unwrap();
    queue.flush().unwrap();
    let begin = Instant::now();
    let error = loop {
        assert!(begin.elapsed() < PATIENCE);
        if let Err(error) = queue.flush() {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let error = queue.finish(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_last_lines_are_taken_even_by_a_full_queue() {
    let (mut queue, mut reader) = queue(1 << 12);
    for number in 0..2000 {
        queue.offer(&line(number)).unwrap();
        queue.flush().unwrap();
    }
    queue.force();
    let missed = queue.take_missed().lines as usize;
    assert!(missed > 0);
    queue.offer(b"end\n").unwrap();
    queue.flush().unwrap();
    drop(queue);
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("\nend\n"));
    assert_eq!(all.lines().count(), 2000 - missed + 1);
}

#[test]
fn a_slow_reader_gets_the_end_and_what_was_cut_is_counted() {
    const LINES: usize = 5000;
    let (mut queue, mut reader) = queue(1 << 20);
    for number in 0..LINES {
        queue.offer_probes(&line(number), 1).unwrap();
    }
    queue.settle(Duration::from_millis(50)).unwrap();
    queue.force();
    let MissedLines {
        lines: missed,
        probes,
    } = queue.take_missed();
    assert!(missed > 0);
    assert_eq!(missed, probes);
    queue.offer(b"end\n").unwrap();
    let reading = thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    assert_eq!(queue.finish(PATIENCE).unwrap(), Finished::Written);
    drop(queue);
    let all = reading.join().unwrap();
    assert!(all.ends_with("\nend\n"));
    assert_eq!(all.lines().count() as u64, LINES as u64 - missed + 1);
}

#[test]
fn a_regular_file_misses_nothing() {
    let path = std::env::temp_dir().join(format!("keepalive-queue-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let policy = Policy::of(&file);
    assert_eq!(policy, Policy::Wait);
    // The limit is so small that every line waits for the one before.
    let mut queue = Queue::with_limit(file, policy, 100);
    for number in 0..500 {
        queue.offer(&line(number)).unwrap();
        queue.flush().unwrap();
    }
    assert_eq!(queue.finish(PATIENCE).unwrap(), Finished::Written);
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(written.lines().count(), 500);
}
