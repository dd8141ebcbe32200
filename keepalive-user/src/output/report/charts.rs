//! Charts of all sockets: events over time, and the distributions of numbers.

use super::{histogram::Histogram, mark::Mark, model::Model, svg::Svg, time::Scale};
use crate::core::{
    event::Decision,
    format::{grouped, micros, millis, name, plural_grouped},
};

/// A chart and its height.
pub struct Chart {
    pub svg: Svg,
    pub height: f64,
}

/// Width of a distribution.
pub const NARROW: f64 = 344.0;
/// Space before and after the cells of a row of the heat strip.
const LEFT: f64 = 168.0;
const RIGHT: f64 = 76.0;
const ROW: f64 = 26.0;

/// A row per kind of event and a cell per bucket of time: more events have a stronger colour.
pub fn heat(model: &Model, width: f64) -> Chart {
    let (mut svg, scale) = (Svg::default(), &model.scale);
    let used = scale.used();
    let cells = width - LEFT - RIGHT;
    let cell = cells * (scale.width_ns as f64 / scale.end_ns.max(1) as f64).min(1.0);
    let mut y = 0.0;
    for (&mark, row) in model.heat.iter().rev() {
        let row = &row[..used];
        let most = row.iter().copied().max().unwrap_or(0);
        let middle = y + ROW / 2.0;
        svg.mark((10.0, middle), mark);
        svg.text((26.0, middle + 4.5), "t f-ink", mark.label());
        svg.rect((LEFT, y + 2.0), (cells, ROW - 4.0), "f-veil");
        for (bucket, &number) in row.iter().enumerate().filter(|(_, number)| **number > 0) {
            let x = bucket as f64 * cell;
            // The last bucket is shorter: the trace ended in it.
            let size = ((cells - x).min(cell) - 0.6).max(1.2);
            let strength = 0.25 + 0.75 * (number as f64 / most as f64).sqrt();
            let from = bucket as u64 * scale.width_ns / 1_000_000;
            let title = format!(
                "{}: {} {}",
                scale.clock(from),
                grouped(number),
                mark.label()
            );
            let class = format!("f-{}", mark.name());
            let at = (LEFT + x, y + 2.0);
            svg.cell(at, (size, ROW - 4.0), (class.as_str(), strength), &title);
        }
        let total = grouped(row.iter().sum());
        svg.text((width, middle + 4.5), "t f-soft e", &total);
        y += ROW;
    }
    time_axis(
        &mut svg,
        scale,
        (0, model.length_ms()),
        (LEFT, LEFT + cells),
        y + 4.0,
    );
    let text = format!(
        "each cell is {}",
        millis((scale.width_ns / 1_000_000).max(1))
    );
    svg.text((0.0, y + 22.0), "s f-soft", &text);
    Chart {
        svg,
        height: y + 28.0,
    }
}

/// The axis below a chart, with times of day.
pub fn time_axis(svg: &mut Svg, scale: &Scale, span: (u64, u64), at: (f64, f64), y: f64) {
    svg.line((at.0, y), (at.1, y), "grid l-line");
    let room = ((at.1 - at.0) / 92.0) as u64;
    for tick in scale.ticks(span.0, span.1, room.max(1)) {
        let x = place(tick as f64, (span.0 as f64, span.1 as f64), at);
        svg.line((x, y), (x, y + 5.0), "grid l-soft");
        // The label of a tick at the edge stays within the picture.
        let (x, class) = match (x - at.0, at.1 - x) {
            (..30.0, _) => (at.0, "s f-soft"),
            (_, ..30.0) => (at.1, "s f-soft e"),
            _ => (x, "s f-soft m"),
        };
        svg.text((x, y + 18.0), class, &scale.clock(tick));
    }
}

/// Maps a value linearly to a coordinate.
pub fn place(value: f64, (from, to): (f64, f64), (left, right): (f64, f64)) -> f64 {
    left + (value - from) / (to - from).max(f64::MIN_POSITIVE) * (right - left)
}

