//! Writes SVG: a few shapes and escaped text, without external resources.

use std::fmt::{self, Write};

use strum::IntoEnumIterator;

use super::mark::Mark;
use crate::core::format::escape;

/// A picture, or a part of one.
#[derive(Default)]
pub struct Svg {
    pub body: String,
}

/// A length or coordinate, rounded to a tenth of a unit.
#[derive(Clone, Copy)]
struct N(f64);

impl fmt::Display for N {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        write!(
            f,
            "{}",
            if tenths.is_finite() {
                tenths + 0.0
            } else {
                0.0
            }
        )
    }
}

/// The reused definitions: the marks, and the pattern of a zero window.
pub fn definitions() -> String {
    let mut text = String::from("<defs>");
    for mark in Mark::iter() {
        let (name, path) = (mark.name(), mark.path());
        text += &format!("<path id=\"m-{name}\" fill-rule=\"evenodd\" d=\"{path}\"/>");
    }
    text + "<pattern id=\"hatch\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
            patternTransform=\"rotate(45)\"><rect class=\"f-window_probe\" width=\"2\" height=\"7\"/>\
            </pattern></defs>"
}

impl Svg {
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let [x, y, width, height] = [x, y, width, height].map(N);
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" class=\"{class}\"/>"
        ));
    }

    /// A rectangle with this opacity, and a title that is shown under the pointer.
    pub fn cell(
        &mut self,
        at: (f64, f64),
        size: (f64, f64),
        (class, opacity): (&str, f64),
        title: &str,
    ) {
        let [x, y, width, height] = [at.0, at.1, size.0, size.1].map(N);
        let opacity = (opacity * 100.0).round() / 100.0;
        let title = xml(title);
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" class=\"{class}\" \
             fill-opacity=\"{opacity}\"><title>{title}</title></rect>"
        ));
    }

    /// A rectangle with round corners.
    pub fn card(&mut self, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(N);
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"10\" \
             class=\"f-card l-line\"/>"
        ));
    }

    /// The hatched rectangle of a zero window.
    pub fn hatched(&mut self, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(N);
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"url(#hatch)\" \
             fill-opacity=\"0.45\"/>"
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(N);
        self.put(format_args!(
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\"/>"
        ));
    }

    pub fn text(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let ([x, y], text) = ([x, y].map(N), xml(text));
        self.put(format_args!(
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{text}</text>"
        ));
    }

    pub fn mark(&mut self, (x, y): (f64, f64), mark: Mark) {
        let ([x, y], name) = ([x, y].map(N), mark.name());
        self.put(format_args!(
            "<use href=\"#m-{name}\" class=\"f-{name}\" transform=\"translate({x} {y})\"/>"
        ));
    }

    /// Inserts another part at an offset.
    pub fn part(&mut self, (x, y): (f64, f64), part: &Self) {
        let ([x, y], body) = ([x, y].map(N), &part.body);
        self.put(format_args!(
            "<g transform=\"translate({x} {y})\">{body}</g>"
        ));
    }

    fn put(&mut self, markup: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(markup);
    }
}

/// A mark within a line of the page.
pub fn icon(mark: Mark) -> String {
    let name = mark.name();
    format!(
        "<svg class=\"mark\" viewBox=\"-8 -8 16 16\" aria-hidden=\"true\">\
         <use href=\"#m-{name}\" class=\"f-{name}\"/></svg>"
    )
}

/// Escapes text for markup, including invisible characters.
pub fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in escape(text).chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // XML does not allow these characters.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The text, shortened to at most this many characters.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_not_markup() {
        let hostile = "</text><script>alert('x')</script>&\"\u{202e}\u{7}\u{ffff}";
        let harmless = xml(hostile);
        assert!(!harmless.contains(['<', '>', '"', '\'', '\u{202e}', '\u{7}', '\u{ffff}']));
        assert!(harmless.starts_with("&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;)"));
    }

    #[test]
    fn numbers_are_short_and_finite() {
        let texts = [1.0, 1.25, -0.01, f64::NAN, f64::INFINITY].map(|it| N(it).to_string());
        assert_eq!(texts, ["1", "1.3", "0", "0", "0"]);
    }
}
