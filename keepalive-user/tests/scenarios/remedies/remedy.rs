//! The parts of a remedy, as a person reads them: the place, what to write there, and a command.

/// What one remedy says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// Where the lines are written.
    pub place: String,
    /// What is written, literally.
    pub lines: Vec<String>,
    /// A command that sets sysctls.
    pub command: Option<String>,
}

impl Remedy {
    /// `Program: in PLACE: \`LINE\`, \`LINE\`; … uses \`COMMAND\` (…)`; either part may be missing.
    pub fn parse(text: &str) -> Self {
        let (settings, sysctls) = text.split_once(" uses `").unwrap_or((text, ""));
        let mut remedy = Self {
            command: sysctls
                .split_once('`')
                .map(|(command, _)| command.to_owned()),
            ..Self::default()
        };
        // The place is followed by the first literal.
        if let Some((place, literals)) = settings.split_once(": `") {
            remedy.place = place.to_owned();
            // Literals are separated by a comma; what is in brackets or after a semicolon is a note.
            let mut rest = literals;
            while let Some((literal, after)) = rest.split_once('`') {
                remedy.lines.push(literal.to_owned());
                let Some(next) = after.strip_prefix(", `") else {
                    break;
                };
                rest = next;
            }
        }
        remedy
    }
}
