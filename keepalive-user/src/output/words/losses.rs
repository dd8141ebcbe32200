//! What was not seen, in words.

use std::io::{self, Write};

use strum::IntoEnumIterator;

use crate::core::{
    event::{End, Incomplete, LostWhere, MissedWhere},
    format::{escape, name, plural_grouped},
};

/// The lines of what a listing or an audit could not read.
pub fn unknown(incomplete: &[Incomplete], writer: &mut impl Write) -> io::Result<()> {
    for part in incomplete {
        writeln!(
            writer,
            "unknown: {} ({}): {}",
            name(part.what),
            part.count,
            part.reason
        )?;
    }
    Ok(())
}

/// The noun of what was lost at a place, and why.
pub fn lost_words(place: LostWhere) -> (&'static str, &'static str) {
    match place {
        LostWhere::Ring => ("record", "lost to a full ring buffer"),
        LostWhere::Decode => ("record", "not decodable"),
        LostWhere::Tracker => ("socket", "dropped from the tracker, too many at once"),
        LostWhere::Scratch => ("observation", "lost to a collision of programs on a CPU"),
        LostWhere::Unreadable => ("observation", "lost to unreadable kernel memory"),
        LostWhere::Recording => ("record", "left out of the recording"),
        LostWhere::Recursion => ("program run", "skipped by the kernel"),
        LostWhere::Output => (
            "line",
            "not printed, the reader of standard output is too slow",
        ),
        LostWhere::Filter => (
            "event",
            "left out by -p, the owner of the socket is unresolved",
        ),
    }
}

/// As [`lost_words`], of what was missed.
pub fn missed_words(place: MissedWhere) -> (&'static str, &'static str) {
    match place {
        MissedWhere::Probe => ("keepalive probe", "missed"),
        MissedWhere::WindowProbe => ("zero-window probe", "missed"),
        MissedWhere::Timer => ("timer run", "missed"),
        MissedWhere::Close => ("socket end", "missed"),
        MissedWhere::Unread => ("socket", "not read again at the end"),
    }
}

/// What was not seen, by reason; `None` if everything was.
pub fn losses_text(end: &End) -> Option<String> {
    let (mut losses, mut missed) = (end.lost, end.missed);
    let probes = (losses.probes, ("keepalive probe", "among the lost records"));
    let lost = LostWhere::iter().map(|place| (*losses.at(place), lost_words(place)));
    let missed = MissedWhere::iter().map(|place| (*missed.at(place), missed_words(place)));
    let reasons: Vec<String> = lost
        .chain([probes])
        .chain(missed)
        .filter(|(number, _)| *number > 0)
        .map(|(number, (noun, why))| format!("{} {why}", plural_grouped(number, noun)))
        .chain(
            end.cut
                .as_ref()
                .map(|cut| format!("{}; what followed is unknown", escape(cut))),
        )
        .collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}
