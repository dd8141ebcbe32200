//! `docs/REMEDIES.md`, from the rows.

use std::{fmt::Write as _, fs};

use super::*;

/// `BLESS=1` writes the page.
#[test]
fn the_page_lists_the_rows() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/REMEDIES.md");
    let page = page();
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, &page).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        page,
        "BLESS=1 writes docs/REMEDIES.md"
    );
}

const INTRODUCTION: &str = "\
# Remedies

What `keepalive audit` advises for programs that it knows by their whole name (`/proc/PID/comm`), with the
values of an ordinary finding. This page is the table in `core/rules/remedy/`; a test compares them, and
`cargo xtask test --kernel live --scenario remedies` writes the remedies into the configuration of real
programs and demands that the next audit finds nothing. Go programs have names of their own: they get the
socket options, as every program without a row. \"Sysctls\": the setting has no values, so the program uses
`net.ipv4.tcp_keepalive_time`, `_intvl` and `_probes` of its network namespace; a change of these affects new
connections only: open connections keep the timer they have.

";

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for program in programs::all() {
        let mut names: Vec<String> = program
            .names
            .iter()
            .map(|name| format!("`{}`", name.replace('#', "*")))
            .collect();
        names.extend(program.port.map(|port| format!("port {port}")));
        let _ = writeln!(page, "## {}\n\n{}.\n", program.label, names.join(", "));
        for (end, setting) in [("Accepts", &program.accepted), ("Opens", &program.opened)] {
            let text = setting
                .as_ref()
                .map_or_else(|| "no setting".to_owned(), described);
            let _ = writeln!(page, "- {end}: {text}");
        }
        let _ = writeln!(page, "- Source: {}\n", program.source);
    }
    page.trim_end().to_owned() + "\n"
}

fn described(setting: &Setting) -> String {
    let fill = |text: &str| Advice::ORDINARY.fill(text);
    let lines: Vec<String> = setting
        .lines
        .iter()
        .map(|line| format!("`{}`", fill(line)))
        .collect();
    let mut text = match setting.scope {
        Scope::Values => format!("{}: {}", setting.place, lines.join(", ")),
        Scope::Switch => format!("{}: {}; sysctls", setting.place, lines.join(", ")),
        Scope::AlwaysOn => "always on; sysctls".to_owned(),
    };
    if let Some(note) = setting.note {
        text += &format!("; {}", fill(note));
    }
    text
}
