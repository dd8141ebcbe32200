//! The screen of a fixed recording, and the effect of keys.

use std::{cell::RefCell, rc::Rc};

use keepalive_ebpf::{ABI_VERSION, Kind, Record, RecordFlags};
use proptest::prelude::*;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::*;
use crate::{
    core::{
        event::{Backend, SCHEMA_VERSION, Start},
        format::is_harmful,
        pipeline::{Output, Wanted},
        recording::{Frame, Header, Reader, Writer},
        replay::{Recording, play},
        wire::tests::sound,
    },
    output::tests::{CLOCK, HZ, SECOND, probe, record, story},
};

/// The owners of the sockets below.
const OWNERS: [(u32, &str); 8] = [
    (1036, "sshd"),
    (15546, "postgres"),
    (801, "nginx"),
    (933, "rsync"),
    (4711, "redis\u{1b}[31m"),
    (2077, "mariadbd"),
    (12, "sshd"),
    (31999, "a-rather-long-nam"),
];

/// The record, changed to another socket.
fn of(socket: u8, mut record: Record) -> Record {
    record.id.sk += u64::from(socket) << 12;
    record.id.cookie += u64::from(socket);
    record.id.inode = u64::from(socket) + 1;
    record.id.peer[15] += socket;
    record.id.peer_port += u16::from(socket);
    record
}

/// A timer run that sent no probe; the next run is in `next` seconds.
fn idle(seconds: u64, next: u64) -> Record {
    let mut run = record(Kind::KeepaliveTimer, seconds);
    run.settings.time = 60 * HZ;
    run.before.expires = run.before.jiffies;
    run.after.timer_pending = true;
    run.after.expires = run.after.jiffies + next * u64::from(HZ);
    run
}

/// Four seconds of eight sockets.
fn records() -> Vec<Record> {
    let mut armed = record(Kind::Setsockopt, 0);
    armed.flags |= RecordFlags::SWITCHING_ON;
    armed.id.local = [
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78,
    ];
    armed.id.peer = [
        0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x9a, 0xbc, 0xde, 0xf0,
    ];
    armed.settings.probes = 9;
    let mut first = probe(3, 1);
    (first.id.local, first.id.peer) = (armed.id.local, armed.id.peer);
    first.settings.probes = 9;
    let mut in_flight = idle(2, 75);
    for sample in [&mut in_flight.before, &mut in_flight.after] {
        sample.packets_out = 3;
    }
    let mut window = record(Kind::WindowProbe, 3);
    (window.before.probes_out, window.after.probes_out) = (2, 3);
    (window.after.timer_pending, window.after.pending) = (true, 3);
    window.after.expires = window.after.jiffies + 3 * u64::from(HZ);
    let mut timeout = probe(3, 2);
    timeout.settings.user_timeout = 5000;
    let mut listed = record(Kind::Listed, 0);
    listed.settings.time = 7200 * HZ;
    listed.settings.interval = 75 * HZ;
    listed.settings.probes = 9;
    listed.after.timer_pending = true;
    listed.after.expires = listed.after.jiffies + 7140 * u64::from(HZ);
    // Without the end: the last probe is out.
    let dying = story()[..5 - 1].to_vec();
    let mut all: Vec<Record> = dying.into_iter().map(|record| of(0, record)).collect();
    all.extend([of(1, armed), of(1, first)]);
    all.extend([
        of(2, idle(3, 57)),
        of(3, window),
        of(4, in_flight),
        of(5, timeout),
    ]);
    all.extend(story().into_iter().map(|record| of(6, record)));
    all.push(of(7, listed));
    all.sort_by_key(|record| record.after.time);
    all
}

