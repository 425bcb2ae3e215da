//! Pages of clients in the order of their numbers, which never change: a page costs the same
//! wherever it is, and whoever comes or goes meanwhile shifts nothing.

use super::page::fitting;
use crate::app::Error;

/// A part of a list of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientPage {
    /// At most this many.
    pub(crate) limit: usize,
    /// After this client.
    pub(crate) after: Option<u32>,
}

impl ClientPage {
    /// What was asked for; a size of 0 means 100, and none is larger than 1,000.
    pub(crate) fn read(size: u32, token: &str) -> Result<Self, Error> {
        let limit = if size == 0 { 100 } else { size.min(1_000) };
        let bad = || Error::invalid("PAGE_TOKEN", "this page token is not one of ours");
        let after = match token {
            "" => None,
            token => {
                let number = token.strip_prefix('c').ok_or_else(bad)?;
                let number = u32::from_str_radix(number, 36).map_err(|_| bad())?;
                // As SQL knows them.
                Some(number).filter(|number| i32::try_from(*number).is_ok())
            }
        };
        if after.is_none() && !token.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            limit: usize::try_from(limit).unwrap_or(100),
            after,
        })
    }

    /// One client more than the page has, to know whether another page follows.
    pub(crate) const fn probe(&self) -> usize {
        self.limit + 1
    }

    /// The same for SQL.
    pub(crate) fn probe_rows(&self) -> i64 {
        i64::try_from(self.probe()).unwrap_or(i64::MAX)
    }

    /// The client after which the page begins, for SQL.
    pub(crate) fn after_no(&self) -> i32 {
        self.after
            .and_then(|after| i32::try_from(after).ok())
            .unwrap_or(0)
    }

    /// Cuts clients (read with [`Self::probe`]) to the page and returns the token of the next one.
    pub(crate) fn cut<T>(&self, clients: &mut Vec<T>, number: impl Fn(&T) -> u32) -> String {
        if clients.len() <= self.limit {
            return String::new();
        }
        clients.truncate(self.limit);
        clients
            .last()
            .map_or_else(String::new, |last| token(number(last)))
    }
}

impl ClientPage {
    /// As [`Self::cut`], and shorter when the clients would not fit into one message.
    pub(crate) fn fit<T>(
        &self,
        clients: &mut Vec<T>,
        number: impl Fn(&T) -> u32,
        bytes: impl Fn(&T) -> usize,
    ) -> String {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        if !fitting(clients, limit, bytes) {
            return String::new();
        }
        clients
            .last()
            .map_or_else(String::new, |last| token(number(last)))
    }
}

/// The token of the page behind a client: its number in base 36, short, and no invitation to count
/// on it.
pub(crate) fn token(number: u32) -> String {
    let mut digits = Vec::new();
    let mut rest = number;
    loop {
        digits.push(char::from_digit(rest % 36, 36).unwrap_or('0'));
        rest /= 36;
        if rest == 0 {
            break;
        }
    }
    digits.push('c');
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all: Vec<u32> = (1..=5).map(|n| n * 400_000_000).collect();
        let (mut read, mut token) = (Vec::new(), String::new());
        loop {
            let page = ClientPage::read(2, &token).unwrap();
            let mut found: Vec<u32> = all
                .iter()
                .copied()
                .filter(|no| page.after.is_none_or(|after| *no > after))
                .take(page.probe())
                .collect();
            token = page.cut(&mut found, |no| *no);
            assert!(found.len() <= 2);
            read.extend(found);
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(read, all);
    }

    #[test]
    fn a_token_that_is_not_ours_is_refused() {
        for token in [
            "7",
            "c",
            "c-1",
            "c!",
            "czzzzzzz",
            "c3vvvvvv",
            "c1; DROP TABLE clients",
        ] {
            assert!(ClientPage::read(0, token).is_err(), "{token}");
        }
        assert_eq!(ClientPage::read(0, "c10").unwrap().after, Some(36));
        assert_eq!(ClientPage::read(5_000, "").unwrap().limit, 1_000);
    }
}
