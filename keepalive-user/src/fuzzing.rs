//! # Entry points for fuzzing
//!
//! Each accepts any bytes where the program reads untrusted input: it must return, in bounded
//! time and memory, and the output must satisfy the assertions here.

use std::{cell::RefCell, io, path::Path, rc::Rc};

use anyhow::Result;
use jiff::tz::TimeZone;
use keepalive_ebpf::{Known, Settings};

use crate::{
    core::{
        clock::Clock,
        event::Event,
        pipeline::{Output, Wanted},
        recording::{Reader, VERSION},
        replay::{Recording, play},
        rows,
        rules::Ignore,
    },
    machine::{
        bpf::{btf::Btf, layout},
        listing,
    },
    output::{Format, Lines, Report},
};

/// Bytes as the contents of a block after a valid header: a recording of each version.
pub fn as_recordings(block: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const SOUND: [&[u8]; VERSION as usize] = [
        include_bytes!("../tests/recordings/v1.kar"),
        include_bytes!("../tests/recordings/v2.kar"),
        include_bytes!("../tests/recordings/v3.kar"),
    ];
    // Magic, version, length and checksum.
    const PREFIX: usize = 20;
    let length = (block.len() as u32).to_le_bytes();
    let checksum = crc32fast::hash(block).to_le_bytes();
    SOUND.into_iter().map(move |sound| {
        let header = sound[12..16].first_chunk().copied().map(u32::from_le_bytes);
        let header = &sound[..PREFIX + header.unwrap_or_default() as usize];
        let parts: [&[u8]; 5] = [header, &length, &length, &checksum, block];
        parts.concat()
    })
}

/// A sink that keeps its input.
#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(json: bool, writer: impl io::Write + 'static) -> Vec<Box<dyn Output>> {
    let format = Format::of(json, false, TimeZone::UTC);
    vec![Box::new(Lines { format, writer })]
}

/// Replays any bytes as a recording, without an output; returns the number of records.
///
/// # Errors
/// If the recording is invalid.
pub fn fold(bytes: &[u8]) -> Result<u64> {
    fold_into(bytes, lines(true, io::sink()))
}

fn fold_into(bytes: &[u8], outputs: Vec<Box<dyn Output>>) -> Result<u64> {
    let recording = Recording {
        name: "recording".to_owned(),
        reader: Reader::new(bytes)?,
        length: None,
    };
    let stats = play(vec![recording], Wanted::default(), outputs, &mut |_| {})?;
    Ok(stats.records)
}

/// A recording as text: it contains no character that a terminal interprets.
///
/// # Errors
/// If the recording is invalid.
pub fn text(bytes: &[u8]) -> Result<()> {
    let kept = Kept::default();
    let outcome = fold_into(bytes, lines(false, kept.clone()));
    let text = String::from_utf8(kept.0.take())?;
    let harmful =
        |c: char| c != '\n' && crate::core::format::escape(c.encode_utf8(&mut [0; 4])).len() > 4;
    assert!(
        !text.contains(harmful),
        "control character in the output: {text:?}"
    );
    outcome.map(drop)
}

/// A recording as JSON lines: each of them is valid JSON.
///
/// # Errors
/// If the recording is invalid.
pub fn json(bytes: &[u8]) -> Result<()> {
    let kept = Kept::default();
    let outcome = fold_into(bytes, lines(true, kept.clone()));
    for line in kept.0.take().split(|byte| *byte == b'\n') {
        if !line.is_empty() {
            let line: serde_json::Result<serde::de::IgnoredAny> = serde_json::from_slice(line);
            assert!(line.is_ok(), "not JSON: {line:?}");
        }
    }
    outcome.map(drop)
}

