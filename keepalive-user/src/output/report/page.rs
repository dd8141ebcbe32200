//! The page: one file that asks nobody for anything. What is in it was said by processes and may be
//! hostile: it is data, escaped, and becomes text in the browser, never markup.

use std::borrow::Cow;

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    charts::{self, Chart, NARROW},
    mark::LOOKS,
    model::Model,
    news::{News, news},
    story::{Fate, Moment, Phase, Story},
    svg::definitions,
    theme,
};
use crate::{
    core::{
        event::Finding,
        words::{escape, name, plural},
    },
    output::words::{losses_text, owner},
};

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("socket.js"));
/// Width of the strip over all time.
const WIDE: f64 = 1184.0;

/// All the page knows.
#[derive(Serialize)]
struct Data<'a> {
    facts: Vec<(&'static str, String)>,
    news: Vec<Said<'a>>,
    /// The beginning, milliseconds since 1970, with the offset of its zone added.
    epoch_ms: i64,
    length_ms: u64,
    bucket_ms: f64,
    buckets: usize,
    marks: Vec<Legend>,
    fates: Vec<Chip>,
    sentences: Vec<&'a str>,
    sockets: Vec<Row<'a>>,
    left_out: u64,
    /// Rule, severity, and how many there were.
    rules: Vec<(Cow<'a, str>, String, u64)>,
    findings: Vec<Found<'a>>,
    /// The socket to begin with.
    open: Option<u64>,
}

#[derive(Serialize)]
struct Said<'a> {
    tone: super::news::Tone,
    text: &'a str,
    whose: &'a str,
    fate: Option<&'static str>,
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
struct Row<'a> {
    id: u64,
    fate: &'static str,
    verdict: String,
    owner: &'a str,
    local: String,
    peer: String,
    settings: String,
    /// Where it is: cookie, namespace, cgroup, container.
    place: String,
    from: u64,
    to: u64,
    partial: bool,
    timers: u64,
    probes: u64,
    answers: u64,
    lost: u64,
    rtt: Option<u64>,
    silence: Option<u64>,
    limit: Option<u64>,
    end: Option<String>,
    /// A letter for each bucket, `.` where nothing was.
    strip: String,
    phases: Vec<(u64, u64)>,
    /// How many events are missing, and after how many of those here.
    missing: u64,
    gap: usize,
    events: Vec<Vec<Option<u64>>>,
    findings: Vec<usize>,
}

#[derive(Serialize)]
struct Found<'a> {
    rule: Cow<'a, str>,
    who: String,
    evidence: Cow<'a, str>,
    consequence: Cow<'a, str>,
    remedy: Cow<'a, str>,
}

/// The whole file.
///
/// # Errors
/// None that is known: what is written is made of numbers and text.
pub fn page(model: &Model, worst_first: &[&Story], open: Option<u64>) -> Result<String> {
    let style = theme::page() + STYLE;
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(&style),
        hash(SCRIPT)
    );
    let figures = [
        ("HEAT", charts::heat(model, WIDE), WIDE),
        ("DECISIONS", charts::decisions(model), NARROW),
        ("ANSWERS", charts::answers(model), NARROW),
        ("SILENCE", charts::silence(model), NARROW),
    ];
    let news = news(model, worst_first);
    let data = data(&serde_json::to_string(&told(
        model,
        worst_first,
        &news,
        open,
    ))?);
    let mut page = SHELL.to_owned();
    for (place, chart, width) in figures {
        page = page.replace(&format!("<!--{place}-->"), &figure(&chart, width));
    }
    page = page.replace("<!--DEFINITIONS-->", &definitions());
    page = page.replace("/*STYLE*/", &style);
    page = page.replace("/*SCRIPT*/", SCRIPT);
    page = page.replace("POLICY", &policy);
    // Last: nothing in it is replaced any more.
    Ok(page.replace("\"DATA\"", &data))
}

fn figure(chart: &Chart, width: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {:.0}\" role=\"img\">{}</svg>",
        chart.height, chart.svg.body
    )
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// JSON within a script element: nothing in it ends the element, or a line of a script.
fn data(json: &str) -> String {
    let mut data = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        match character {
            '<' => data += "\\u003c",
            '>' => data += "\\u003e",
            '&' => data += "\\u0026",
            '\u{2028}' => data += "\\u2028",
            '\u{2029}' => data += "\\u2029",
            other => data.push(other),
        }
    }
    data
}

