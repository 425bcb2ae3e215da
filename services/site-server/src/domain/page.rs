//! Lists come in pages. A token names the place where the next page begins; it is a number, but
//! callers must not count on that.

use crate::app::Error;

/// A part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most this many.
    pub(crate) limit: i64,
    /// After this many.
    pub(crate) offset: i64,
}

/// The rows of a page have this many bytes at most; a message may have a little more.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Lists end here: nobody reads further, and an offset costs what it skips.
const MAX_OFFSET: i64 = 1_000_000;

impl Page {
    /// What was asked for; a size of 0 means 100, and none is larger than 1,000.
    pub(crate) fn read(size: u32, token: &str) -> Result<Self, Error> {
        let limit = if size == 0 {
            100
        } else {
            i64::from(size.min(1_000))
        };
        let offset = if token.is_empty() {
            0
        } else {
            token
                .parse()
                .ok()
                .filter(|offset| (0..=MAX_OFFSET).contains(offset))
                .ok_or_else(|| Error::invalid("PAGE_TOKEN", "this page token is not one of ours"))?
        };
        Ok(Self { limit, offset })
    }

    /// One row more than the page has, to know whether another page follows.
    pub(crate) const fn probe(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts `rows` (read with [`Page::probe`]) to the page and returns the token of the next one.
    pub(crate) fn cut<T>(&self, rows: &mut Vec<T>) -> String {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if rows.len() <= limit {
            return String::new();
        }
        rows.truncate(limit);
        (self.offset + self.limit).to_string()
    }
}

/// Keeps at most `limit` rows, and no more than fit into one message. Says whether some were left
/// for the next page.
pub(crate) fn fitting<T>(rows: &mut Vec<T>, limit: i64, bytes: impl Fn(&T) -> usize) -> bool {
    let (all, mut sum) = (rows.len(), 0);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let fitting = rows
        .iter()
        .take_while(|row| {
            sum += bytes(row);
            sum <= MAX_BYTES
        })
        .count();
    // A row that is too long by itself is still a page: nobody must wait in front of it.
    rows.truncate(fitting.max(1));
    rows.len() < all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let page = Page::read(2, "").unwrap();
        let mut rows = vec![1, 2, 3];
        let token = page.cut(&mut rows);
        assert_eq!((rows.len(), token.as_str()), (2, "2"));
        let page = Page::read(2, &token).unwrap();
        assert_eq!(page.offset, 2);
        assert_eq!(page.cut(&mut vec![3]), "");
    }

    #[test]
    fn a_page_of_long_rows_is_shorter() {
        let mut rows = vec![2 * 1024 * 1024; 3];
        assert!(fitting(&mut rows, 10, |bytes| *bytes));
        assert_eq!(rows.len(), 1);
        let mut rows = vec![MAX_BYTES + 1; 2];
        assert!(fitting(&mut rows, 10, |bytes| *bytes));
        let mut rows = vec![1; 3];
        assert!(!fitting(&mut rows, 10, |bytes| *bytes));
    }

    #[test]
    fn a_token_that_is_not_ours_is_refused() {
        for token in ["-1", "x", "1; DROP TABLE clients", "99999999999"] {
            assert!(Page::read(0, token).is_err(), "{token}");
        }
    }
}
