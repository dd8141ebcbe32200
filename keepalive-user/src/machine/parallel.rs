//! # Parallel work
//!
//! Many items, made into parts by all CPUs, and taken in order.

use std::{
    num::NonZero,
    ops::Range,
    panic::resume_unwind,
    thread::{self, available_parallelism},
};

use anyhow::Result;

/// The items of one part.
const AT_ONCE: usize = 4096;

/// Passes all parts of `total` items to `take`, in order. `make` replaces the contents of a part, which is
/// reused, by those of these items.
///
/// # Errors
/// The first error of `make` or `take`.
pub fn in_order<T: Default + Send>(
    total: usize,
    make: impl Fn(Range<usize>, &mut T) -> Result<()> + Sync,
    mut take: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    let workers = available_parallelism().map_or(1, NonZero::get);
    let mut parts: Vec<T> = Vec::new();
    parts.resize_with(workers, T::default);
    let make = &make;
    for start in (0..total).step_by(AT_ONCE * workers) {
        let ranges = (start..total)
            .step_by(AT_ONCE)
            .map(|from| from..total.min(from + AT_ONCE));
        let made: Vec<Result<&mut T>> = thread::scope(|scope| {
            let running: Vec<_> = ranges
                .zip(&mut parts)
                .map(|(range, part)| scope.spawn(move || make(range, part).map(|()| part)))
                .collect();
            let joined = running.into_iter().map(|part| part.join());
            joined
                .map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        for part in made {
            take(part?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    fn gathered(total: usize, most: usize) -> (Vec<usize>, Result<()>) {
        let mut all = Vec::new();
        let make = |range: Range<usize>, part: &mut Vec<usize>| {
            ensure!(range.end <= most, "too many");
            part.clear();
            part.extend(range);
            Ok(())
        };
        let outcome = in_order(total, make, |part| {
            all.extend(part);
            Ok(())
        });
        (all, outcome)
    }

    #[test]
    fn every_item_comes_once_and_in_order() {
        for total in [0, 1, AT_ONCE, 40 * AT_ONCE + 7] {
            let (all, outcome) = gathered(total, usize::MAX);
            outcome.unwrap();
            assert!(all.into_iter().eq(0..total), "{total}");
        }
    }

    #[test]
    fn an_error_ends_it_after_the_parts_before_it() {
        let (all, outcome) = gathered(3 * AT_ONCE, 2 * AT_ONCE);
        assert_eq!(outcome.unwrap_err().to_string(), "too many");
        assert!(all.into_iter().eq(0..2 * AT_ONCE));
    }
}