fn told<'a>(
    model: &'a Model,
    worst_first: &[&'a Story],
    news: &'a [News],
    open: Option<u64>,
) -> Data<'a> {
    let scale = &model.scale;
    let offset = i64::from(scale.zone.to_offset(scale.start).seconds());
    Data {
        facts: facts(model),
        news: news.iter().map(said).collect(),
        epoch_ms: scale.start.as_millisecond() + offset * 1000,
        length_ms: model.length_ms(),
        bucket_ms: scale.width_ns as f64 / 1e6,
        buckets: scale.used(),
        marks: legend(model),
        fates: Fate::ALL.map(chip).into(),
        sentences: model.sentences.all.iter().map(|it| &**it).collect(),
        sockets: worst_first.iter().map(|story| row(model, story)).collect(),
        left_out: model.left_out(),
        rules: model
            .findings
            .iter()
            .map(|(rule, found)| (escape(rule), name(&found.severity), found.number))
            .collect(),
        findings: model
            .findings
            .values()
            .flat_map(|findings| &findings.kept)
            .map(found)
            .collect(),
        open,
    }
}

fn said(news: &News) -> Said<'_> {
    Said {
        tone: news.tone,
        text: &news.text,
        whose: &news.whose,
        fate: news.about.map(Fate::name),
    }
}

fn legend(model: &Model) -> Vec<Legend> {
    let looks = LOOKS.iter().map(|look| Legend {
        name: look.name,
        label: look.label,
        meaning: look.meaning,
        seen: model.heat[look.mark as usize]
            .iter()
            .any(|number| *number > 0),
    });
    looks.collect()
}

fn chip(fate: Fate) -> Chip {
    Chip {
        name: fate.name(),
        label: fate.label(),
        mark: fate.mark().look().name,
    }
}

/// What the trace was: name and value.
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
            facts.push(("Only", escape(&filters.join(", ")).into_owned()));
        }
    }
    facts.push((
        "Period",
        format!("{} {}", model.scale.period(), model.scale.zone_name()),
    ));
    facts.push(("Seen", charts::totals(model)));
    if let Some(end) = &model.end {
        let lost = losses_text(&end.lost, &end.missed).unwrap_or_else(|| "nothing".to_owned());
        facts.push(("Lost", lost));
        if end.lost.owner > 0 {
            let number = plural(end.lost.owner, "event");
            facts.push(("Owner unknown", format!("of {number}")));
        }
    }
    facts
}

fn row<'a>(model: &Model, story: &'a Story) -> Row<'a> {
    let socket = &story.socket;
    let milliseconds = |phase: &Phase| (phase.from / 1_000_000, phase.to / 1_000_000);
    Row {
        id: socket.id,
        fate: story.fate().name(),
        verdict: story.verdict(),
        owner: &story.owner,
        local: socket.local.to_string(),
        peer: socket.peer.to_string(),
        settings: story.settings(),
        place: place(story),
        from: story.from / 1_000_000,
        to: story.to / 1_000_000,
        partial: story.is_partial,
        timers: story.timers,
        probes: story.probes,
        answers: story.answers,
        lost: story.lost(),
        rtt: story.worst_rtt_us,
        silence: story.longest_silence_ms,
        limit: story.limit_ms,
        end: story.certificate(&model.scale),
        strip: story
            .strip
            .iter()
            .map(|mark| mark.map_or('.', |mark| mark.letter()))
            .collect(),
        phases: story.phases.iter().map(milliseconds).collect(),
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
    let socket = &story.socket;
    let cookie = socket.cookie.map(|cookie| format!("sk:{cookie}"));
    let cgroup = story
        .cgroup
        .as_deref()
        .map(|path| format!("cgroup {}", escape(path)));
    let container = story.container.as_deref();
    let container = container.map(|id| format!("container {}", escape(id)));
    let netns = Some(format!("network namespace {}", socket.netns));
    let parts: Vec<String> = [cookie, netns, cgroup, container]
        .into_iter()
        .flatten()
        .collect();
    parts.join(", ")
}

fn found(finding: &Finding) -> Found<'_> {
    let who = match &finding.socket {
        Some(socket) => {
            let owner = owner(finding.process.as_ref());
            format!("{owner}  {} → {}", socket.local, socket.peer)
        }
        None => format!("network namespace {}", finding.netns),
    };
    Found {
        rule: escape(&finding.rule),
        who,
        evidence: escape(&finding.evidence),
        consequence: escape(&finding.consequence),
        remedy: escape(&finding.remedy),
    }
}
