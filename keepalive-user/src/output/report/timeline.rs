//! One socket over time: as a lane among others, and by itself with silence and answers.

use super::{
    charts::{Chart, nice, place, time_axis},
    mark::Mark,
    model::Model,
    story::{Moment, Story},
    svg::Svg,
    time::Scale,
};
use crate::core::words::{count, micros, millis};

/// Where time begins and ends within a picture by itself.
const LEFT: f64 = 116.0;
const SILENCE: f64 = 150.0;
const ANSWERS: f64 = 84.0;
const GAP: f64 = 34.0;

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Its marks on one line, answers above.
pub fn lane(model: &Model, story: &Story, width: f64, y: f64) -> Svg {
    let mut svg = Svg::default();
    let x = |at: u64| place(ms(at), (0.0, model.length_ms() as f64), (0.0, width));
    svg.line((0.0, y), (width, y), "grid l-line");
    svg.line((x(story.from), y), (x(story.to), y), "thick l-soft");
    for phase in story.windows.phases() {
        let size = ((x(phase.to) - x(phase.from)).max(2.0), 22.0);
        svg.hatched((x(phase.from), y - 11.0), size);
    }
    if story.left_out > 0 {
        strip(&mut svg, story, y, &model.scale, x);
    }
    for moment in in_order(story) {
        let above = if moment.mark == Mark::Answer {
            11.0
        } else {
            0.0
        };
        svg.mark(
            (x(moment.at).clamp(6.0, width - 6.0), y - above),
            moment.mark,
        );
    }
    svg
}

/// Where events were left out: the worst mark of each bucket, as a bar.
fn strip(svg: &mut Svg, story: &Story, y: f64, scale: &Scale, x: impl Fn(u64) -> f64) {
    let (head, tail) = story.kept();
    let (Some(last), Some(first)) = (head.last(), tail.front()) else {
        return;
    };
    for bucket in scale.bucket(last.at)..=scale.bucket(first.at) {
        let Some(mark) = story.strip.get(bucket).copied().flatten() else {
            continue;
        };
        let from = (bucket as u64).saturating_mul(scale.width_ns).max(last.at);
        let to = (bucket as u64 + 1)
            .saturating_mul(scale.width_ns)
            .min(first.at.max(from));
        let size = ((x(to) - x(from) - 0.5).max(0.5), 6.0);
        let class = format!("f-{}", mark.name());
        svg.rect((x(from), y - 3.0), size, &class);
    }
}

/// The least telling first, so that the others are drawn over them.
fn in_order(story: &Story) -> Vec<&Moment> {
    let mut moments: Vec<&Moment> = story.moments().collect();
    moments.sort_by_key(|moment| moment.mark);
    moments
}

/// A socket by itself: silence, timers, answers.
pub fn alone(model: &Model, story: &Story, width: f64) -> Chart {
    let mut svg = Svg::default();
    let span = (
        story.from / 1_000_000,
        (story.to / 1_000_000).max(story.from / 1_000_000 + 1),
    );
    let across = (LEFT, width - 12.0);
    let x = |at: u64| place(ms(at), (span.0 as f64, span.1 as f64), across);
    let has_answers = story.moments().any(|moment| moment.rtt_us.is_some());
    let lane = 20.0 + SILENCE + GAP;
    let answers = lane + 30.0 + GAP;
    let bottom = if has_answers {
        answers + ANSWERS
    } else {
        lane + 24.0
    };
    for phase in story.windows.phases() {
        let size = ((x(phase.to) - x(phase.from)).max(2.0), bottom - 20.0);
        svg.hatched((x(phase.from), 20.0), size);
        svg.text(
            (x(phase.from) + 4.0, 14.0),
            "s f-window_probe l-card halo",
            "zero window",
        );
    }
    silence(&mut svg, story, across, x);
    if let (Some(last), Some(first)) = (story.kept().0.last(), story.kept().1.front())
        && story.left_out > 0
    {
        let middle = (x(last.at) + x(first.at)) / 2.0;
        let words = format!("{} not kept one by one", count(story.left_out, "event"));
        svg.text(
            (middle, 20.0 + SILENCE / 2.0),
            "s f-soft m l-card halo",
            &words,
        );
        strip(&mut svg, story, lane, &model.scale, x);
    }
    svg.text((0.0, lane + 4.5), "t f-ink", "events");
    svg.line((across.0, lane), (across.1, lane), "grid l-line");
    for moment in in_order(story) {
        let above = if moment.mark == Mark::Answer {
            14.0
        } else {
            0.0
        };
        svg.mark((x(moment.at), lane - above), moment.mark);
    }
    if has_answers {
        round_trips(&mut svg, story, across, answers, x);
    }
    if let Some(mark) = story
        .history
        .cause()
        .map(|cause| Mark::of_meaning(cause.meaning()))
    {
        let class = format!("thin l-{}", mark.name());
        svg.line((x(story.to), 20.0), (x(story.to), bottom), &class);
    }
    time_axis(&mut svg, &model.scale, span, across, bottom + 8.0);
    Chart {
        svg,
        height: bottom + 34.0,
    }
}

