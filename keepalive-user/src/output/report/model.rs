//! The data of a report: all events, folded into bounded memory.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;

use super::{
    histogram::Histogram,
    mark::Mark,
    phrase::Sentences,
    story::{Moment, Story},
    time::{BUCKETS, Scale, fold},
};
use crate::{
    core::{
        clock::Offset,
        event::{About, Decision, End, Event, Finding, Severity, Socket, Start, When},
        ledger::Seen,
    },
    output::pretty::sentence,
};

/// Stories kept; at twice as many sockets, all but the worst are dropped.
const STORIES: usize = 4096;
/// Events kept of all sockets together, and at least and at most of one socket.
const MOMENTS: usize = 60_000;
const ROOM: (usize, usize) = (16, 240);
/// Before the first event.
const BEGINNING: When = When {
    timestamp: jiff::Timestamp::UNIX_EPOCH,
    monotonic_ns: 0,
};
/// Findings kept of each rule.
const FINDINGS: usize = 500;
/// Total bytes of text of the findings that are kept.
const FINDING_BYTES: usize = 4 << 20;
/// Limit of the number of rules, for recordings; `audit` has fewer.
const RULES: usize = 100;

pub struct Model {
    zone: TimeZone,
    pub scale: Scale,
    pub start: Option<Box<Start>>,
    pub end: Option<End>,
    pub stories: FxHashMap<u64, Story>,
    seen: Seen,
    /// Events of each mark in each bucket of time.
    pub heat: BTreeMap<Mark, Vec<u64>>,
    pub decisions: BTreeMap<Decision, u64>,
    pub rtt_us: Histogram,
    pub silence_ms: Histogram,
    pub sentences: Sentences,
    /// By rule.
    pub findings: BTreeMap<String, Findings>,
    finding_bytes: usize,
}

/// The findings of one rule of `audit`.
#[derive(Clone, Debug)]
pub struct Findings {
    pub severity: Severity,
    pub number: u64,
    pub kept: Vec<Finding>,
}

