//! What a report says first, in words: the worst news, then the rest.

use std::collections::BTreeMap;

use super::{
    model::Model,
    story::{Fate, Story},
};
use crate::{
    core::{
        event::{Cause, Severity},
        words::{count, grouped, micros, name},
    },
    output::words::losses_text,
};

/// How a piece of news is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    Bad,
    Odd,
    Good,
}

/// One sentence, and which sockets it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub tone: Tone,
    pub text: String,
    /// Whose sockets these are, those with the most first.
    pub whose: String,
    pub about: Option<Fate>,
}

/// All there is to say, the worst first; never nothing.
pub fn news(model: &Model, worst_first: &[&Story]) -> Vec<News> {
    let mut all = Vec::new();
    deaths(model, worst_first, &mut all);
    in_trouble(model, worst_first, &mut all);
    findings(model, &mut all);
    losses(model, &mut all);
    if all.is_empty() {
        let text = match model.stories.len() {
            0 => "No keepalive timer ran, and nothing was armed.",
            _ => "Nothing bad happened.",
        };
        all.push(plain(Tone::Good, text.to_owned()));
    }
    answers(model, &mut all);
    all.sort_by_key(|news| news.tone);
    all
}

fn plain(tone: Tone, text: String) -> News {
    News {
        tone,
        text,
        whose: String::new(),
        about: None,
    }
}

/// Ended sockets, by what ended them: what is said, of how many, and how bad that is.
const DEATHS: [(&[Cause], Fate, Tone, &str); 6] = [
    (
        &[Cause::KeepaliveProbes, Cause::KeepaliveUserTimeout],
        Fate::Killed,
        Tone::Bad,
        "killed by keepalive: no answer to any probe",
    ),
    (
        &[Cause::RetransmitTimeout, Cause::RetransmitUserTimeout],
        Fate::Killed,
        Tone::Bad,
        "killed by retransmission: data was not acknowledged, and keepalive had no say",
    ),
    (
        &[Cause::WindowProbeTimeout, Cause::WindowProbeUserTimeout],
        Fate::Killed,
        Tone::Bad,
        "killed in a zero window",
    ),
    (
        &[Cause::NetworkError],
        Fate::Cut,
        Tone::Bad,
        "ended by a network error",
    ),
    (
        &[Cause::PeerReset],
        Fate::Cut,
        Tone::Odd,
        "reset by the peer",
    ),
    (
        &[Cause::LocalAbort],
        Fate::Cut,
        Tone::Odd,
        "aborted by this side",
    ),
];

fn deaths(model: &Model, worst_first: &[&Story], all: &mut Vec<News>) {
    let Some(end) = &model.end else { return };
    for (causes, fate, tone, what) in DEATHS {
        let counts = causes
            .iter()
            .filter_map(|cause| end.causes.get(&name(cause)));
        let number: u64 = counts.sum();
        if number == 0 {
            continue;
        }
        let of_these = |story: &&&Story| {
            let cause = story.end.as_ref().map(|end| end.cause);
            cause.is_some_and(|cause| causes.contains(&cause))
        };
        let dead = worst_first.iter().filter(of_these);
        all.push(News {
            tone,
            text: format!("{} {what}", count(number, "connection")),
            whose: whose(dead),
            about: Some(fate),
        });
    }
}

/// `postgres/801 (3), nginx/12`.
fn whose<'a>(stories: impl Iterator<Item = &'a &'a Story>) -> String {
    let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
    for story in stories {
        *owners.entry(&story.owner).or_default() += 1;
    }
    owners.remove("?");
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let more = owners.len().saturating_sub(3);
    let mut names: Vec<String> = owners
        .iter()
        .take(3)
        .map(|(owner, number)| match number {
            1 => (*owner).to_owned(),
            _ => format!("{owner} ({})", grouped(*number)),
        })
        .collect();
    if more > 0 {
        names.push(format!("{} more", grouped(more as u64)));
    }
    names.join(", ")
}

fn in_trouble(model: &Model, worst_first: &[&Story], all: &mut Vec<News>) {
    let troubled = worst_first
        .iter()
        .filter(|story| story.fate() == Fate::Troubled);
    let mut by_verdict: BTreeMap<&str, Vec<&&Story>> = BTreeMap::new();
    for story in troubled {
        by_verdict
            .entry(story.ill().unwrap_or_default())
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
    for (ill, stories) in kinds {
        let number = count(stories.len() as u64, "socket");
        all.push(News {
            tone: Tone::Odd,
            text: format!("{about}{number} {ill}"),
            whose: whose(stories.into_iter()),
            about: Some(Fate::Troubled),
        });
    }
}

fn findings(model: &Model, all: &mut Vec<News>) {
    let of = |severity: Severity| {
        let rules = model.findings.values();
        let rules = rules.filter(|findings| findings.severity == severity);
        rules.map(|findings| findings.number).sum()
    };
    let (critical, warnings) = (of(Severity::Critical), of(Severity::Warning));
    let said: Vec<String> = [(critical, "critical finding"), (warnings, "warning")]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| count(*number, noun))
        .collect();
    if !said.is_empty() {
        let tone = if critical > 0 { Tone::Bad } else { Tone::Odd };
        all.push(plain(
            tone,
            format!("The audit gave {}", said.join(" and ")),
        ));
    }
}

fn losses(model: &Model, all: &mut Vec<News>) {
    let Some(end) = &model.end else { return };
    if let Some(text) = losses_text(&end.lost, &end.missed) {
        all.push(plain(Tone::Odd, format!("Not everything was seen: {text}")));
    }
}

fn answers(model: &Model, all: &mut Vec<News>) {
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
        format!("{} {verb} answered{within}", count(answers, "probe")),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let said = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(said, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
        assert_eq!(count(1, "socket"), "1 socket");
    }
}
