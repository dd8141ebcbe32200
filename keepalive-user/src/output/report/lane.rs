//! One socket over time, as a line of marks. The browser draws the zoomable chart of one socket, with
//! silence and round-trip times (`socket.js`): charts of all sockets in the file would be ten times
//! the size of their data.

use super::{
    charts::{Chart, place, time_axis},
    mark::Mark,
    model::Model,
    story::{Moment, Story},
    svg::{Svg, icon, xml},
    time::Scale,
};

/// Number of lanes on the page, worst socket first, and the width of each.
const LANES: usize = 8;
const WIDTH: f64 = 760.0;
/// Height of a lane of the page, and the position of its line.
const HEIGHT: f64 = 44.0;
const LINE: f64 = 28.0;

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The marks of a socket on one line, answers above it; `span` is the time shown, milliseconds.
pub fn lane(scale: &Scale, story: &Story, span: (u64, u64), width: f64, y: f64) -> Svg {
    let mut svg = Svg::default();
    let x = |at: u64| place(ms(at), (span.0 as f64, span.1 as f64), (0.0, width));
    svg.line((0.0, y), (width, y), "grid l-line");
    svg.line((x(story.from), y), (x(story.to), y), "thick l-soft");
    for phase in story.windows.phases() {
        let size = ((x(phase.to) - x(phase.from)).max(2.0), 22.0);
        svg.hatched((x(phase.from), y - 11.0), size);
    }
    if story.left_out > 0 {
        strip(&mut svg, story, y, scale, x);
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

/// A chart of one socket, from its first to its last event.
pub fn alone(scale: &Scale, story: &Story, width: f64) -> Chart {
    let from = story.from / 1_000_000;
    let span = (from, (story.to / 1_000_000).max(from + 1));
    let mut svg = lane(scale, story, span, width, 18.0);
    time_axis(&mut svg, scale, span, (0.0, width), 36.0);
    Chart { svg, height: 62.0 }
}

/// The items of the page's list of lanes, and the axis below them. Text in them is escaped.
pub fn items(model: &Model, worst_first: &[&Story]) -> String {
    let span = (0, model.length_ms());
    let mut html = String::new();
    for story in &worst_first[..LANES.min(worst_first.len())] {
        let lane = lane(&model.scale, story, span, WIDTH, LINE);
        let socket = &story.history.socket;
        let (verdict, owner) = (xml(&story.verdict()), xml(&story.owner()));
        html += &format!(
            "<li><a href=\"#socket-{}\"><div class=\"who\"><b>{}{verdict}</b>\
             <span class=\"line\">{owner}   {} → {}</span></div>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{verdict}\">{}</svg></a></li>",
            socket.id,
            icon(story.outcome().mark()),
            socket.local,
            socket.peer,
            lane.body,
        );
    }
    let mut axis = Svg::default();
    time_axis(&mut axis, &model.scale, span, (0.0, WIDTH), 2.0);
    html + &format!(
        "<li class=\"axis\"><svg viewBox=\"0 0 {WIDTH} 26\" aria-hidden=\"true\">{}</svg></li>",
        axis.body
    )
}

/// A bar for each bucket in which events were left out, with the bucket's worst mark.
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

/// The least important mark first, so that more important ones are drawn above it.
fn in_order(story: &Story) -> Vec<&Moment> {
    let mut moments: Vec<&Moment> = story.moments().collect();
    moments.sort_by_key(|moment| moment.mark);
    moments
}