/// Timer runs, by what the kernel decided.
pub fn decisions(model: &Model) -> Chart {
    let mut svg = Svg::default();
    let mut all: Vec<(Decision, u64)> = model.decisions.iter().map(|(&it, &n)| (it, n)).collect();
    all.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let total: u64 = all.iter().map(|(_, number)| number).sum();
    let most = all.first().map_or(1, |(_, number)| *number);
    let mut y = 6.0;
    for (decision, number) in all {
        let mark = of_decision(decision);
        let label = name(decision).replace('_', " ");
        svg.mark((8.0, y + 6.0), mark);
        svg.text((22.0, y + 10.0), "t f-ink", &label);
        let percent = number as f64 * 100.0 / total.max(1) as f64;
        svg.text((NARROW - 64.0, y + 10.0), "t f-soft e", &grouped(number));
        let share = match percent {
            ..0.05 => "< 0.1 %".to_owned(),
            ..9.95 => format!("{percent:.1} %"),
            _ => format!("{percent:.0} %"),
        };
        svg.text((NARROW, y + 10.0), "t f-soft e", &share);
        svg.rect((0.0, y + 17.0), (NARROW, 6.0), "f-veil");
        let length = (number as f64 / most as f64 * NARROW).max(2.0);
        svg.rect(
            (0.0, y + 17.0),
            (length, 6.0),
            &format!("f-{}", mark.name()),
        );
        y += 35.0;
    }
    if total == 0 {
        svg.text((0.0, 20.0), "t f-soft", "no timer ran");
        y = 30.0;
    }
    Chart { svg, height: y }
}

fn of_decision(decision: Decision) -> Mark {
    match decision {
        Decision::ProbeSent => Mark::Probe,
        Decision::ProbeFailed => Mark::NotSent,
        Decision::DataInFlight => Mark::DataInFlight,
        Decision::DataUnsent => Mark::DataUnsent,
        Decision::NotIdle => Mark::NotIdle,
        Decision::SocketBusy => Mark::SocketBusy,
        Decision::Stopped => Mark::Stopped,
        Decision::FinWait2 => Mark::FinWait2,
        Decision::Killed => Mark::TimedOut,
    }
}

/// The distribution of round-trip times.
pub fn answers(model: &Model) -> Chart {
    let axis = Axis {
        nouns: "answers",
        class: "f-answer",
        words: micros,
    };
    axis.spread(&model.rtt_us)
}

/// The distribution of silence when timers ran.
pub fn silence(model: &Model) -> Chart {
    let axis = Axis {
        nouns: "timer runs",
        class: "f-probe",
        words: millis,
    };
    axis.spread(&model.silence_ms)
}

/// The unit and colour of a distribution.
struct Axis {
    nouns: &'static str,
    class: &'static str,
    words: fn(u64) -> String,
}

impl Axis {
    const HEIGHT: f64 = 150.0;
    const LEFT: f64 = 58.0;