impl Model {
    pub fn new(zone: TimeZone) -> Self {
        Self {
            scale: Scale::new(BEGINNING, &zone),
            zone,
            start: None,
            end: None,
            stories: FxHashMap::default(),
            seen: Seen::default(),
            heat: BTreeMap::new(),
            decisions: BTreeMap::new(),
            rtt_us: Histogram::default(),
            silence_ms: Histogram::default(),
            sentences: Sentences::default(),
            findings: BTreeMap::new(),
            finding_bytes: 0,
        }
    }

    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Start(start) => {
                let when = start.when;
                self.scale = Scale::new(when, &self.zone);
                self.start = Some(start.clone());
            }
            Event::Timer(it) => {
                *self.decisions.entry(it.what.decision).or_default() += 1;
                if let Some(silence) = it.what.idle_ms {
                    self.silence_ms.add(silence);
                }
            }
            Event::Answer(it) => {
                if let Some(rtt) = it.what.rtt_us {
                    self.rtt_us.add(rtt);
                }
            }
            Event::Armed(_) | Event::WindowProbe(_) | Event::SendRetry(_) | Event::Closed(_) => {}
            Event::Finding(finding) => self.found(finding),
            Event::Lost(lost) => self.reach(self.scale.since(lost.when.monotonic_ns)),
            Event::Missed(missed) => self.reach(self.scale.since(missed.when.monotonic_ns)),
            Event::Suspend(it) => self.clock_changed(it.when, it.clock_offset_ns),
            Event::ClockStep(it) => self.clock_changed(it.when, it.clock_offset_ns),
            Event::Sysctl(it) => self.reach(self.scale.since(it.when.monotonic_ns)),
            Event::End(end) => {
                self.reach(self.scale.since(end.when.monotonic_ns));
                self.end = Some(end.clone());
            }
        }
        if let Some(about) = event.about() {
            self.happened(about, event);
        }
    }

    fn clock_changed(&mut self, when: When, offset_ns: i64) {
        self.scale.change(Offset {
            since: when.monotonic_ns,
            offset_ns,
        });
        self.reach(self.scale.since(when.monotonic_ns));
    }

    fn found(&mut self, finding: &Finding) {
        if !self.findings.contains_key(&finding.rule) && self.findings.len() >= RULES {
            return;
        }
        let rule = self.findings.entry(finding.rule.clone());
        let findings = rule.or_insert_with(|| Findings {
            severity: finding.severity,
            number: 0,
            kept: Vec::new(),
        });
        findings.number += 1;
        let Finding {
            rule,
            evidence,
            consequence,
            remedy,
            ..
        } = finding;
        let texts = [rule, evidence, consequence, remedy];
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if findings.kept.len() < FINDINGS && self.finding_bytes + bytes <= FINDING_BYTES {
            self.finding_bytes += bytes;
            findings.kept.push(finding.clone());
        }
    }

    /// An event about a socket.
    fn happened(&mut self, about: About<'_>, event: &Event) {
        let Some(mark) = Mark::of(event) else { return };
        let since = self.scale.since(about.when.monotonic_ns);
        self.reach(since);
        let bucket = self.scale.bucket(since);
        // The `closed` event of the same death is counted instead.
        let is_same_death = mark == Mark::TimedOut && matches!(event, Event::Timer(_));
        if !is_same_death {
            let row = self.heat.entry(mark);
            row.or_insert_with(|| vec![0; BUCKETS])[bucket] += 1;
        }
        let text = sentence(event, &self.scale.zone).map_or_else(String::new, |(text, _)| text);
        let moment = Moment::new(event, mark, since, self.sentences.learn(&text));
        let id = about.socket.id;
        if self.stories.len() >= 2 * STORIES && !self.stories.contains_key(&id) {
            self.forget();
        }
        let room = self.room();
        let story = self.stories.entry(id).or_insert_with(|| {
            let is_partial = self.seen.insert(id);
            Story::new(about, since, is_partial)
        });
        story.observe(about, event, since);
        story.keep(moment, bucket, room);
    }

    /// Number of sockets without a story.
    pub fn left_out(&self) -> u64 {
        self.seen.count().saturating_sub(self.stories.len() as u64)
    }

    /// Extends the time scale to this moment.
    fn reach(&mut self, since: u64) {
        for _ in 0..self.scale.extend(since) {
            for row in self.heat.values_mut() {
                fold(row, |one, other| one + other);
                row.resize(BUCKETS, 0);
            }
            self.stories.values_mut().for_each(Story::fold);
        }
    }

    /// Number of events that are kept of each socket.
    fn room(&self) -> usize {
        (MOMENTS / self.stories.len().max(1)).clamp(ROOM.0, ROOM.1)
    }

    /// Drops all stories but the worst ones.
    fn forget(&mut self) {
        let worst: Vec<u64> = self
            .worst_first()
            .iter()
            .map(|it| it.history.socket.id)
            .collect();
        for id in &worst[STORIES.min(worst.len())..] {
            self.stories.remove(id);
        }
    }

    /// Reduces the data to the size of a page.
    pub fn finish(&mut self) {
        if self.stories.len() > STORIES {
            self.forget();
        }
        let (room, end) = (self.room(), self.scale.end_ns);
        for story in self.stories.values_mut() {
            story.shrink(room);
            if story.history.end.is_none() {
                story.windows.settle(end);
            }
        }
    }

    pub fn worst_first(&self) -> Vec<&Story> {
        let mut stories: Vec<&Story> = self.stories.values().collect();
        stories.sort_by_cached_key(|story| story.rank());
        stories
    }

    /// The findings about a socket, as indices into all findings that are kept.
    pub fn findings_about(&self, socket: &Socket) -> Vec<usize> {
        let ends = |socket: &Socket| (socket.local, socket.peer, socket.netns);
        let is = |finding: &Finding| {
            let found = finding.socket.as_ref();
            found.is_some_and(|found| {
                ends(found) == ends(socket)
                    && (found.cookie.is_none() || found.cookie == socket.cookie)
            })
        };
        let all = self.findings.values().flat_map(|findings| &findings.kept);
        let about = all.enumerate().filter(|(_, finding)| is(finding));
        about.map(|(place, _)| place).collect()
    }

    /// The end, milliseconds since the beginning; at least 1.
    pub fn length_ms(&self) -> u64 {
        (self.scale.end_ns / 1_000_000).max(1)
    }
}
