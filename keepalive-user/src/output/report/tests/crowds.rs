//! Reports of very many sockets: bounded, and complete for the sockets that are kept.

use super::*;

/// `number` sockets that are probed and answer every second; every tenth dies.
fn crowd(number: u64, seconds: u64) -> Vec<Event> {
    let one = events(&story());
    let of = |event: &Event, id: u64, second: u64| {
        let mut event = event.clone();
        match &mut event {
            Event::Timer(SocketEvent { when, socket, .. }) => {
                (socket.id, *when) = (id, CLOCK.at((1000 + second) * SECOND));
            }
            Event::Answer(SocketEvent { when, socket, .. }) => {
                (socket.id, *when) = (id, CLOCK.at((1000 + second) * SECOND + 1_000_000));
            }
            Event::Closed(SocketEvent { when, socket, .. }) => {
                (socket.id, *when) = (id, CLOCK.at((1000 + second) * SECOND));
            }
            other @ (Event::Start(_)
            | Event::Armed(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_)) => panic!("{other:?}"),
        }
        event
    };
    let mut all = Vec::new();
    for second in 1..seconds {
        for id in 1..=number {
            all.push(of(&one[1], id, second));
            all.push(of(&one[2], id, second));
        }
    }
    let dying = (1..=number).filter(|id| id % 10 == 0);
    all.extend(dying.map(|id| of(&one[6], id, seconds)));
    all
}

#[test]
fn a_page_of_many_sockets_is_small() {
    let model = model(&crowd(2000, 60), 60);
    let page = page(&model);
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
    let data = data(&page);
    let sockets = data["sockets"].as_array().unwrap();
    assert_eq!((sockets.len(), &data["left_out"]), (2000, &0.into()));
    let killed = sockets
        .iter()
        .take_while(|socket| socket["outcome"] == "timed_out");
    assert_eq!(killed.count(), 200);
    for socket in sockets {
        let here = socket["events"].as_array().unwrap().len() as u64;
        let all = socket["timers"].as_u64().unwrap() + socket["answers"].as_u64().unwrap();
        let missing = socket["missing"].as_u64().unwrap();
        let death = u64::from(socket["outcome"] == "timed_out");
        assert_eq!(here + missing, all + death);
        assert!(missing > 0);
    }
}

/// The worst sockets, as links with a lane each, and an axis below.
#[test]
fn the_page_has_lanes() {
    let page = page(&model(&crowd(20, 4), 4));
    assert_eq!(page.matches("<li><a href=\"#socket-").count(), 8);
    assert_eq!(page.matches("<li class=\"axis\">").count(), 1);
    let (_, lanes) = page.split_once("<ol id=\"lanes\">").unwrap();
    let (lanes, _) = lanes.split_once("</ol>").unwrap();
    assert!(lanes.starts_with("<li><a href=\"#socket-10\">"), "{lanes}");
    roxmltree::Document::parse(&format!("<ol>{lanes}</ol>")).unwrap();
}

/// Memory is bounded, and the sockets that are not kept are counted.
#[test]
fn more_sockets_than_are_kept() {
    let model = model(&crowd(20_000, 4), 4);
    let data = data(&page(&model));
    let kept = data["sockets"].as_array().unwrap();
    assert_eq!(
        kept.len() as u64 + data["left_out"].as_u64().unwrap(),
        20_000
    );
    assert!(kept.len() <= 4096);
    let killed = kept
        .iter()
        .filter(|socket| socket["outcome"] == "timed_out");
    assert_eq!(killed.count(), 2000);
}

#[test]
fn a_long_trace_has_no_more_buckets_than_a_short_one() {
    let model = model(&crowd(3, 50_000), 50_000);
    assert!(model.scale.used() <= time::BUCKETS);
    let sums = model.heat.values().map(|row| row.iter().sum::<u64>());
    assert_eq!(sums.sum::<u64>(), 3 * 2 * 49_999);
    for story in model.stories.values() {
        assert!(story.strip.len() <= model.scale.used());
    }
}

#[test]
fn one_socket_is_found_or_the_choices_are_printed() {
    let model = model(&crowd(30, 3), 3);
    let stories = model.worst_first();
    let of = |target: &str| only(&stories, &target.parse().unwrap());
    let error = of(":22").err().unwrap().to_string();
    assert!(
        error.contains("30 such sockets") && error.contains("20 more"),
        "{error}"
    );
    assert!(
        of(":23")
            .err()
            .unwrap()
            .to_string()
            .contains("no such socket was recorded")
    );
    let first = [stories[0]];
    let of = |target: &str| only(&first, &target.parse().unwrap()).is_ok();
    assert!(of("sk:1f") && of(":22") && of("10.0.0.1:22-10.0.0.9:51514"));
    assert!(!of("sk:20") && !of("10.0.0.9:51514-10.0.0.1:22"));
}
