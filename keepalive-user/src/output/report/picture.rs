//! Pictures of all sockets or of one.

use super::{
    charts::{self, Chart},
    data::facts,
    headline::{Tone, headlines},
    lane,
    mark::Mark,
    model::Model,
    story::{Moment, Story},
    svg::{Svg, cut, definitions},
    theme,
};
use crate::core::format::plural_grouped;

const WIDTH: f64 = 1280.0;
const MARGIN: f64 = 40.0;
const INNER: f64 = WIDTH - 2.0 * MARGIN;
const PADDING: f64 = 22.0;
/// Lanes in a picture of all sockets.
const LANES: usize = 8;
/// Sentences in a picture of one socket.
const SENTENCES: usize = 16;

/// All sockets.
pub fn overview(model: &Model, worst_first: &[&Story]) -> Sheet {
    let mut sheet = Sheet::new();
    let all = headlines(model, worst_first);
    if let [first, rest @ ..] = &all[..] {
        sheet.title(&first.text);
        if !first.owners.is_empty() {
            sheet.line(None, "t f-soft", &first.owners);
        }
        for headline in rest.iter().take(5) {
            let mark = match headline.tone {
                Tone::Bad => Mark::TimedOut,
                Tone::Odd => Mark::AnotherProbe,
                Tone::Good => Mark::Answer,
            };
            let text = format!("{}  {}", headline.text, headline.owners);
            sheet.line(Some(mark), "t f-ink", text.trim_end());
        }
    }
    sheet.y += 6.0;
    let facts = facts(model);
    let fact = |name: &str| {
        let found = facts.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let trace = [
        fact("Machine"),
        fact("Kernel"),
        fact("Backend"),
        fact("Period"),
    ];
    let lost = format!("lost: {}", fact("Lost"));
    for parts in [&trace[..], &[fact("Totals"), &lost]] {
        let parts = parts.iter().copied().filter(|it| !it.is_empty());
        let parts: Vec<&str> = parts.collect();
        sheet.line(None, "s f-soft", &parts.join("  ·  "));
    }
    sheet.y += 10.0;
    sheet.card(
        "Events over time",
        &charts::heat(model, INNER - 2.0 * PADDING),
    );
    let worst = &worst_first[..LANES.min(worst_first.len())];
    if !worst.is_empty() {
        sheet.card("Worst first", &lanes(model, worst));
    }
    sheet.cards([
        ("Timer decisions", charts::decisions(model)),
        ("Answers: round-trip time", charts::answers(model)),
        ("Silence when timers ran", charts::silence(model)),
    ]);
    sheet
}

/// Lanes with names, stacked.
fn lanes(model: &Model, stories: &[&Story]) -> Chart {
    const NAMES: f64 = 420.0;
    const LANE: f64 = 54.0;
    let mut svg = Svg::default();
    let width = INNER - 2.0 * PADDING - NAMES;
    let span = (0, model.length_ms());
    let mut y = 0.0;
    for story in stories {
        let mark = story.outcome().mark();
        svg.mark((8.0, y + 13.0), mark);
        let class = format!("t f-{}", mark.name());
        svg.text((24.0, y + 17.0), &class, &cut(&story.verdict(), 32));
        svg.text(
            (NAMES - 24.0, y + 17.0),
            "s f-soft e",
            &cut(&story.owner(), 22),
        );
        let connection = format!(
            "{} → {}",
            story.history.socket.local, story.history.socket.peer
        );
        svg.text((24.0, y + 36.0), "s f-ink", &cut(&connection, 54));
        svg.part(
            (NAMES, y),
            &lane::lane(&model.scale, story, span, width, 25.0),
        );
        y += LANE;
    }
    let across = (NAMES, NAMES + width);
    charts::time_axis(&mut svg, &model.scale, span, across, y + 2.0);
    Chart {
        svg,
        height: y + 26.0,
    }
}

/// One socket.
pub fn one(model: &Model, story: &Story) -> Sheet {
    let mut sheet = Sheet::new();
    let certificate = story.certificate(&model.scale);
    sheet.title(&certificate.unwrap_or_else(|| story.verdict()));
    let heading = format!(
        "{}  {} → {}",
        story.owner(),
        story.history.socket.local,
        story.history.socket.peer
    );
    sheet.line(None, "t f-ink", &heading);
    sheet.line(None, "s f-soft", &numbers(story));
    sheet.line(None, "s f-soft", &model.scale.period());
    sheet.y += 10.0;
    let chart = lane::alone(&model.scale, story, INNER - 2.0 * PADDING);
    sheet.card("Over time", &chart);
    sheet.card("Events", &in_words(model, story));
    sheet
}

/// The totals of a socket, in one line.
fn numbers(story: &Story) -> String {
    let history = &story.history;
    let cookie = history.socket.cookie;
    [
        cookie.map_or_else(String::new, |cookie| format!("sk:{cookie} · ")),
        format!("{} · {} timer runs · ", story.settings(), history.timers),
        format!(
            "{} probes, {} answered, {} unanswered",
            history.probes,
            history.answers,
            history.unanswered()
        ),
    ]
    .concat()
}

/// The last events of a socket, as sentences.
fn in_words(model: &Model, story: &Story) -> Chart {
    let (head, tail) = story.kept();
    let mut lines: Vec<Option<&Moment>> = head.iter().map(Some).collect();
    if story.left_out > 0 {
        lines.push(None);
    }
    lines.extend(tail.iter().map(Some));
    let (earlier, shown) = lines.split_at(lines.len().saturating_sub(SENTENCES));
    let (mut svg, mut y) = (Svg::default(), 12.0);
    let mut line = |svg: &mut Svg, class: &str, text: &str| {
        svg.text((104.0, y), class, text);
        y += 22.0;
        y - 22.0
    };
    if !earlier.is_empty() {
        let of = |moment: &Option<&Moment>| moment.map_or(story.left_out, |_| 1);
        let before = plural_grouped(earlier.iter().map(of).sum(), "event");
        line(&mut svg, "t f-soft", &format!("… {before} earlier"));
    }
    for moment in shown {
        let Some(moment) = moment else {
            let left_out = plural_grouped(story.left_out, "event");
            line(&mut svg, "t f-soft", &format!("… {left_out} more"));
            continue;
        };
        let words = model.sentences.text(&moment.words);
        let at = line(&mut svg, "t f-ink", &cut(&words, 128));
        let clock = model.scale.clock(moment.at / 1_000_000);
        svg.text((0.0, at), "t f-soft", &clock);
        svg.mark((86.0, at - 4.5), moment.mark);
    }
    Chart {
        svg,
        height: y - 12.0,
    }
}

/// A picture that grows downwards.
pub struct Sheet {
    svg: Svg,
    y: f64,
}

impl Sheet {
    fn new() -> Self {
        let mut svg = Svg::default();
        svg.text((MARGIN, 46.0), "s f-soft", "keepalive report");
        Self { svg, y: 60.0 }
    }

    fn title(&mut self, text: &str) {
        let text = capital(text);
        let text = text.as_str();
        // The number of characters that fit a line; a title has at most two lines.
        const MOST: usize = 82;
        let breaks = text
            .char_indices()
            .nth(MOST)
            .map(|(end, _)| text[..end].rfind(' '));
        let (one, other) = match breaks.flatten() {
            Some(space) => (&text[..space], &text[space + 1..]),
            None => (text, ""),
        };
        for part in [one, other].into_iter().filter(|part| !part.is_empty()) {
            self.svg
                .text((MARGIN, self.y + 24.0), "b f-ink", &cut(part, MOST));
            self.y += 34.0;
        }
        self.y += 6.0;
    }

    fn line(&mut self, mark: Option<Mark>, class: &str, text: &str) {
        let indent = if mark.is_some() { 20.0 } else { 0.0 };
        if let Some(mark) = mark {
            self.svg.mark((MARGIN + 7.0, self.y + 9.5), mark);
        }
        self.svg
            .text((MARGIN + indent, self.y + 14.0), class, &cut(text, 150));
        self.y += 22.0;
    }

    fn card(&mut self, title: &str, chart: &Chart) {
        self.put(MARGIN, INNER, title, chart, chart.height);
        self.y += chart.height + 2.0 * PADDING + 50.0;
    }

    /// Places cards side by side.
    fn cards(&mut self, charts: [(&str, Chart); 3]) {
        let height = charts
            .iter()
            .map(|(_, chart)| chart.height)
            .fold(0.0, f64::max);
        let width = (INNER - 2.0 * 16.0) / 3.0;
        for (index, (title, chart)) in charts.iter().enumerate() {
            let x = MARGIN + index as f64 * (width + 16.0);
            self.put(x, width, title, chart, height);
        }
        self.y += height + 2.0 * PADDING + 50.0;
    }

    fn put(&mut self, x: f64, width: f64, title: &str, chart: &Chart, height: f64) {
        self.svg
            .card((x, self.y), (width, height + 2.0 * PADDING + 32.0));
        self.svg
            .text((x + PADDING, self.y + PADDING + 12.0), "h f-ink", title);
        self.svg
            .part((x + PADDING, self.y + PADDING + 34.0), &chart.svg);
    }

    pub fn svg(&self) -> String {
        let height = self.y + MARGIN - 18.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\"><style>{}</style>{}\
             <rect width=\"100%\" height=\"100%\" class=\"f-page\"/>{}</svg>\n",
            theme::picture(),
            definitions(),
            self.svg.body
        )
    }
}

/// The text with a capital first letter.
fn capital(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(rest).collect()
}
