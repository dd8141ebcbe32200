//! Events of the host rather than of a socket: suspend, a wall clock that is set, changed sysctls.

use anyhow::Result;
use keepalive_ebpf::Record;

use super::{Owners, Pipeline, to_recording};
use crate::core::{
    clock::{ClockChange, Offset, WallClock},
    event::{ClockStep, Event, Suspend, SysctlChange, Sysctls, When},
    exit::worst,
    recording::HostFrame,
    sysctls::{Changed, Values},
};

impl<O: Owners> Pipeline<O> {
    pub fn clock(&self) -> WallClock {
        self.clock
    }

    /// From its time on wall-clock times have this offset.
    fn set_clock(&mut self, offset: Offset) {
        self.clock.change(offset);
        self.tracker.set_clock(self.clock);
    }

    /// The clocks changed: outputs an event for each reason.
    pub fn clock_changed(&mut self, change: &ClockChange) -> Result<()> {
        self.set_clock(change.offset);
        let when = self.clock.at(change.noticed);
        let recorded = to_recording(&mut self.recorder, |recorder| {
            recorder.host(HostFrame::Clock(change.offset))
        });
        let suspended =
            (change.suspended_ns > 0).then(|| self.suspended(when, change.suspended_ns));
        let stepped = (change.step_ns != 0).then(|| self.stepped(when, change.step_ns));
        worst([
            recorded,
            suspended.unwrap_or(Ok(())),
            stepped.unwrap_or(Ok(())),
        ])
    }

    /// The host was suspended, and its wall clock has the present offset.
    fn suspended(&mut self, when: When, duration_ns: u64) -> Result<()> {
        let event = Event::Suspend(Suspend {
            when,
            duration_ms: duration_ns / 1_000_000,
            clock_offset_ns: self.clock.present().offset_ns,
        });
        let time = when.monotonic_ns;
        self.host_event(&event, HostFrame::Suspend { duration_ns, time })
    }

    /// The wall clock was set, and has the present offset.
    fn stepped(&mut self, when: When, step_ns: i64) -> Result<()> {
        let event = Event::ClockStep(ClockStep {
            when,
            step_us: step_ns / 1000,
            clock_offset_ns: self.clock.present().offset_ns,
        });
        let time = when.monotonic_ns;
        self.host_event(&event, HostFrame::ClockStep { step_ns, time })
    }

    /// Compares the sysctls in a record with those of earlier ones.
    pub(super) fn compare_sysctls(&mut self, record: &Record) {
        let Some(values) = Values::of(&record.settings) else {
            return;
        };
        let (tracker, id) = (&mut self.tracker, &record.id);
        self.sysctls
            .observe(id.netns, values, record.after.time, || {
                tracker.known_since(id)
            });
    }

    /// Takes the sysctls that this namespace has now, which the caller keeps from ending.
    pub fn polled_sysctls(&mut self, netns: u32, values: &Sysctls, time: u64) {
        let values = Values::polled(values, self.tracker.hz());
        self.sysctls.observe(netns, values, time, || Some(0));
    }

    /// Reports the sysctls that were changed since the last call.
    pub fn report_sysctls(&mut self, when: When) -> Result<()> {
        let mut outcome = Ok(());
        for changed in self.sysctls.take_changes(self.tracker.hz()) {
            let Changed { netns, sysctl, .. } = changed;
            let change = SysctlChange {
                when,
                since: self.clock.at(changed.since),
                netns,
                name: sysctl,
                old: changed.old,
                new: changed.new,
                sockets: self.tracker.unaffected(netns, sysctl),
            };
            outcome = worst([outcome, self.sysctl_changed(change)]);
        }
        outcome
    }

    /// A sysctl was changed; not reported if a filter selects another namespace.
    fn sysctl_changed(&mut self, change: SysctlChange) -> Result<()> {
        let selected = self.wanted.filter.netns;
        if selected != 0 && selected != change.netns {
            return Ok(());
        }
        let frame = HostFrame::Sysctl {
            time: change.when.monotonic_ns,
            since: change.since.monotonic_ns,
            netns: change.netns,
            name: change.name,
            old: change.old,
            new: change.new,
            sockets: change.sockets,
        };
        self.host_event(&Event::Sysctl(change), frame)
    }

    /// A frame of a recording.
    pub fn host_frame(&mut self, frame: HostFrame) -> Result<()> {
        let clock = self.clock;
        match frame {
            HostFrame::Clock(offset) => {
                self.set_clock(offset);
                Ok(())
            }
            HostFrame::Suspend { duration_ns, time } => self.suspended(clock.at(time), duration_ns),
            HostFrame::ClockStep { step_ns, time } => self.stepped(clock.at(time), step_ns),
            HostFrame::Sysctl {
                time,
                since,
                netns,
                name,
                old,
                new,
                sockets,
            } => self.sysctl_changed(SysctlChange {
                when: clock.at(time),
                since: clock.at(since),
                netns,
                name,
                old,
                new,
                sockets,
            }),
        }
    }

    fn host_event(&mut self, event: &Event, frame: HostFrame) -> Result<()> {
        self.counts.add(event);
        let recorded = to_recording(&mut self.recorder, |recorder| recorder.host(frame));
        worst([recorded, self.show(event)])
    }
}
