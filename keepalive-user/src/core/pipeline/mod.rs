//! # The pipeline
//!
//! Records in, events out: tracker, owner resolution, outputs, in this order. `trace` feeds it from the
//! kernel, `replay` from a recording; the recorder is attached between owner resolution and output, so
//! that live trace and replay process the same input.

mod host;
mod output;

use std::time::Duration;

use anyhow::Result;
use keepalive_ebpf::{Filter, Identity, Kind, Record, TcpSample};
use strum::IntoEnumIterator;

pub use self::output::{MissedLines, Output, Render};
use super::{
    clock::{Clock, WallClock},
    event::{
        End, Event, Finding, Losses, Lost, LostWhere, Missed, MissedCounts, MissedWhere, Start,
        When,
    },
    exit::worst,
    filter,
    ledger::Counts,
    owners::Owners,
    recording::Recorder,
    sysctls::SysctlWatch,
    tracker::{self, Observation, Tracker},
};

/// Sockets the tracker remembers.
const CAPACITY: usize = 1 << 20;

/// Which events to output, in addition to the filter on records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only sockets of this process.
    pub pid: Option<u32>,
    /// Ends after this many events.
    pub count: Option<u64>,
    /// Only records of these sockets.
    pub filter: Filter,
    /// Only records of this socket.
    pub only: Option<Identity>,
}

impl Wanted {
    fn admits(&self, id: &Identity) -> bool {
        filter::admits(&self.filter, id)
            && self
                .only
                .as_ref()
                .is_none_or(|only| filter::is_same(only, id))
    }
}

/// Everything between records and outputs.
pub struct Pipeline<O> {
    pub owners: O,
    pub recorder: Option<Recorder>,
    tracker: Tracker,
    outputs: Vec<Box<dyn Output>>,
    clock: WallClock,
    sysctls: SysctlWatch,
    wanted: Wanted,
    counts: Counts,
    /// Everything that was reported lost.
    lost: Losses,
    /// Everything that was reported missed.
    missed: MissedCounts,
    started: When,
    /// Where the recording that is replayed ends before the end of its trace, and why.
    pub cut: Option<String>,
    /// The events of the current record.
    observations: Vec<Observation>,
}

/// How long the reader of the output may take at the end before lines are dropped.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long it may then take for the last lines before they are abandoned.
const LAST: Duration = Duration::from_millis(150);

impl<O: Owners> Pipeline<O> {
    /// Outputs the first line; [`Pipeline::flush`] makes it visible.
    pub fn start(
        start: Start,
        owners: O,
        wanted: Wanted,
        outputs: Vec<Box<dyn Output>>,
        recorder: Option<Recorder>,
    ) -> Result<Self> {
        let clock = Clock {
            offset_ns: start.clock_offset_ns,
        };
        let mut pipeline = Self {
            owners,
            recorder,
            tracker: Tracker::new(start.hz, clock, CAPACITY, start.when.monotonic_ns),
            outputs,
            clock: WallClock::new(clock),
            sysctls: SysctlWatch::default(),
            wanted,
            counts: Counts::default(),
            lost: Losses::default(),
            missed: MissedCounts::default(),
            started: start.when,
            cut: None,
            observations: Vec::new(),
        };
        pipeline.show(&Event::Start(Box::new(start)))?;
        Ok(pipeline)
    }

    /// Adds a socket that is older than the trace.
    pub fn seed(&mut self, id: &Identity, time: u64, sample: Option<&TcpSample>) -> Result<()> {
        if !self.wanted.admits(id) {
            return Ok(());
        }
        self.tracker.seed(id, time, sample);
        to_recording(&mut self.recorder, |recorder| recorder.seed(id, time))
    }