/// A recording as `trace --record` writes it.
fn recording(records: &[Record]) -> Vec<u8> {
    let start = Start {
        when: CLOCK.at(1000 * SECOND),
        schema_version: SCHEMA_VERSION.to_owned(),
        version: "0".to_owned(),
        host: None,
        kernel: "6.12.117".to_owned(),
        backend: Backend::Fentry,
        refused: Vec::new(),
        hz: HZ,
        clock_offset_ns: CLOCK.offset_ns,
        keepalive_timer: String::new(),
        ring_bytes: 4096,
        live_answers: false,
        filters: std::collections::BTreeMap::new(),
    };
    let header = Header {
        abi_version: ABI_VERSION,
        sequence: 0,
        start,
        pid: None,
        count: None,
        layout: Vec::new(),
    };
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &header, false).unwrap();
    for (inode, (pid, comm)) in (1..).zip(OWNERS) {
        let process = Some((pid, comm));
        writer.frame(&Frame::Process { inode, process }).unwrap();
    }
    for record in records {
        writer.frame(&Frame::Record(record)).unwrap();
    }
    writer.flush().unwrap();
    bytes
}

struct SharedTop(Rc<RefCell<Top>>);

impl Output for SharedTop {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.0.borrow_mut().event(event);
        Ok(())
    }
}

/// A screen at the end of these records.
fn top_of(records: &[Record], colour: bool) -> Top {
    let top = Rc::new(RefCell::new(Top::new(colour, TimeZone::UTC)));
    let bytes = recording(records);
    let recording = Recording {
        name: "fixed".to_owned(),
        reader: Reader::new(&bytes[..]).unwrap(),
        length: None,
    };
    let outputs: Vec<Box<dyn Output>> = vec![Box::new(SharedTop(Rc::clone(&top)))];
    play(vec![recording], Wanted::default(), outputs, &mut |_| {}).unwrap();
    Rc::into_inner(top).unwrap().into_inner()
}

fn top() -> Top {
    top_of(&records(), false)
}

/// This many milliseconds after the first record.
fn after(ms: u64) -> When {
    CLOCK.at(1000 * SECOND + ms * 1_000_000)
}

const NOW: u64 = 4250;

fn drawn(top: &mut Top, now: When, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| top.draw(now, frame)).unwrap();
    terminal
}

/// The screen as text, without spaces at the ends of lines.
fn text(top: &mut Top, now: When, width: u16, height: u16) -> String {
    let terminal = drawn(top, now, width, height);
    let buffer = terminal.backend().buffer();
    let lines = buffer.content.chunks(width.into()).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}

/// The screen in a terminal of 80 × 24 cells.
fn screen(top: &mut Top) -> String {
    text(top, after(NOW), 80, 24)
}

/// The action of the last of these keys.
fn press(top: &mut Top, codes: &[KeyCode]) -> Action {
    codes.iter().fold(Action::Nothing, |_, code| {
        top.key(KeyEvent::new(*code, KeyModifiers::NONE), after(NOW))
    })
}

fn type_in(top: &mut Top, text: &str) {
    let codes: Vec<KeyCode> = text.chars().map(KeyCode::Char).collect();
    press(top, &codes);
}

/// The owners of the rows, from top to bottom.
fn owners(screen: &str) -> Vec<&str> {
    let rows = screen.lines().skip(3).take_while(|line| !line.is_empty());
    rows.map(|line| line.split(' ').next().unwrap()).collect()
}

#[test]
fn narrow() {
    assert_eq!(screen(&mut top()), include_str!("screens/narrow.txt"));
}

#[test]
fn wide() {
    let wide = text(&mut top(), after(NOW), 150, 16);
    assert_eq!(wide, include_str!("screens/wide.txt"));
}

#[test]
fn explains_a_dying_socket() {
    let mut top = top();
    press(&mut top, &[KeyCode::Enter]);
    assert_eq!(screen(&mut top), include_str!("screens/dying.txt"));
}

#[test]
fn explains_a_quiet_socket() {
    let mut top = top();
    press(&mut top, &[KeyCode::End, KeyCode::Enter]);
    let text = text(&mut top, after(NOW), 110, 40);
    assert_eq!(text, include_str!("screens/quiet.txt"));
}

