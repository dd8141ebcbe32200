//! # The pipeline
//!
//! Records in, events out: tracker, attribution, outputs, in this order. `trace` feeds it from the
//! kernel, `replay` from a recording; the recording is tapped off here, between attribution and
//! output, so that both see the same.

use std::time::Duration;

use anyhow::Result;
use keepalive_ebpf::{Filter, Identity, Kind, Record, TcpSample};
use strum::IntoEnumIterator;

use super::{
    clock::Clock,
    event::{
        End, Event, Finding, Losses, Lost, LostWhere, Missed, MissedCounts, MissedWhere, Start,
        When,
    },
    exit::worst,
    filter,
    ledger::Counts,
    owners::Owners,
    recording::Recorder,
    tracker::{self, Observation, Tracker},
};

/// Sockets the tracker remembers.
const CAPACITY: usize = 1 << 20;

/// Something that events are shown by: lines, a screen, a report.
pub trait Output {
    /// Shows one event. Nothing is promised to be visible before [`Output::flush`].
    ///
    /// # Errors
    /// If nothing more can be shown.
    fn event(&mut self, event: &Event) -> Result<()>;

    /// Makes visible what was shown.
    ///
    /// # Errors
    /// If nothing more can be shown.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Lines that a reader did not take since this was last asked, if it takes some again.
    fn take_missed(&mut self) -> MissedLines {
        MissedLines::default()
    }

    /// Whether nothing can be shown any more.
    fn has_failed(&self) -> bool {
        false
    }

    /// What follows is the end. A reader that does not take in time what is before it misses that.
    ///
    /// # Errors
    /// If nothing more can be shown.
    fn settle(&mut self, _patience: Duration) -> Result<()> {
        Ok(())
    }

    /// Waits until all is taken, but no longer than this.
    ///
    /// # Errors
    /// If it was not taken in time, or cannot be.
    fn finish(&mut self, _patience: Duration) -> Result<()> {
        Ok(())
    }
}

/// What an event looks like in a stream of bytes.
pub trait Render {
    /// Appends the lines of one event; nothing if it has none.
    ///
    /// # Errors
    /// If it cannot be rendered.
    fn render(&mut self, event: &Event, lines: &mut Vec<u8>) -> Result<()>;
}

/// Lines that a reader did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissedLines {
    pub lines: u64,
    /// Keepalive probes among the events in them.
    pub probes: u64,
}

/// What of the events is wanted, beyond what the records were filtered for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only sockets of this process.
    pub pid: Option<u32>,
    /// The end after so many events.
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

/// Everything between records and what is shown of them.
pub struct Pipeline<O> {
    pub owners: O,
    pub recorder: Option<Recorder>,
    tracker: Tracker,
    outputs: Vec<Box<dyn Output>>,
    clock: Clock,
    wanted: Wanted,
    counts: Counts,
    /// Everything that was reported lost.
    lost: Losses,
    /// Everything that was reported missed.
    missed: MissedCounts,
    started: When,
    /// What the present record gives.
    observations: Vec<Observation>,
}

/// How long the reader of the output is waited for at the end, before it misses lines …
const PATIENCE: Duration = Duration::from_millis(250);
/// … and how long it has for the last ones, until they are abandoned.
const LAST: Duration = Duration::from_millis(150);

