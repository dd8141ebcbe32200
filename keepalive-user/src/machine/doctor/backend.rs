//! A backend in the report.

use crate::{
    core::event::{BackendReport, HookReport, Status},
    machine::bpf::{hooks::HookNeed, survey::Survey},
};

/// What is lost without the hook of that option.
pub const LIVE_ANSWERS: &str = "--live-answers";

/// The result of one backend: refused if anything required is.
pub fn report(survey: &Survey) -> BackendReport {
    let hooks: Vec<HookReport> = survey
        .hooks
        .iter()
        .map(|(hook, refused)| HookReport {
            at: hook.at.describe(),
            status: match (refused, hook.need) {
                (None, _) => Status::Ok,
                (Some(_), HookNeed::Required) => Status::Refused,
                (Some(_), _) => Status::Degraded,
            },
            reason: refused.clone(),
            lost: refused.as_ref().and(match hook.need {
                HookNeed::Required => None,
                HookNeed::Optional(lost) => Some(lost),
                HookNeed::LiveAnswers => Some(LIVE_ANSWERS),
            }),
        })
        .collect();
    let first_refused = hooks.iter().find(|hook| hook.status == Status::Refused);
    let error = survey
        .load_error
        .clone()
        .or_else(|| {
            first_refused
                .map(|hook| format!("{}: {}", hook.at, hook.reason.clone().unwrap_or_default()))
        })
        .or_else(|| survey.self_test.as_ref().err().cloned());
    let status = match &error {
        Some(_) => Status::Refused,
        None if hooks.iter().any(|hook| hook.status != Status::Ok) => Status::Degraded,
        None => Status::Ok,
    };
    BackendReport {
        backend: survey.backend,
        status,
        error,
        self_test: if survey.self_test.is_ok() {
            Status::Ok
        } else {
            Status::Refused
        },
        hz: survey.self_test.as_ref().ok().map(|learned| learned.hz),
        hooks,
    }
}

#[cfg(test)]
mod tests {
    use keepalive_ebpf::TimerFunctions;

    use super::*;
    use crate::{
        core::event::Backend,
        machine::bpf::{hooks::hooks_of, self_test::Learned},
    };

    fn survey(is_refused: impl Fn(HookNeed) -> bool, self_test: Result<Learned, String>) -> Survey {
        let hooks = hooks_of(Backend::Fentry).iter().map(|hook| {
            let refused = is_refused(hook.need).then(|| "not in this kernel".to_owned());
            (*hook, refused)
        });
        Survey {
            backend: Backend::Fentry,
            load_error: None,
            self_test,
            hooks: hooks.collect(),
        }
    }

    #[test]
    fn only_what_is_required_refuses_a_backend() {
        let learned = || {
            Ok(Learned {
                hz: 250,
                functions: TimerFunctions::default(),
                same_pids: true,
            })
        };
        let whole = report(&survey(|_| false, learned()));
        assert_eq!(
            (whole.status, whole.error, whole.hz),
            (Status::Ok, None, Some(250))
        );
        let partly = report(&survey(|need| need != HookNeed::Required, learned()));
        assert_eq!((partly.status, partly.error), (Status::Degraded, None));
        let lost: Vec<&str> = partly.hooks.iter().filter_map(|hook| hook.lost).collect();
        assert!(lost.contains(&"zero-window probes") && lost.contains(&"--live-answers"));
        let refused = report(&survey(|need| need == HookNeed::Required, learned()));
        assert_eq!(refused.status, Status::Refused);
        assert!(refused.error.unwrap().ends_with(": not in this kernel"));
        let unproved = report(&survey(|_| false, Err("wrong kernel layout".to_owned())));
        assert_eq!(unproved.error.as_deref(), Some("wrong kernel layout"));
    }
}