#[test]
fn colours_only_on_request() {
    for colour in [false, true] {
        let terminal = drawn(&mut top_of(&records(), colour), after(NOW), 80, 24);
        let cells = &terminal.backend().buffer().content;
        let red = cells.iter().any(|cell| cell.fg == Color::Red);
        let plain = cells
            .iter()
            .all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset));
        assert_eq!((red, plain), (colour, !colour));
    }
}

/// `s` cycles through all sort keys.
#[test]
fn s_sorts() {
    let mut top = top();
    let mut orders = Vec::new();
    for name in Sort::iter().map(Sort::name) {
        let screen = screen(&mut top);
        assert!(screen.contains(&format!("by {name}")), "{screen}");
        orders.push(owners(&screen).join(" "));
        press(&mut top, &[KeyCode::Char('s')]);
    }
    assert_eq!(screen(&mut top), include_str!("screens/narrow.txt"));
    assert!(orders[1].starts_with("sshd/1036"), "{}", orders[1]);
    assert!(orders[3].starts_with("rsync/933"), "{}", orders[3]);
    assert!(
        orders[5].starts_with("a-rat…/31999 maria…d/2077 nginx/801"),
        "{}",
        orders[5]
    );
    assert!(orders[6].ends_with("postg…/15546"), "{}", orders[6]);
}

#[test]
fn filters_by_owner_address_port_and_decision() {
    for (filter, expected) in [
        ("MariaDB", &["maria…d/2077"][..]),
        ("10.0.0.11", &["nginx/801"]),
        (":51515", &["postg…/15546"]),
        ("not_idle", &["nginx/801"]),
        ("sshd", &["sshd/1036", "sshd/12"]),
        ("no-such-owner", &[]),
    ] {
        let mut top = top();
        press(&mut top, &[KeyCode::Char('/')]);
        type_in(&mut top, filter);
        let typing = screen(&mut top);
        assert!(typing.contains(&format!("filter: {filter}_")), "{typing}");
        // After Enter keys are no longer typed into the filter.
        assert_eq!(
            press(&mut top, &[KeyCode::Enter, KeyCode::Char('x')]),
            Action::Nothing
        );
        let screen = screen(&mut top);
        if expected.is_empty() {
            assert!(screen.contains("No socket matches the filter."), "{screen}");
        } else {
            assert_eq!(owners(&screen), expected, "{screen}");
        }
        press(&mut top, &[KeyCode::Char('/'), KeyCode::Esc]);
        assert_eq!(self::screen(&mut top), include_str!("screens/narrow.txt"));
    }
}

#[test]
fn a_pause_stops_the_clock_and_the_events() {
    let mut top = top();
    let before = screen(&mut top);
    press(&mut top, &[KeyCode::Char('p')]);
    let lost = Event::Lost(crate::core::event::Lost {
        probes: 0,
        when: after(NOW),
        count: 5,
        place: crate::core::event::LostWhere::Ring,
    });
    top.event(&lost);
    let paused = text(&mut top, after(NOW + 60_000), 80, 24);
    let rows = |screen: &str| screen.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(rows(&paused), rows(&before));
    assert!(paused.contains("PAUSED"), "{paused}");
    press(&mut top, &[KeyCode::Char('p')]);
    let after = text(&mut top, after(NOW), 80, 24);
    assert!(
        after.contains("5 lost") && !after.contains("PAUSED"),
        "{after}"
    );
}

/// The cursor stays with its socket, whatever the order is.
#[test]
fn the_cursor_follows_its_socket() {
    let mut top = top();
    screen(&mut top);
    press(&mut top, &[KeyCode::Down, KeyCode::Down]);
    for _ in Sort::iter() {
        let terminal = drawn(&mut top, after(NOW), 80, 24);
        let buffer = terminal.backend().buffer();
        let reversed = |y: &u16| {
            buffer[(0, *y)]
                .modifier
                .contains(ratatui::style::Modifier::REVERSED)
        };
        let y = (0..24).find(reversed).unwrap();
        let row: String = (0..9).map(|x| buffer[(x, y)].symbol()).collect();
        assert_eq!(row, "rsync/933");
        press(&mut top, &[KeyCode::Char('s')]);
    }
}