/// A recording as a page and as pictures: nothing in it ends the page's script or becomes markup.
///
/// # Errors
/// If the recording is invalid.
pub fn report(bytes: &[u8]) -> Result<()> {
    let page = Kept::default();
    let kept = page.clone();
    let save = move |page: &[u8]| {
        kept.0.replace(page.to_owned());
        Ok(())
    };
    let format = Report::format(Path::new("report.html"))?;
    let report = Report::begin(format, None, TimeZone::UTC, Box::new(save));
    fold_into(bytes, vec![Box::new(Checked { report, page })]).map(drop)
}

/// A report that is checked in all formats.
struct Checked {
    report: Report,
    page: Kept,
}

impl Output for Checked {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.report.event(event)?;
        if matches!(event, Event::End(_)) {
            let page = String::from_utf8(self.page.0.take())?;
            assert_eq!(page.matches("</script>").count(), 2);
            for picture in self.report.pictures() {
                assert_eq!(picture.matches("<script").count(), 0);
                assert_eq!(picture.matches("<svg").count(), 1);
            }
        }
        Ok(())
    }
}

/// A datagram of sock_diag, and the output of `list` for the sockets in it.
pub fn netlink(datagram: &[u8]) {
    let moment = listing::Moment {
        time: u64::MAX / 2,
        netns: 1,
    };
    let clock = Clock { offset_ns: 0 };
    for mut socket in listing::sockets_of(datagram, moment) {
        // What getsockopt on the copies of the socket would return, made from the datagram.
        socket.known |= Known::SETTINGS;
        socket.settings = Settings {
            time: socket.receive_queue,
            interval: socket.send_queue,
            user_timeout: socket.uid & 0xffff,
            sysctl_retries2: socket.uid >> 24,
            ..Settings::default()
        };
        let row = rows::row(&socket, 1, 1000, &clock);
        let json = serde_json::to_vec(&row);
        assert!(json.is_ok(), "{json:?}");
    }
}

/// BTF, and the layout in it.
///
/// # Errors
/// If the BTF is invalid, or lacks a required field.
pub fn btf(bytes: &[u8]) -> Result<()> {
    let btf = Btf::parse(bytes)?;
    layout::resolve(&btf, "the kernel").map(drop)
}

/// An ignore file of `audit`.
///
/// # Errors
/// The first invalid line.
pub fn ignore_file(bytes: &[u8]) -> Result<()> {
    Ignore::lines(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// The stored corpus of a target.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let entries = fs::read_dir(directory.join(target)).unwrap();
        entries
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect()
    }

    fn all(target: &str, bytes: &[u8]) {
        match target {
            "recording" => {
                let _ = fold(bytes);
            }
            "frames" => {
                for recording in as_recordings(bytes) {
                    let _ = (json(&recording), text(&recording), report(&recording));
                }
            }
            "netlink" => netlink(bytes),
            "btf" => {
                let _ = btf(bytes);
            }
            _ => {
                let _ = ignore_file(bytes);
            }
        }
    }

    const TARGETS: [&str; 5] = ["recording", "frames", "netlink", "btf", "ignore_file"];

    /// Inputs that failed once must pass now.
    #[test]
    fn the_kept_corpus_passes() {
        for target in TARGETS {
            let kept = corpus(target);
            assert!(!kept.is_empty(), "{target}");
            kept.iter().for_each(|bytes| all(target, bytes));
        }
        let seeds = corpus("netlink");
        let moment = listing::Moment {
            time: 1 << 40,
            netns: 1,
        };
        let most = seeds
            .iter()
            .map(|seed| listing::sockets_of(seed, moment).count());
        assert!(most.max() >= Some(8), "the seeds are sockets");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A short fuzzing run: stored inputs with some bytes changed.
        #[test]
        fn changed_inputs_pass(
            seed: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        ) {
            for target in TARGETS {
                let kept = corpus(target);
                let mut bytes = seed.get(&kept).clone();
                if !bytes.is_empty() {
                    for (at, value) in &changes {
                        let at = at.index(bytes.len());
                        bytes[at] = *value;
                    }
                }
                all(target, &bytes);
            }
        }
    }
}
