//! What the script of the page shows. Escaped: it comes from processes and may be hostile.

use std::borrow::Cow;

use serde::Serialize;
use strum::IntoEnumIterator;

use super::{
    charts,
    headline::{Headline, Tone},
    mark::Mark,
    model::Model,
    outcome::Outcome,
    story::{Moment, Story},
    time::STEPS_MS,
};
use crate::{
    core::{
        event::Finding,
        format::{escape, name, plural},
        ledger::{History, Phase},
    },
    output::words::{losses_text, owner},
};

/// The data of the page.
#[derive(Serialize)]
pub struct Data<'a> {
    facts: Vec<(&'static str, String)>,
    headlines: Vec<HeadlineData<'a>>,
    /// The beginning, milliseconds since 1970, with the offset of its zone added.
    epoch_ms: i64,
    /// From when on, milliseconds, the wall clock is ahead of that by how much.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clock_steps: Vec<(u64, i64)>,
    length_ms: u64,
    bucket_ms: f64,
    buckets: usize,
    /// Steps of a time axis.
    steps_ms: &'static [u64],
    marks: Vec<Legend>,
    outcomes: Vec<Chip>,
    sentences: Vec<&'a str>,
    sockets: Vec<Row>,
    left_out: u64,
    /// Rule, severity, and number of findings.
    rules: Vec<(Cow<'a, str>, &'static str, u64)>,
    findings: Vec<FindingData<'a>>,
    /// The socket that is opened first.
    open: Option<u64>,
}

#[derive(Serialize)]
struct HeadlineData<'a> {
    tone: Tone,
    text: &'a str,
    owners: &'a str,
    outcome: Option<&'static str>,
}

#[derive(Serialize)]
struct Legend {
    name: &'static str,
    label: &'static str,
    meaning: &'static str,
    seen: bool,
}

#[derive(Serialize)]
struct Chip {
    name: &'static str,
    label: &'static str,
    mark: &'static str,
}

/// A socket.
#[derive(Serialize)]
struct Row {
    id: u64,
    outcome: &'static str,
    verdict: String,
    owner: String,
    local: String,
    peer: String,
    settings: String,
    /// Cookie, namespace, cgroup, container.
    place: String,
    from: u64,
    to: u64,
    partial: bool,
    timers: u64,
    probes: u64,
    answers: u64,
    unanswered: u64,
    rtt: Option<u64>,
    silence: Option<u64>,
    limit: Option<u64>,
    end: Option<String>,
    /// A letter for each bucket, `.` for an empty one.
    strip: String,
    phases: Vec<(u64, u64)>,
    /// The number of events that are missing, and the index at which they are missing.
    missing: u64,
    gap: usize,
    events: Vec<Vec<Option<u64>>>,
    findings: Vec<usize>,
}

#[derive(Serialize)]
struct FindingData<'a> {
    rule: Cow<'a, str>,
    who: String,
    evidence: Cow<'a, str>,
    consequence: Cow<'a, str>,
    remedy: Cow<'a, str>,
}

pub fn all<'a>(
    model: &'a Model,
    worst_first: &[&'a Story],
    headlines: &'a [Headline],
    open: Option<u64>,
) -> Data<'a> {
    let scale = &model.scale;
    let offset = i64::from(scale.zone.to_offset(scale.start).seconds());
    Data {
        facts: facts(model),
        headlines: headlines.iter().map(headline_data).collect(),
        epoch_ms: scale.start.as_millisecond() + offset * 1000,
        clock_steps: scale.clock_steps(),
        length_ms: model.length_ms(),
        bucket_ms: scale.width_ns as f64 / 1e6,
        steps_ms: &STEPS_MS,
        buckets: scale.used(),
        marks: legend(model),
        outcomes: Outcome::iter().map(chip).collect(),
        sentences: model.sentences.all.iter().map(|it| &**it).collect(),
        sockets: worst_first.iter().map(|story| row(model, story)).collect(),
        left_out: model.left_out(),
        rules: model
            .findings
            .iter()
            .map(|(rule, found)| (escape(rule), name(found.severity), found.number))
            .collect(),
        findings: model
            .findings
            .values()
            .flat_map(|findings| &findings.kept)
            .map(finding_data)
            .collect(),
        open,
    }
}

fn headline_data(headline: &Headline) -> HeadlineData<'_> {
    HeadlineData {
        tone: headline.tone,
        text: &headline.text,
        owners: &headline.owners,
        outcome: headline.about.map(Outcome::name),
    }
}

fn legend(model: &Model) -> Vec<Legend> {
    let marks = Mark::iter().map(|mark| Legend {
        name: mark.name(),
        label: mark.label(),
        meaning: mark.meaning(),
        seen: model.heat.contains_key(&mark),
    });
    marks.collect()
}