/// Every row can be reached on a screen with five rows.
#[test]
fn a_short_screen_scrolls() {
    let mut top = top();
    let all: Vec<String> = owners(&screen(&mut top))
        .into_iter()
        .map(str::to_owned)
        .collect();
    for owner in &all {
        let short = text(&mut top, after(NOW), 80, 9);
        assert!(
            owners(&short).contains(&owner.as_str()),
            "{owner}:\n{short}"
        );
        press(&mut top, &[KeyCode::Down]);
    }
    press(&mut top, &[KeyCode::Home]);
    assert_eq!(screen(&mut top), include_str!("screens/narrow.txt"));
}

#[test]
fn actions_of_keys() {
    let mut top = top();
    assert_eq!(press(&mut top, &[KeyCode::Char('r')]), Action::Record);
    top.recording(true, "recording to x.kar; r ends it".to_owned());
    let recording = screen(&mut top);
    assert!(
        recording.contains("● REC") && recording.contains("recording to x.kar"),
        "{recording}"
    );
    // Esc first leaves the explanation, then the program.
    assert_eq!(
        press(&mut top, &[KeyCode::Enter, KeyCode::Esc]),
        Action::Nothing
    );
    assert_eq!(press(&mut top, &[KeyCode::Esc]), Action::Quit);
    assert_eq!(press(&mut top, &[KeyCode::Char('q')]), Action::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut top, &[KeyCode::Char('/')]);
    assert_eq!(top.key(control_c, after(NOW)), Action::Quit);
}

/// Sockets that died stay for a moment; closed ones and those with overdue timers are dropped.
#[test]
fn drops_ended_sockets() {
    let mut top = top();
    assert!(screen(&mut top).contains("sshd/12"));
    let later = text(&mut top, after(NOW + 15_000), 80, 24);
    assert!(
        !later.contains("sshd/12") && later.contains("sshd/1036"),
        "{later}"
    );
    let much_later = text(&mut top, after(NOW + 200_000), 80, 24);
    assert_eq!(owners(&much_later), ["a-rat…/31999"], "{much_later}");
}

/// A socket that is explained is not dropped.
#[test]
fn an_open_socket_stays() {
    let mut top = top();
    press(&mut top, &[KeyCode::Char('/')]);
    type_in(&mut top, "sshd/12");
    press(&mut top, &[KeyCode::Enter, KeyCode::Enter]);
    let later = text(&mut top, after(NOW + 60_000), 80, 24);
    assert!(
        later.contains("The socket has ended.") && later.contains("killed by keepalive"),
        "{later}"
    );
}

#[test]
fn untrusted_names_are_escaped() {
    let screen = screen(&mut top());
    assert!(
        !screen.chars().any(|c| is_harmful(c) && c != '\n'),
        "{screen}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No records and no size of the terminal make drawing fail.
    #[test]
    fn any_records_draw_on_any_screen(
        bytes in proptest::collection::vec(any::<u8>(), size_of::<Record>() * 8),
        size in (0u16..200, 0u16..60),
        now in 0u64..u64::MAX,
        open in any::<bool>(),
    ) {
        let mut records: Vec<Record> = bytes
            .chunks_exact(size_of::<Record>())
            .map(sound)
            .collect();
        for record in &mut records {
            record.id.sk %= 3;
        }
        let mut top = top_of(&records, true);
        if open {
            press(&mut top, &[KeyCode::Down, KeyCode::Enter, KeyCode::Down]);
        }
        drawn(&mut top, CLOCK.at(now), size.0, size.1);
        drawn(&mut top, after(NOW), size.0, size.1);
    }
}

/// There may be 100,000 rows.
#[test]
fn rows_are_small() {
    assert!(size_of::<Row>() <= 432, "{} bytes", size_of::<Row>());
}