/// How long the peer was silent: rises with time, falls when it is heard; and where the end is.
fn silence(svg: &mut Svg, story: &Story, across: (f64, f64), x: impl Fn(u64) -> f64) {
    let (top, bottom) = (20.0, 20.0 + SILENCE);
    let longest = story.history.longest_silence_ms.unwrap_or(0);
    // The end is shown if it came into sight.
    let limit = story
        .history
        .limit_ms
        .filter(|limit| *limit <= longest.saturating_mul(3));
    let unit = if longest >= 1_000 { 1_000 } else { 1 };
    let most = limit.unwrap_or(0).max(longest).max(1);
    let ceiling = nice(most.div_ceil(unit)) * unit;
    let y = |silence: u64| place(silence as f64, (0.0, ceiling as f64), (bottom, top));
    svg.text((0.0, top + 4.5), "t f-ink", "silence");
    for step in 0..=2 {
        let value = ceiling * step / 2;
        svg.line((across.0, y(value)), (across.1, y(value)), "grid l-line");
        svg.text(
            (across.0 - 8.0, y(value) + 4.0),
            "s f-soft e",
            &silent(value),
        );
    }
    for (from, to, silence) in rises(story) {
        let points = [(x(from), y(0)), (x(to), y(silence)), (x(to), y(0))];
        svg.polygon(&points, "area f-probe");
        svg.line(points[0], points[1], "thick l-probe");
    }
    if let Some(limit) = limit {
        svg.line(
            (across.0, y(limit)),
            (across.1, y(limit)),
            "dash l-timed_out",
        );
        let words = format!("dead after {}", millis(limit));
        svg.text(
            (across.0 + 6.0, y(limit) - 5.0),
            "s f-timed_out l-card halo",
            &words,
        );
    }
}

/// A length of silence, on the axis.
fn silent(ms: u64) -> String {
    match ms {
        0 => "0".to_owned(),
        ms => millis(ms),
    }
}

/// Silences: from when, until when, and how long it was then, milliseconds.
fn rises(story: &Story) -> Vec<(u64, u64, u64)> {
    let mut rises: Vec<(u64, u64, u64)> = Vec::new();
    for moment in story.moments() {
        let Some(silence) = moment.silence_ms else {
            continue;
        };
        let from = moment
            .at
            .saturating_sub(silence.saturating_mul(1_000_000))
            .max(story.from);
        let silence = (moment.at - from) / 1_000_000;
        match rises.last_mut() {
            // The same silence goes on; jiffies are up to 10 ms.
            Some(rise) if from < rise.1 && from.abs_diff(rise.0) < 40_000_000 => {
                (rise.1, rise.2) = (moment.at, silence);
            }
            _ if silence > 0 => rises.push((from, moment.at, silence)),
            _ => {}
        }
    }
    rises
}

/// Round-trip times, on a logarithmic axis.
fn round_trips(svg: &mut Svg, story: &Story, across: (f64, f64), top: f64, x: impl Fn(u64) -> f64) {
    let bottom = top + ANSWERS;
    let answers = || {
        story
            .moments()
            .filter_map(|it| Some((it.at, it.rtt_us?.max(1))))
    };
    let log = |rtt: u64| (rtt as f64).log10();
    let low = answers().map(|(_, rtt)| rtt).min().map_or(0.0, log).floor();
    let high = answers().map(|(_, rtt)| rtt).max().map_or(1.0, log).ceil();
    let high = high.max(low + 1.0);
    let y = |rtt: f64| place(rtt, (low, high), (bottom, top));
    svg.text((0.0, top + 4.5), "t f-ink", "answers");
    for decade in low as u32..=high as u32 {
        let at = y(f64::from(decade));
        svg.line((across.0, at), (across.1, at), "grid l-line");
        let words = micros(10u64.pow(decade.min(18)));
        svg.text((across.0 - 8.0, at + 4.0), "s f-soft e", &words);
    }
    for (at, rtt) in answers() {
        svg.line((x(at), bottom), (x(at), y(log(rtt))), "thin l-answer");
        svg.circle((x(at), y(log(rtt))), 3.2, "f-answer");
    }
}
