//! Limits on the cost of finding owners. Both are pure: the time is an argument.

/// Nanoseconds, of CLOCK_MONOTONIC or of CPU time.
pub type Nanoseconds = u64;

const SECOND: Nanoseconds = 1_000_000_000;

/// A share of one CPU for jobs whose duration is not known beforehand. A job that took `cpu` delays the
/// next one by `factor` times as much: debt is carried over, and in the long run the share is at most
/// 1/`factor`.
#[derive(Debug)]
pub struct Budget {
    factor: u64,
    /// CPU time that short jobs may take at once after a pause.
    credit: Nanoseconds,
    /// The time at which all CPU time used so far is paid for.
    paid: Nanoseconds,
    /// CPU time of the last job.
    last: Nanoseconds,
}

impl Budget {
    pub const fn new(factor: u64, credit: Nanoseconds) -> Self {
        Self {
            factor,
            credit,
            paid: 0,
            last: 0,
        }
    }

    /// When the next job may begin. A job as long as the last one must fit into the credit that is
    /// left; one that alone is longer than the credit gets none.
    pub fn ready_at(&self) -> Nanoseconds {
        let credit = self.credit.saturating_sub(self.last);
        self.paid.saturating_sub(credit.saturating_mul(self.factor))
    }

    /// A job that began at `start` took so much CPU time.
    pub fn spend(&mut self, start: Nanoseconds, cpu: Nanoseconds) {
        self.last = cpu;
        self.paid = self
            .paid
            .max(start)
            .saturating_add(cpu.saturating_mul(self.factor));
    }
}

/// A limit on the small system calls per second that are made between two records.
#[derive(Debug)]
pub struct Tokens {
    per_second: u64,
    /// Tokens at the time `counted`, in nanoseconds of refill time.
    earned: Nanoseconds,
    counted: Nanoseconds,
}

impl Tokens {
    /// A full bucket, as after a second without use.
    pub const fn new(per_second: u64) -> Self {
        Self {
            per_second,
            earned: SECOND,
            counted: 0,
        }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Nanoseconds) -> bool {
        // Records of several CPUs are not strictly ordered.
        self.earned = SECOND.min(self.earned + now.saturating_sub(self.counted).min(SECOND));
        self.counted = self.counted.max(now);
        let price = SECOND / self.per_second;
        let enough = self.earned >= price;
        if enough {
            self.earned -= price;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Nanoseconds = 1_000_000;

    #[test]
    fn a_long_job_is_paid_for_before_the_next() {
        let mut budget = Budget::new(50, 20 * MILLISECOND);
        assert_eq!(budget.ready_at(), 0);
        let start = 100 * SECOND;
        budget.spend(start, 400 * MILLISECOND);
        assert_eq!(budget.ready_at(), start + 20 * SECOND);
    }

    /// One job after the other, as soon as each may begin.
    #[test]
    fn debt_is_carried_over() {
        for cpu in [100_000, MILLISECOND, 15 * MILLISECOND, 700 * MILLISECOND] {
            let credit = 20 * MILLISECOND;
            let mut budget = Budget::new(50, credit);
            let (begin, mut now, mut taken) = (SECOND, SECOND, 0);
            while now < begin + 100 * SECOND {
                now = now.max(budget.ready_at()) + cpu;
                budget.spend(now - cpu, cpu);
                taken += cpu;
            }
            // The last job, and the credit, are all that may be above the share.
            let most = (now - begin) / 50 + credit + cpu;
            assert!(taken <= most, "{cpu}: {taken} > {most}");
            let least = (now - begin) / 50 - credit;
            assert!(taken + cpu >= least, "{cpu}: {taken} < {least}");
        }
    }

    #[test]
    fn short_jobs_have_credit_after_a_pause() {
        let mut budget = Budget::new(50, 20 * MILLISECOND);
        let now = 100 * SECOND;
        let mut jobs = 0;
        while budget.ready_at() <= now {
            budget.spend(now, MILLISECOND);
            jobs += 1;
        }
        assert_eq!(jobs, 20);
        // An hour of pause gives no more than that.
        let now = now + 3600 * SECOND;
        let mut jobs = 0;
        while budget.ready_at() <= now {
            budget.spend(now, MILLISECOND);
            jobs += 1;
        }
        assert_eq!(jobs, 20);
    }

    #[test]
    fn tokens_per_second_are_limited() {
        let mut tokens = Tokens::new(100);
        let taken = |tokens: &mut Tokens, now| (0..1000).filter(|_| tokens.take(now)).count();
        assert_eq!(taken(&mut tokens, SECOND), 100);
        assert_eq!(taken(&mut tokens, SECOND + SECOND / 2), 50);
        // A record with an earlier time adds no tokens.
        assert_eq!(taken(&mut tokens, SECOND), 0);
        assert_eq!(taken(&mut tokens, 60 * SECOND), 100);
    }
}