    /// Columns on a logarithmic axis.
    fn spread(&self, of: &Histogram) -> Chart {
        let mut svg = Svg::default();
        if of.total == 0 {
            svg.text((0.0, 20.0), "t f-soft", &format!("no {}", self.nouns));
            return Chart { svg, height: 30.0 };
        }
        let summary = match of.total {
            1 => format!("1 value: {}", (self.words)(of.most)),
            _ => format!(
                "half within {}, 99 % within {}, maximum {}",
                (self.words)(of.quantile(0.5)),
                (self.words)(of.quantile(0.99)),
                (self.words)(of.most)
            ),
        };
        svg.text((0.0, 12.0), "s f-soft", &summary);
        let bins = of.bins();
        let (from, to) = span(&bins);
        let (top, bottom) = (52.0, 52.0 + Self::HEIGHT);
        let across = (Self::LEFT, NARROW - 8.0);
        let most = bins.iter().map(|bin| bin.2).max().unwrap_or(1);
        let ceiling = nice(most);
        for step in 0..=2 {
            let value = ceiling * step / 2;
            if ceiling < 2 && step == 1 {
                continue;
            }
            let y = place(value as f64, (0.0, ceiling as f64), (bottom, top));
            svg.line((across.0, y), (across.1, y), "grid l-line");
            svg.text((across.0 - 8.0, y + 4.0), "s f-soft e", &grouped(value));
        }
        svg.text((0.0, top - 12.0), "s f-soft", self.nouns);
        for (low, high, number) in bins.into_iter().filter(|bin| bin.2 > 0) {
            let x = [low, high].map(|edge| place(edge.log10(), (from, to), across));
            let y = place(number as f64, (0.0, ceiling as f64), (bottom, top));
            let words = (self.words)(high.ceil() as u64);
            let title = format!("{} {} within {words}", grouped(number), self.nouns);
            let height = (bottom - y).max(1.0);
            let size = ((x[1] - x[0] - 1.5).max(1.0), height);
            svg.cell((x[0], bottom - height), size, (self.class, 1.0), &title);
        }
        self.ticks(&mut svg, (from, to), across, bottom);
        Chart {
            svg,
            height: bottom + 28.0,
        }
    }

    /// Ticks at powers of ten, and also at twos and fives where there are few.
    fn ticks(&self, svg: &mut Svg, span: (f64, f64), across: (f64, f64), y: f64) {
        let mantissas: &[u32] = match span.1 - span.0 {
            ..1.6 => &[1, 2, 5],
            ..3.2 => &[1, 3],
            _ => &[1],
        };
        let mut free = f64::MIN;
        for decade in 0..20u32 {
            for mantissa in mantissas {
                let value = u64::from(*mantissa) * 10u64.pow(decade.min(18));
                let x = place((value as f64).log10(), span, across);
                let words = (self.words)(value);
                let half = words.chars().count() as f64 * 3.6 + 4.0;
                if x < across.0 - 1.0 || x > across.1 + 1.0 || x - half < free {
                    continue;
                }
                svg.line((x, y), (x, y + 5.0), "grid l-soft");
                let end = (NARROW - half).min(x);
                svg.text((end, y + 19.0), "s f-soft m", &words);
                free = x + half;
            }
        }
    }
}

/// Logarithms of the ends; at least a decade, so that a single value has an axis, too.
fn span(bins: &[(f64, f64, u64)]) -> (f64, f64) {
    let first = bins.first().map_or(0.0, |bin| bin.0.log10());
    let last = bins.last().map_or(1.0, |bin| bin.1.log10());
    let lacking = (1.0 - (last - first)).max(0.0) / 2.0;
    let from = (first - lacking).max(0.0);
    (from, (last + lacking).max(from + 1.0))
}

/// The next round number, where an axis ends.
pub fn nice(most: u64) -> u64 {
    let digit = 10u64.pow(most.max(1).ilog10());
    [1, 2, 4, 6, 8]
        .into_iter()
        .map(|step| digit.saturating_mul(step))
        .find(|&ceiling| ceiling >= most)
        .unwrap_or(digit.saturating_mul(10))
}

/// The totals, in one line.
pub fn totals(model: &Model) -> String {
    let Some(end) = &model.end else {
        return String::new();
    };
    let events = &end.events;
    [
        plural_grouped(end.sockets, "socket"),
        plural_grouped(events.timer, "timer run"),
        plural_grouped(events.window_probe, "zero-window probe"),
        plural_grouped(events.answer, "answer"),
        format!("{} closed", grouped(events.closed)),
    ]
    .join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends = [0, 1, 3, 9, 10, 11, 61, 99, 1001, u64::MAX].map(nice);
        assert_eq!(ends[..9], [1, 1, 4, 10, 10, 20, 80, 100, 2000]);
        assert_eq!(ends[9], u64::MAX);
    }
}
