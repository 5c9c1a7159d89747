//! Which part of a batch to store next. Usually all of it; once a part was refused, halves of it,
//! until the one message that is to blame stands alone.

use std::ops::Range;

/// The state of one delivery. Pure.
#[derive(Debug)]
pub(super) struct Search {
    /// Stored from the start.
    done: usize,
    /// The end of what was handed out last.
    end: usize,
    /// What lies before this and is not stored holds a message that is refused.
    bad: Option<usize>,
    length: usize,
}

impl Search {
    pub(super) fn new(length: usize) -> Self {
        Self {
            done: 0,
            end: 0,
            bad: None,
            length,
        }
    }

    /// What to store next; none when all is stored.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        if self.done >= self.length {
            return None;
        }
        self.end = match self.bad {
            // Half of what is left, but one at least.
            Some(bad) if bad > self.done => self.done + (bad - self.done).div_ceil(2),
            _ => self.length,
        };
        Some(self.done..self.end)
    }

    /// What was handed out is stored.
    pub(super) fn stored(&mut self) {
        self.done = self.end;
    }

    /// Something of what was handed out, more than one message, is refused.
    pub(super) fn refused(&mut self) {
        self.bad = Some(self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores a batch in which one message is refused; returns how many were stored before it was
    /// found, and in how many statements.
    fn find(length: usize, bad: Option<usize>) -> (usize, usize) {
        let mut search = Search::new(length);
        let mut statements = 0;
        while let Some(range) = search.next() {
            statements += 1;
            assert!(statements < 100, "it ends");
            assert!(!range.is_empty());
            match bad {
                Some(bad) if range == (bad..bad + 1) => return (range.start, statements),
                Some(bad) if range.contains(&bad) => search.refused(),
                _ => search.stored(),
            }
        }
        (search.done, statements)
    }

    #[test]
    fn a_good_batch_is_one_statement() {
        assert_eq!(find(1_000, None), (1_000, 1));
        assert_eq!(find(0, None), (0, 0));
    }

    #[test]
    fn what_comes_before_a_bad_message_is_stored_and_nothing_else() {
        for length in [1, 2, 3, 10, 1_000] {
            for bad in [0, length / 3, length / 2, length - 1] {
                let (stored, statements) = find(length, Some(bad));
                assert_eq!(stored, bad, "of {length}");
                assert!(
                    statements <= 2 + 2 * length.ilog2() as usize,
                    "{statements} for {bad} of {length}"
                );
            }
        }
    }
}
