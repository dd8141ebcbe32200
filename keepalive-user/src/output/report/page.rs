//! The page: one file that loads nothing. Its data comes from processes and may be hostile: it is
//! escaped, and the browser inserts it as text, never as markup.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{
    charts::{self, Chart, NARROW},
    data,
    headline::headlines,
    lane,
    model::Model,
    story::Story,
    svg::definitions,
    theme,
};

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("socket.js"));
/// Width of the strip over all time.
const WIDE: f64 = 1184.0;

/// The whole file.
///
/// # Errors
/// If the data cannot be serialized, which does not happen with numbers and text.
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
    let headlines = headlines(model, worst_first);
    let data = data::all(model, worst_first, &headlines, open);
    let data = within_script(&serde_json::to_string(&data)?);
    let mut page = SHELL.to_owned();
    for (place, chart, width) in figures {
        page = page.replace(&format!("<!--{place}-->"), &figure(&chart, width));
    }
    page = page.replace("<!--DEFINITIONS-->", &definitions());
    page = page.replace("/*STYLE*/", &style);
    page = page.replace("/*SCRIPT*/", SCRIPT);
    page = page.replace("POLICY", &policy);
    // Untrusted text is inserted last: after the lanes only `"DATA"` is replaced, and their text has
    // no quotes.
    page = page.replace("<!--LANES-->", &lane::items(model, worst_first));
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

/// JSON for a script element: escapes what could end the element or a line of a script.
fn within_script(json: &str) -> String {
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