    /// Processes one record and outputs its events.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        if !self.wanted.admits(&record.id) {
            return Ok(());
        }
        let time = record.after.time;
        if let Some(acting) = tracker::acting(record) {
            let inode = record.id.inode;
            match record.kind {
                Kind::Owner => self.owners.acted(inode, acting, time),
                Kind::Closing => self.owners.closing(inode, acting, time),
                Kind::KeepaliveTimer
                | Kind::WindowProbe
                | Kind::Setsockopt
                | Kind::Established
                | Kind::Close
                | Kind::Ack
                | Kind::Polled
                | Kind::Listed => {}
            }
        }
        // It produces no event, and a recording contains the owners themselves.
        if record.kind == Kind::Owner {
            if tracker::acting(record).is_none() {
                self.owners.expect(record.id.inode, time);
            }
            return Ok(());
        }
        // Before the tracker takes the record: it knows the socket since its listing or an earlier record.
        self.compare_sysctls(record);
        let mut observations = std::mem::take(&mut self.observations);
        self.tracker.observe(record, &mut observations);
        self.attribute(&observations, time);
        let recorded = self.tap(Some(record), &observations);
        let shown = self.emit_all(&mut observations, self.clock.at(time));
        observations.clear();
        self.observations = observations;
        worst([recorded, shown])
    }

    /// Resolves the owners of the sockets, without waiting.
    fn attribute(&mut self, observations: &[Observation], time: u64) {
        for observation in observations {
            self.owners.observe(observation, time);
        }
    }

    /// Writes the record to the recording, after the owners resolved so far of its sockets.
    fn tap(&mut self, record: Option<&Record>, observations: &[Observation]) -> Result<()> {
        let owners = &self.owners;
        to_recording(&mut self.recorder, |recorder| {
            if record.is_some_and(|record| !recorder.admits(record)) {
                return Ok(());
            }
            for observation in observations {
                recorder.process(observation.inode, owners.process(observation.inode))?;
                if let Some(place) = owners.place(observation.cgroup) {
                    recorder.cgroup(observation.cgroup, place.cgroup.path.as_deref())?;
                }
            }
            record.map_or(Ok(()), |record| recorder.record(record))
        })
    }

    /// Outputs the events of one record, observed `when`, and forgets the sockets that ended.
    fn emit_all(&mut self, observations: &mut [Observation], when: When) -> Result<()> {
        if observations.is_empty() {
            return Ok(());
        }
        // Not the time of the events: an answer is reported later.
        let mut outcome = self.report_unread(when);
        for observation in observations {
            let shown = self.emit(observation);
            outcome = worst([outcome, shown, self.forget(observation)]);
        }
        outcome
    }

    /// Outputs one event, unless `-p` selects another process.
    fn emit(&mut self, observation: &mut Observation) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        let event = &mut observation.event;
        let process = self.owners.process(observation.inode);
        if let Some(wanted) = self.wanted.pid
            && process.is_none_or(|process| process.pid != wanted)
        {
            // The owner is unresolved, so the event may belong to the selected process.
            self.lost.filter += u64::from(process.is_none());
            return Ok(());
        }
        self.lost.owner += u64::from(process.is_none() && observation.inode != 0);
        if let Some(owner) = event.owner() {
            *owner.process = process.cloned();
            if let Some(place) = self.owners.place(observation.cgroup) {
                *owner.cgroup = Some(place.cgroup);
                *owner.container_id = place.container_id;
            }
        }
        self.counts.add(event);
        if let Some(count) = &mut self.wanted.count {
            *count -= 1;
        }
        self.each(|output| output.event(event))
    }

    /// An ended socket has no owner. The recorder drops its entry at the same time, because a replay does
    /// so too and needs the owner written again.
    fn forget(&mut self, observation: &Observation) -> Result<()> {
        if !matches!(observation.event, Event::Closed(_)) {
            return Ok(());
        }
        self.owners.forget(observation.inode);
        to_recording(&mut self.recorder, |recorder| {
            recorder.forget(observation.inode)
        })
    }

    /// Outputs a finding of `audit`.
    pub fn finding(&mut self, finding: Finding) -> Result<()> {
        let recorded = to_recording(&mut self.recorder, |recorder| recorder.finding(&finding));
        let shown = self.show(&Event::Finding(Box::new(finding)));
        worst([recorded, shown])
    }

    /// Outputs that observations were lost.
    pub fn lost(&mut self, lost: Lost) -> Result<()> {
        self.lost.add(&lost);
        let recorded = to_recording(&mut self.recorder, |recorder| recorder.lost(&lost));
        let shown = self.show(&Event::Lost(lost));
        worst([recorded, shown])
    }

    /// Reports what no program saw since the last report. A probe whose record was lost is counted as lost,
    /// not as missed.
    pub fn report_missed(&mut self, when: When) -> Result<()> {
        let lost = self.lost.probes;
        let mut unseen = self.tracker.unseen().clone();
        self.tracker.unseen().reported();
        let mut outcome = Ok(());
        for place in MissedWhere::iter() {
            let counted_as_lost = match place {
                MissedWhere::Probe => lost,
                MissedWhere::WindowProbe
                | MissedWhere::Timer
                | MissedWhere::Close
                | MissedWhere::Unread => 0,
            };
            let before = *self.missed.at(place) + counted_as_lost;
            let count = unseen.counts.at(place).saturating_sub(before);
            if count > 0 {
                let since = unseen.since(place).unwrap_or(when.monotonic_ns);
                let missed = Missed {
                    when,
                    count,
                    since: self.clock.at(since),
                    place,
                };
                outcome = worst([outcome, self.missed(missed)]);
            }
        }
        outcome
    }

    /// Counts sockets that were due at the end and could not be read again.
    pub fn unread(&mut self, count: u64, when: When) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.missed(Missed {
            when,
            count,
            since: when,
            place: MissedWhere::Unread,
        })
    }

    /// As [`Tracker::knows`].
    pub fn knows(&mut self, id: &Identity) -> bool {
        self.tracker.knows(id)
    }

    /// As [`Tracker::overdue`].
    pub fn overdue(&self, time: u64, grace: Option<u32>) -> impl Iterator<Item = u64> {
        self.tracker.overdue(time, grace)
    }

    /// As [`Tracker::expect_looks`].
    pub fn expect_looks(&mut self) {
        self.tracker.expect_looks();
    }

    /// As [`Tracker::next_look`].
    pub fn next_look(&self) -> Option<u64> {
        self.tracker.next_look()
    }

    /// As [`Tracker::looks`].
    pub fn looks(&mut self, time: u64, most: usize) -> Vec<u64> {
        self.tracker.looks(time, most)
    }

    /// As [`Tracker::is_redundant`].
    pub fn is_redundant(&mut self, record: &Record) -> bool {
        self.tracker.is_redundant(record)
    }

    /// As [`Tracker::gone`].
    pub fn gone(&mut self, sk: u64) {
        self.tracker.gone(sk);
    }

    /// The kernel acted and no program saw it.
    pub fn missed(&mut self, missed: Missed) -> Result<()> {
        self.missed.add(&missed);
        let recorded = to_recording(&mut self.recorder, |recorder| recorder.missed(&missed));
        let shown = self.show(&Event::Missed(missed));
        worst([recorded, shown])
    }

    /// Outputs the last line. If a step fails, the remaining steps are still done.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(&mut self, when: When) -> Result<()> {
        let ended = self.last_observations(when);
        let recorded = to_recording(&mut self.recorder, |recorder| {
            recorder.finish(when.monotonic_ns)
        });
        self.recorder = None;
        let settled = self.each(|output| output.settle(PATIENCE));
        let unread = self.report_unread(when);
        let end = End {
            when,
            duration_ms: when.monotonic_ns.saturating_sub(self.started.monotonic_ns) / 1_000_000,
            sockets: self.counts.sockets(),
            events: self.counts.events,
            decisions: self.counts.decisions(),
            causes: self.counts.causes(),
            lost: self.lost,
            missed: self.missed,
            cut: self.cut.take(),
        };
        let shown = self.each(|output| output.event(&Event::End(end.clone())));
        let flushed = self.each(|output| output.flush());
        let written = self.each(|output| output.finish(LAST));
        worst([ended, recorded, settled, unread, shown, flushed, written])
    }

    fn last_observations(&mut self, when: When) -> Result<()> {
        let mut observations = Vec::new();
        self.tracker.finish(&mut observations);
        self.attribute(&observations, when.monotonic_ns);
        let recorded = self.tap(None, &observations);
        let shown = self.emit_all(&mut observations, when);
        worst([recorded, shown])
    }

    /// Calls `act` on every output, also after one of them fails.
    fn each(&mut self, mut act: impl FnMut(&mut dyn Output) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        for output in &mut self.outputs {
            outcome = outcome.and(act(&mut **output));
        }
        outcome
    }

    fn show(&mut self, event: &Event) -> Result<()> {
        self.report_unread(event.when())?;
        self.each(|output| output.event(event))
    }

    /// Reports lines that a reader did not take, in their place, as soon as it takes more. Only outputs
    /// that dropped lines report it: the recording and the report are complete.
    pub fn report_unread(&mut self, when: When) -> Result<()> {
        for output in &mut self.outputs {
            let MissedLines { lines, probes } = output.take_missed();
            if lines == 0 {
                continue;
            }
            // The probes are not lost: `end` counts them.
            self.lost.output = self.lost.output.saturating_add(lines);
            let lost = Event::Lost(Lost {
                when,
                count: lines,
                place: LostWhere::Output,
                probes,
            });
            output.event(&lost)?;
        }
        Ok(())
    }

    /// Flushes the outputs and the recording.
    pub fn flush(&mut self) -> Result<()> {
        let recorded = to_recording(&mut self.recorder, Recorder::flush);
        let flushed = self.each(|output| output.flush());
        worst([recorded, flushed])
    }

    /// Drops the outputs that have failed, so that the others can be finished.
    pub fn close_failed(&mut self) {
        self.outputs.retain(|output| !output.has_failed());
    }

    /// Whether all requested events were output.
    pub fn is_done(&self) -> bool {
        self.wanted.count == Some(0)
    }

    /// Everything that was reported lost so far.
    pub fn losses(&self) -> Losses {
        self.lost
    }

    /// Sockets dropped from the tracker's full table so far.
    pub fn evicted(&self) -> u64 {
        self.tracker.evicted()
    }
}

/// Writes to the recording, if there is one.
fn to_recording(
    recorder: &mut Option<Recorder>,
    write: impl FnOnce(&mut Recorder) -> Result<()>,
) -> Result<()> {
    recorder.as_mut().map_or(Ok(()), write)
}
