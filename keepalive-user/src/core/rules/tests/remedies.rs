//! Every remedy, applied.

use proptest::prelude::*;

use super::*;

/// The settings after the options in a remedy are set.
fn applied(remedy: &str, mut keepalive: Keepalive) -> Keepalive {
    let value = |name: &str| -> Option<u64> {
        let (_, rest) = remedy.split_once(&format!("{name} = "))?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    keepalive.enabled |= value("SO_KEEPALIVE") == Some(1);
    if let Some(idle) = value("TCP_KEEPIDLE") {
        keepalive.time_ms = idle * 1000;
    }
    if let Some(interval) = value("TCP_KEEPINTVL") {
        keepalive.interval_ms = interval * 1000;
    }
    if let Some(count) = value("TCP_KEEPCNT") {
        keepalive.probes = u32::try_from(count).unwrap();
    }
    if let Some(timeout) = value("TCP_USER_TIMEOUT") {
        keepalive.user_timeout_ms = timeout;
    }
    keepalive
}

/// The rules that fire, each with its remedy.
fn findings(
    keepalive: Keepalive,
    silence_ms: u64,
    middlebox: Option<&Middlebox>,
) -> Vec<(&'static str, String)> {
    let socket = ListedSocket {
        keepalive: Some(keepalive),
        silence_ms: Some(silence_ms),
        ..socket()
    };
    let plan = arithmetic::plan_of(&socket, Some(250));
    let case = Case {
        socket: &socket,
        plan: plan.as_ref(),
        middlebox,
        silent_ms: HOUR,
        around: &Surroundings::default(),
    };
    let fires = RULES.iter();
    fires
        .filter_map(|rule| Some((rule.name, (rule.check)(&case)?.remedy)))
        .collect()
}

fn settings() -> impl Strategy<Value = Keepalive> {
    let seconds = || prop_oneof![1u64..100, 1u64..=32_767];
    let timeout = prop_oneof![Just(0u64), 1u64..100_000, 0u64..10_000_000];
    (any::<bool>(), seconds(), seconds(), 1u32..=127, timeout).prop_map(
        |(enabled, time, interval, probes, user_timeout_ms)| Keepalive {
            enabled,
            time_ms: time * 1000,
            interval_ms: interval * 1000,
            probes,
            user_timeout_ms,
            ..keepalive()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A remedy ends its finding, and makes no other.
    #[test]
    fn a_remedy_makes_its_rule_silent_and_no_other_fire(
        before in settings(),
        timeout_s in proptest::option::of(3u64..2_000),
        silence_ms in prop_oneof![Just(0), Just(60_000), Just(HOUR)],
    ) {
        let middlebox = timeout_s.map(|s| Middlebox::unnamed(std::time::Duration::from_secs(s)));
        let found = findings(before, silence_ms, middlebox.as_ref());
        for (rule, remedy) in &found {
            let after = applied(remedy, before);
            prop_assert_ne!(after, before, "{}: {} changes nothing", rule, remedy);
            for (other, _) in findings(after, silence_ms, middlebox.as_ref()) {
                prop_assert_ne!(&other, rule, "{:?} by {} is {:?}", before, remedy, after);
                let had = found.iter().any(|(name, _)| *name == other);
                prop_assert!(had, "{} by {}: {:?} is {:?}", other, remedy, before, after);
            }
        }
    }
}

/// Found by hand: a timeout below the idle time, far above it, and one that is no whole second.
#[test]
fn all_settings_agree_afterwards() {
    for (idle, interval, count, user_timeout_ms) in [
        (60, 10, 3, 50_000),
        (60, 10, 3, 600_000),
        (1, 1, 9, 2_500),
        (7_200, 75, 9, 20_000),
    ] {
        let before = Keepalive {
            time_ms: idle * 1000,
            interval_ms: interval * 1000,
            probes: count,
            user_timeout_ms,
            ..keepalive()
        };
        let found = findings(before, 0, None);
        assert!(!found.is_empty());
        let remedies: Vec<&String> = found.iter().map(|(_, remedy)| remedy).collect();
        assert!(remedies.windows(2).all(|two| two[0] == two[1]), "{found:?}");
        let after = applied(remedies[0], before);
        assert!(findings(after, 0, None).is_empty(), "{after:?}");
    }
}
