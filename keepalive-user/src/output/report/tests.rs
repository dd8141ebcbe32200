//! Reports of a fixed story, and of one with hostile text.

mod crowds;

use std::{fs, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::tz::Offset;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{mark::Mark, outcome::Outcome, *};
use crate::{
    core::{
        event::{
            Backend, Cgroup, End, Finding, Losses, Process, Severity, SocketEvent, Start,
            WindowProbe,
        },
        ledger::Counts,
    },
    output::tests::{CLOCK, SECOND, events, story},
};

fn start() -> Event {
    Event::Start(Box::new(Start {
        when: CLOCK.at(1000 * SECOND),
        schema_version: String::new(),
        version: "0".to_owned(),
        host: Some("db7".to_owned()),
        kernel: "6.1.0".to_owned(),
        backend: Backend::Fentry,
        refused: Vec::new(),
        hz: 250,
        clock_offset_ns: CLOCK.offset_ns,
        keepalive_timer: String::new(),
        ring_bytes: 0,
        live_answers: false,
        filters: std::collections::BTreeMap::new(),
    }))
}

fn end(events: &[Event], seconds: u64) -> Event {
    let mut counts = Counts::default();
    events.iter().for_each(|event| counts.add(event));
    Event::End(End {
        when: CLOCK.at((1000 + seconds) * SECOND),
        duration_ms: seconds * 1000,
        sockets: counts.sockets(),
        events: counts.events,
        decisions: counts.decisions(),
        causes: counts.causes(),
        lost: Losses::default(),
        missed: crate::core::event::MissedCounts::default(),
        cut: None,
    })
}

/// The events between a beginning and an end, two hours east of Greenwich.
fn model(events: &[Event], seconds: u64) -> Model {
    let zone = TimeZone::fixed(Offset::constant(2));
    let mut model = Model::new(zone);
    model.add(&start());
    events.iter().for_each(|event| model.add(event));
    model.add(&end(events, seconds));
    model.finish();
    model
}

fn page(model: &Model) -> String {
    page::page(model, &model.worst_first(), None).unwrap()
}

/// The data of the page.
fn data(page: &str) -> Value {
    let begin = "<script id=\"data\" type=\"application/json\">";
    let (_, rest) = page.split_once(begin).unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

/// Renders all formats of any events.
pub fn all_kinds(events: &[Event]) {
    let model = model(events, 10);
    let worst_first = model.worst_first();
    data(&page(&model));
    let mut sheets = vec![picture::overview(&model, &worst_first)];
    sheets.extend(worst_first.first().map(|story| picture::one(&model, story)));
    for sheet in sheets {
        roxmltree::Document::parse(&sheet.svg()).unwrap();
    }
}

fn words(sheet: &picture::Sheet) -> Vec<String> {
    let svg = sheet.svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| node.text().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn folds_the_story() {
    let model = model(&events(&story()), 5);
    let [story] = model.worst_first()[..] else {
        panic!("not one socket");
    };
    let history = &story.history;
    assert_eq!(story.outcome(), Outcome::TimedOut);
    assert_eq!(story.verdict(), "killed: probes unanswered");
    assert_eq!((history.timers, history.probes, history.answers), (4, 3, 1));
    assert_eq!(
        (history.unanswered(), history.worst_rtt_us),
        (2, Some(40_000))
    );
    assert_eq!(
        (history.longest_silence_ms, history.limit_ms),
        (Some(2960), Some(2960))
    );
    let marks: Vec<Mark> = story.moments().map(|moment| moment.mark).collect();
    assert_eq!(
        marks,
        [
            Mark::Armed,
            Mark::Probe,
            Mark::Answer,
            Mark::Probe,
            Mark::AnotherProbe,
            Mark::TimedOut,
            Mark::TimedOut
        ]
    );
    // One death, though the timer and the certificate report it.
    assert_eq!(model.heat[&Mark::TimedOut].iter().sum::<u64>(), 1);
    let texts: Vec<String> = story
        .moments()
        .map(|it| model.sentences.text(&it.words))
        .collect();
    assert_eq!(texts[2], "probe 1 answered after 40 ms");
    assert!(texts[6].contains("peer at 02:00:01"), "{}", texts[6]);
}

#[test]
fn the_worst_headline_comes_first() {
    let all = events(&story());
    let texts = |model: &Model| {
        let headlines = headline::headlines(model, &model.worst_first());
        headlines
            .into_iter()
            .map(|headline| headline.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(&model(&all, 5)),
        [
            "1 connection killed by keepalive: no answer to the last probes",
            "1 probe was answered, after 40 ms"
        ]
    );
    // Before the end one probe is out, which is normal; two are a problem.
    assert_eq!(texts(&model(&all[..4], 2))[0], "No problems found.");
    assert_eq!(
        texts(&model(&all[..5], 3))[0],
        "1 socket open, with unanswered probes at the end"
    );
    assert_eq!(
        texts(&model(&[], 1)),
        ["No keepalive timer ran, and nothing was armed."]
    );
}

#[test]
fn pictures_contain_their_texts() {
    let model = model(&events(&story()), 5);
    let worst_first = model.worst_first();
    let overview = words(&picture::overview(&model, &worst_first));
    for text in [
        "1 connection killed by keepalive: no answer to the last probes",
        "db7  ·  Linux 6.1.0  ·  fentry  ·  2026-01-01 02:00:00 – 02:00:05 UTC+02:00",
        "10.0.0.1:22 → 10.0.0.9:51514",
        "killed: probes unanswered",
        "each cell is 50 ms",
        "1 value: 40 ms",
        "75 %",
    ] {
        assert!(
            overview.iter().any(|texts| texts == text),
            "{text}: {overview:#?}"
        );
    }
    let one = words(&picture::one(&model, worst_first[0]));
    for text in [
        "probe 2/2 sent, no segment from the peer for 1.9 s, next in 1 s, dead at 02:00:04 unless answered",
        "Over time",
        "02:00:02",
    ] {
        assert!(one.iter().any(|texts| texts == text), "{text}: {one:#?}");
    }
    // Each mark is on the line, and beside its sentence.
    let svg = picture::one(&model, worst_first[0]).svg();
    assert_eq!(svg.matches("<use ").count(), 2 * 7);
}

/// The names of processes, cgroups and rules become text, never markup.
#[test]
fn hostile_text_stays_text() {
    let hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u{2028}\u{202e}'\"&\
         \"DATA\"/*SCRIPT*/<!--LANES-->POLICY";
    let mut all = events(&story());
    for event in &mut all {
        let owner = event.owner().unwrap();
        *owner.process = Some(Arc::new(Process {
            pid: 1,
            comm: hostile.to_owned(),
        }));
        *owner.cgroup = Some(Arc::new(Cgroup {
            id: 1,
            path: Some(hostile.to_owned()),
        }));
        *owner.container_id = Some(hostile.into());
    }
    all.push(Event::Finding(Box::new(Finding {
        when: CLOCK.at(1000 * SECOND),
        rule: hostile.to_owned(),
        severity: Severity::Critical,
        socket: None,
        process: None,
        container_id: None,
        netns: 1,
        evidence: hostile.to_owned(),
        consequence: hostile.to_owned(),
        remedy: hostile.to_owned(),
    })));
    let model = model(&all, 5);
    let page = page(&model);
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img"));
    // Placeholders within names are not replaced.
    assert_eq!(page.matches("\"use strict\"").count(), 1);
    assert_eq!(page.matches("default-src").count(), 1);
    assert!(!page.contains(['\u{2028}', '\u{202e}']));
    let data = data(&page);
    let owner = data["sockets"][0]["owner"].as_str().unwrap();
    assert!(owner.starts_with("</script><script>alert(1)"), "{owner}");
    assert_eq!(data["rules"][0][2], 1);
    for sheet in [
        picture::overview(&model, &model.worst_first()),
        picture::one(&model, model.worst_first()[0]),
    ] {
        let svg = sheet.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let names = document.descendants().map(|node| node.tag_name().name());
        assert!(
            names
                .into_iter()
                .all(|name| name != "script" && name != "img")
        );
    }
}

/// The policy allows only the script and the style of the page.
#[test]
fn the_policy_has_the_hashes_of_the_page() {
    let page = page(&model(&events(&story()), 5));
    let within = |begin: &str, end: &str| {
        let (_, rest) = page.split_once(begin).unwrap();
        let text = rest.split_once(end).unwrap().0;
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
    };
    let (_, rest) = page
        .split_once("Content-Security-Policy\" content=\"")
        .unwrap();
    let policy = rest.split_once('"').unwrap().0;
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for hash in [
        within("<script>", "</script>"),
        within("<style>", "</style>"),
    ] {
        assert!(policy.contains(&hash), "{policy} has no {hash}");
    }
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "url(//", "@import", " src="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// A window that closes, opens, closes again, and ends the connection.
#[test]
fn zero_windows_are_phases() {
    let all = events(&story());
    let Event::Timer(timer) = &all[1] else {
        panic!("{:?}", all[1]);
    };
    let probe = |second: u64, next_ms: Option<u64>| {
        Event::WindowProbe(SocketEvent {
            when: CLOCK.at((1000 + second) * SECOND),
            socket: timer.socket.clone(),
            process: None,
            cgroup: None,
            container_id: None,
            keepalive: timer.keepalive,
            what: WindowProbe {
                probes_out: timer.what.probes_out,
                backoff: 1,
                unsent_bytes: 1000,
                sent: Some(true),
                send_error: None,
                outage: None,
                next_ms,
                death: None,
            },
        })
    };
    let phases = |events: &[Event], seconds: u64| {
        let model = model(events, seconds);
        let story = model.worst_first()[0];
        let phases = story.windows.phases().iter();
        let phases: Vec<_> = phases
            .map(|it| (it.from / SECOND, it.to / SECOND))
            .collect();
        (phases, story.verdict())
    };
    let all = [10, 11, 13, 17].map(|second| probe(second, Some(4000)));
    // The next probe is due after 4 s, and may be late.
    let (seen, verdict) = phases(&all, 20);
    assert_eq!(
        (seen, verdict.as_str()),
        (vec![(10, 20)], "open: zero window")
    );
    let (seen, verdict) = phases(&all, 60);
    assert_eq!(
        (seen, verdict.as_str()),
        (vec![(10, 17)], "open: 3 probes unanswered earlier")
    );
    let again = [&all[..], &[probe(40, Some(1000)), probe(41, None)]].concat();
    assert_eq!(phases(&again, 60).0, [(10, 17), (40, 41)]);
}

#[test]
fn an_unknown_suffix_is_a_usage_error() {
    for name in [
        "report",
        "report.pdf",
        "report.png",
        ".html",
        "report.html.gz",
    ] {
        let error = Report::format(Path::new(name)).err().unwrap();
        assert_eq!(crate::core::exit::code(&error), Exit::Usage, "{name}");
        assert!(error.to_string().contains(".html or .svg"), "{error}");
    }
}

fn open(path: &Path, force: bool) -> Result<Report> {
    let format = Report::format(path)?;
    let file = crate::machine::files::NewFile::plan(path, force)?;
    let save = Box::new(move |contents: &[u8]| file.write(contents));
    Ok(Report::begin(format, None, TimeZone::UTC, save))
}

/// The file is written at the end, completely, and no other file is left.
#[test]
fn a_report_is_complete_or_absent() {
    let directory = std::env::temp_dir().join(format!("keepalive-report-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let there = || {
        let mut names: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let all = events(&story());
    for name in ["report.html", "report.svg"] {
        let path = directory.join(name);
        fs::write(&path, "older").unwrap();
        let before = there();
        let mut report = open(&path, true).unwrap();
        report.event(&start()).unwrap();
        all.iter().for_each(|event| report.event(event).unwrap());
        assert_eq!(
            (fs::read(&path).unwrap(), there()),
            (b"older".to_vec(), before.clone())
        );
        report.event(&end(&all, 5)).unwrap();
        assert!(fs::read(&path).unwrap().len() > 5000, "{name}");
        assert_eq!(there(), before);
    }
    let nowhere = directory.join("none").join("report.html");
    let error = open(&nowhere, false).err().unwrap();
    assert!(error.to_string().contains("none/report.html"), "{error}");
    assert!(open(&directory.join("d.html"), false).is_ok());
    fs::create_dir(directory.join("d.html")).unwrap();
    assert!(open(&directory.join("d.html"), false).is_err());
    fs::remove_dir_all(&directory).unwrap();
}