fn chip(outcome: Outcome) -> Chip {
    Chip {
        name: outcome.name(),
        label: outcome.label(),
        mark: outcome.mark().name(),
    }
}

/// Facts about the trace: name and value.
pub fn facts(model: &Model) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(start) = &model.start {
        if let Some(host) = &start.host {
            facts.push(("Machine", escape(host).into_owned()));
        }
        facts.push(("Kernel", format!("Linux {}", escape(&start.kernel))));
        let live = if start.live_answers {
            ", live answers"
        } else {
            ""
        };
        facts.push(("Backend", format!("{}{live}", start.backend.name())));
        let filters = start
            .filters
            .iter()
            .map(|(name, value)| format!("{name} {value}"));
        let filters: Vec<String> = filters.collect();
        if !filters.is_empty() {
            facts.push(("Filters", escape(&filters.join(", ")).into_owned()));
        }
    }
    facts.push((
        "Period",
        format!("{} {}", model.scale.period(), model.scale.zone_name()),
    ));
    facts.push(("Totals", charts::totals(model)));
    if let Some(end) = &model.end {
        let lost = losses_text(end).unwrap_or_else(|| "nothing".to_owned());
        facts.push(("Lost", lost));
        if end.lost.owner > 0 {
            let number = plural(end.lost.owner, "event");
            facts.push(("Owner unresolved", format!("of {number}")));
        }
    }
    facts
}

fn row(model: &Model, story: &Story) -> Row {
    let (history, socket) = (&story.history, &story.history.socket);
    let milliseconds = |phase: &Phase| (phase.from / 1_000_000, phase.to / 1_000_000);
    Row {
        id: socket.id,
        outcome: story.outcome().name(),
        verdict: story.verdict(),
        owner: story.owner(),
        local: socket.local.to_string(),
        peer: socket.peer.to_string(),
        settings: story.settings(),
        place: place(story),
        from: story.from / 1_000_000,
        to: story.to / 1_000_000,
        partial: history.is_partial,
        timers: history.timers,
        probes: history.probes,
        answers: history.answers,
        unanswered: history.unanswered(),
        rtt: history.worst_rtt_us,
        silence: history.longest_silence_ms,
        limit: history.limit_ms,
        end: story.certificate(&model.scale),
        strip: story
            .strip
            .iter()
            .map(|mark| mark.map_or('.', |mark| mark.letter()))
            .collect(),
        phases: story.windows.phases().iter().map(milliseconds).collect(),
        missing: story.left_out,
        gap: story.kept().0.len(),
        events: story.moments().map(event).collect(),
        findings: model.findings_about(socket),
    }
}

/// When, mark, silence, round-trip time, sentence, numbers.
fn event(moment: &Moment) -> Vec<Option<u64>> {
    let first = [
        Some(moment.at / 1_000_000),
        Some(moment.mark as u64),
        moment.silence_ms,
        moment.rtt_us,
        Some(moment.words.sentence.into()),
    ];
    let numbers = moment.words.numbers.iter().copied().map(Some);
    first.into_iter().chain(numbers).collect()
}

fn place(story: &Story) -> String {
    let History {
        socket,
        cgroup,
        container_id,
        ..
    } = &story.history;
    let cookie = socket.cookie.map(|cookie| format!("sk:{cookie}"));
    let path = cgroup.as_ref().and_then(|cgroup| cgroup.path.as_deref());
    let cgroup = path.map(|path| format!("cgroup {}", escape(&shortened(path))));
    let container = container_id.as_deref();
    let container = container.map(|id| format!("container {}", escape(id)));
    let netns = Some(format!("network namespace {}", socket.netns));
    let parts: Vec<String> = [cookie, netns, cgroup, container]
        .into_iter()
        .flatten()
        .collect();
    parts.join(", ")
}

/// Limit of the path of a cgroup, bytes.
const PATH: usize = 512;

/// A path, without its beginning if it is too long: paths differ at their end.
fn shortened(path: &str) -> Cow<'_, str> {
    if path.len() <= PATH {
        return path.into();
    }
    let start = path.ceil_char_boundary(path.len() - PATH);
    format!("…{}", &path[start..]).into()
}

fn finding_data(finding: &Finding) -> FindingData<'_> {
    let who = match &finding.socket {
        Some(socket) => {
            let owner = owner(finding.process.as_ref());
            format!("{owner}  {} → {}", socket.local, socket.peer)
        }
        None => format!("network namespace {}", finding.netns),
    };
    FindingData {
        rule: escape(&finding.rule),
        who,
        evidence: escape(&finding.evidence),
        consequence: escape(&finding.consequence),
        remedy: escape(&finding.remedy),
    }
}
