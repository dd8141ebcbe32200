//! The headlines of a report, the worst first.

use std::collections::BTreeMap;

use strum::IntoEnumIterator;

use super::{model::Model, outcome::Outcome, story::Story};
use crate::{
    core::{
        event::{Cause, Meaning, Severity},
        format::{grouped, micros, name, plural_grouped},
    },
    output::words::{self, losses_text},
};

/// How good or bad a headline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    Bad,
    Odd,
    Good,
}

/// One sentence, and the sockets it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    pub tone: Tone,
    pub text: String,
    /// The owners of these sockets; the owners of most sockets first.
    pub owners: String,
    pub about: Option<Outcome>,
}

/// The headlines, the worst first; at least one.
pub fn headlines(model: &Model, worst_first: &[&Story]) -> Vec<Headline> {
    let mut all = Vec::new();
    deaths(model, worst_first, &mut all);
    in_trouble(model, worst_first, &mut all);
    findings(model, &mut all);
    losses(model, &mut all);
    if all.is_empty() {
        let text = match model.stories.len() {
            0 => "No keepalive timer ran, and nothing was armed.",
            _ => "No problems found.",
        };
        all.push(plain(Tone::Good, text.to_owned()));
    }
    answers(model, &mut all);
    all.sort_by_key(|headline| headline.tone);
    all
}

fn plain(tone: Tone, text: String) -> Headline {
    Headline {
        tone,
        text,
        owners: String::new(),
        about: None,
    }
}

fn tone(meaning: Meaning) -> Tone {
    match meaning {
        Meaning::TimedOut => Tone::Bad,
        Meaning::ResetOrAborted => Tone::Odd,
        Meaning::Orderly | Meaning::Unknown => Tone::Good,
    }
}

fn deaths(model: &Model, worst_first: &[&Story], all: &mut Vec<Headline>) {
    let Some(end) = &model.end else { return };
    let mut groups: Vec<(&str, Meaning, u64)> = Vec::new();
    for cause in Cause::iter() {
        let number = end.causes.get(name(cause)).copied().unwrap_or(0);
        let Some(text) = words::headline(cause).filter(|_| number > 0) else {
            continue;
        };
        match groups.iter_mut().find(|group| group.0 == text) {
            Some(group) => group.2 += number,
            None => groups.push((text, cause.meaning(), number)),
        }
    }
    for (text, meaning, number) in groups {
        let is_of_these =
            |story: &&&Story| story.history.cause().and_then(words::headline) == Some(text);
        all.push(Headline {
            tone: tone(meaning),
            text: format!("{} {text}", plural_grouped(number, "connection")),
            owners: owners(worst_first.iter().filter(is_of_these)),
            about: Some(meaning.into()),
        });
    }
}

/// `postgres/801 (3), nginx/12`.
fn owners<'a>(stories: impl Iterator<Item = &'a &'a Story>) -> String {
    let mut owners: BTreeMap<String, u64> = BTreeMap::new();
    for story in stories {
        *owners.entry(story.owner()).or_default() += 1;
    }
    owners.remove("?");
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let more = owners.len().saturating_sub(3);
    let mut names: Vec<String> = owners
        .iter()
        .take(3)
        .map(|(owner, number)| match number {
            1 => owner.clone(),
            _ => format!("{owner} ({})", grouped(*number)),
        })
        .collect();
    if more > 0 {
        names.push(format!("{} more", grouped(more as u64)));
    }
    names.join(", ")
}

fn in_trouble(model: &Model, worst_first: &[&Story], all: &mut Vec<Headline>) {
    let troubled = worst_first
        .iter()
        .filter(|story| story.outcome() == Outcome::Troubled);
    let mut by_verdict: BTreeMap<&str, Vec<&&Story>> = BTreeMap::new();
    for story in troubled {
        by_verdict
            .entry(story.trouble_of_several().unwrap_or_default())
            .or_default()
            .push(story);
    }
    let mut kinds: Vec<_> = by_verdict.into_iter().collect();
    kinds.sort_by_key(|(_, stories)| std::cmp::Reverse(stories.len()));
    let about = if model.left_out() > 0 {
        "At least "
    } else {
        ""
    };
    for (trouble, stories) in kinds {
        let number = plural_grouped(stories.len() as u64, "socket");
        all.push(Headline {
            tone: Tone::Odd,
            text: format!("{about}{number} {trouble}"),
            owners: owners(stories.into_iter()),
            about: Some(Outcome::Troubled),
        });
    }
}

fn findings(model: &Model, all: &mut Vec<Headline>) {
    let of = |severity: Severity| {
        let rules = model.findings.values();
        let rules = rules.filter(|findings| findings.severity == severity);
        rules.map(|findings| findings.number).sum()
    };
    let (critical, warnings) = (of(Severity::Critical), of(Severity::Warning));
    let parts: Vec<String> = [(critical, "critical finding"), (warnings, "warning")]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| plural_grouped(*number, noun))
        .collect();
    if !parts.is_empty() {
        let tone = if critical > 0 { Tone::Bad } else { Tone::Odd };
        all.push(plain(
            tone,
            format!("The audit reported {}", parts.join(" and ")),
        ));
    }
}

fn losses(model: &Model, all: &mut Vec<Headline>) {
    let Some(end) = &model.end else { return };
    if let Some(text) = losses_text(end) {
        all.push(plain(Tone::Odd, format!("Not everything was seen: {text}")));
    }
}

fn answers(model: &Model, all: &mut Vec<Headline>) {
    let answers = model.end.as_ref().map_or(0, |end| end.events.answer);
    let rtt = &model.rtt_us;
    if answers == 0 {
        return;
    }
    let within = match rtt.total {
        0 => String::new(),
        1 => format!(", after {}", micros(rtt.most)),
        _ => format!(
            ", half of them within {}, the slowest after {}",
            micros(rtt.quantile(0.5)),
            micros(rtt.most)
        ),
    };
    let verb = if answers == 1 { "was" } else { "were" };
    all.push(plain(
        Tone::Good,
        format!(
            "{} {verb} answered{within}",
            plural_grouped(answers, "probe")
        ),
    ));
}