impl<O: Owners> Pipeline<O> {
    /// Shows the first line; [`Pipeline::flush`] makes it visible.
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
            clock,
            wanted,
            counts: Counts::default(),
            lost: Losses::default(),
            missed: MissedCounts::default(),
            started: start.when,
            observations: Vec::new(),
        };
        pipeline.show(&Event::Start(Box::new(start)))?;
        Ok(pipeline)
    }

    /// A socket that is older than the trace.
    pub fn seed(&mut self, id: &Identity, time: u64, numbers: Option<&TcpSample>) -> Result<()> {
        if !self.wanted.admits(id) {
            return Ok(());
        }
        self.tracker.seed(id, time, numbers);
        self.recorder
            .as_mut()
            .map_or(Ok(()), |recorder| recorder.seed(id, time))
    }

    /// One record: all that it tells is shown.
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
                | Kind::Looked
                | Kind::Listed => {}
            }
        }
        // No event comes of it, and a recording has the owners themselves.
        if record.kind == Kind::Owner {
            return Ok(());
        }
        let mut observations = std::mem::take(&mut self.observations);
        self.tracker.observe(record, &mut observations);
        self.attribute(&observations, time);
        self.tap(Some(record), &observations)?;
        for observation in &mut observations {
            self.emit(observation)?;
            self.forget(observation);
        }
        observations.clear();
        self.observations = observations;
        Ok(())
    }

    /// Finds whose the sockets are, as far as that can be found now.
    fn attribute(&mut self, observations: &[Observation], time: u64) {
        for observation in observations {
            self.owners.observe(observation, time);
        }
    }

    /// Records the record, and before it what is known by now of those it is about.
    fn tap(&mut self, record: Option<&Record>, observations: &[Observation]) -> Result<()> {
        let Some(recorder) = &mut self.recorder else {
            return Ok(());
        };
        if record.is_some_and(|record| !recorder.admits(record)) {
            return Ok(());
        }
        for observation in observations {
            let process = self.owners.process(observation.inode);
            recorder.process(observation.inode, process)?;
            if let Some(place) = self.owners.place(observation.cgroup) {
                recorder.cgroup(observation.cgroup, place.cgroup.path.as_deref())?;
            }
        }
        record.map_or(Ok(()), |record| recorder.record(record))
    }

    /// Shows one event, unless another process's sockets are wanted.
    fn emit(&mut self, observation: &mut Observation) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        let event = &mut observation.event;
        let process = self.owners.process(observation.inode);
        if let Some(wanted) = self.wanted.pid
            && process.is_none_or(|process| process.pid != wanted)
        {
            // Whose it is, is not resolved: it may have been wanted.
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
        self.show(event)
    }

    /// What has ended has no owner any more. The recorder forgets it at the same time: it writes what the
    /// attribution of a replay does not know by then.
    fn forget(&mut self, observation: &Observation) {
        if matches!(observation.event, Event::Closed(_)) {
            self.owners.forget(observation.inode);
            if let Some(recorder) = &mut self.recorder {
                recorder.forget(observation.inode);
            }
        }
    }

    /// What `audit` found.
    pub fn finding(&mut self, finding: Finding) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.finding(&finding)?;
        }
        self.show(&Event::Finding(Box::new(finding)))
    }

    /// Observations were lost.
    pub fn lost(&mut self, lost: Lost) -> Result<()> {
        self.lost.add(&lost);
        if let Some(recorder) = &mut self.recorder {
            recorder.lost(&lost)?;
        }
        self.show(&Event::Lost(lost))
    }

    /// Reports what no program saw since this was last reported. A probe whose record was lost on the
    /// way is counted there, not here.
    pub fn report_missed(&mut self, when: When) -> Result<()> {
        let lost = self.lost.probes;
        let mut unseen = self.tracker.unseen().clone();
        self.tracker.unseen().reported();
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
                self.missed(Missed {
                    when,
                    count,
                    since: self.clock.at(since),
                    place,
                })?;
            }
        }
        Ok(())
    }

    /// Sockets that were due at the end and could not be read again.
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

    /// As [`Tracker::gone`].
    pub fn gone(&mut self, sk: u64) {
        self.tracker.gone(sk);
    }

    /// The kernel acted and no program saw it.
    pub fn missed(&mut self, missed: Missed) -> Result<()> {
        self.missed.add(&missed);
        if let Some(recorder) = &mut self.recorder {
            recorder.missed(&missed)?;
        }
        self.show(&Event::Missed(missed))
    }

    /// The last line. Whatever fails, the rest is done all the same.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(&mut self, when: When) -> Result<()> {
        let ended = self.last_observations(when.monotonic_ns);
        let recorded = match self.recorder.take() {
            Some(mut recorder) => recorder.finish(when.monotonic_ns),
            None => Ok(()),
        };
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
        };
        let shown = self.each(|output| output.event(&Event::End(end.clone())));
        let flushed = self.each(|output| output.flush());
        let written = self.each(|output| output.finish(LAST));
        worst([ended, recorded, settled, unread, shown, flushed, written])
    }

    fn last_observations(&mut self, time: u64) -> Result<()> {
        let mut observations = Vec::new();
        self.tracker.finish(&mut observations);
        self.attribute(&observations, time);
        self.tap(None, &observations)?;
        for observation in &mut observations {
            self.emit(observation)?;
            self.forget(observation);
        }
        Ok(())
    }

    /// Does something with every output, even if it fails with one of them.
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

    /// Reports, where they are missing, the lines that a reader did not take, as soon as it takes
    /// more. Only those who miss lines see it: the recording and the report are whole.
    pub fn report_unread(&mut self, when: When) -> Result<()> {
        for output in &mut self.outputs {
            let MissedLines { lines, probes } = output.take_missed();
            if lines == 0 {
                continue;
            }
            // The probes are not lost: `end` counts them with the others.
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

    /// Makes visible what was shown, and keeps what was recorded.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush()?;
        }
        self.each(|output| output.flush())
    }

    /// Drops what can no longer be written, so that the rest can be finished.
    pub fn close_failed(&mut self) {
        self.outputs.retain(|output| !output.has_failed());
    }

    /// Whether all that was asked for has been shown.
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

    pub fn clock(&self) -> Clock {
        self.clock
    }
}
