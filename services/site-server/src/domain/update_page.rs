//! Pages of updates. A page begins behind the last update of the one before, in its order: it costs
//! the same however far the list has been read, and an update that changes its place meanwhile
//! moves no other one. Callers must not look into a token.

use jiff::Timestamp;
use muster_proto::catalog::{UpdateSort, UpdateSummary};
use muster_proto::convert;
use prost::Message;

use super::page::{Page, fitting};
use crate::app::Error;

/// The longest name of a source package that a token carries, in bytes.
const MAX_NAME: usize = 1_024;

/// A part of a list of updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpdatePage {
    /// At most this many.
    pub(crate) limit: i64,
    pub(crate) sort: UpdateSort,
    /// Behind this place; `None`: from the beginning.
    pub(crate) after: Option<Place>,
    /// How many there were in all when the first page was read.
    pub(crate) total: Option<u32>,
}

/// What the place of an update in a list depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: i32,
    pub(crate) key: Key,
}

/// What a list is sorted by, before the number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Number,
    Required(i32),
    Released(Option<Timestamp>),
    Source(String),
}

impl UpdatePage {
    /// The first updates by number.
    pub(crate) const fn first(limit: i64) -> Self {
        Self {
            limit,
            sort: UpdateSort::Number,
            after: None,
            total: None,
        }
    }

    /// What was asked for; sizes as in [`Page::read`].
    pub(crate) fn read(size: u32, sort: UpdateSort, token: &str) -> Result<Self, Error> {
        let limit = Page::read(size, "")?.limit;
        let (mut after, mut total) = (None, None);
        if !token.is_empty() {
            let refused =
                || Error::invalid("PAGE_TOKEN", "this page token is not one of this list");
            let (count, place) = understand(sort, token).ok_or_else(refused)?;
            (total, after) = (Some(count), Some(place));
        }
        Ok(Self {
            limit,
            sort,
            after,
            total,
        })
    }

    /// One row more than the page has, to know whether another page follows.
    pub(crate) const fn probe(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts `rows` (read with [`UpdatePage::probe`]) to the page, and to what fits into a message;
    /// returns the token of the next page.
    pub(crate) fn fit(&self, rows: &mut Vec<UpdateSummary>, total: u32) -> String {
        if !fitting(rows, self.limit, Message::encoded_len) {
            return String::new();
        }
        let place = rows.last().and_then(|last| self.place(last));
        place.map_or_else(String::new, |place| self.token(total, &place))
    }

    fn place(&self, of: &UpdateSummary) -> Option<Place> {
        let update = of.update.as_ref()?;
        let key = match self.sort {
            UpdateSort::Unspecified | UpdateSort::Number => Key::Number,
            UpdateSort::RequiredDescending => Key::Required(i32::try_from(of.required).ok()?),
            UpdateSort::ReleasedDescending => {
                let time = update.released_at.as_ref();
                Key::Released(time.and_then(|time| convert::from_timestamp("", time).ok()))
            }
            UpdateSort::SourcePackage => Key::Source(update.source_package.clone()),
        };
        let number = i32::try_from(update.update_no).ok()?;
        Some(Place { number, key })
    }

    /// `<sort>.<total>.<number>.<key>`
    fn token(&self, total: u32, place: &Place) -> String {
        let key = match &place.key {
            Key::Number | Key::Released(None) => String::new(),
            Key::Required(count) => count.to_string(),
            Key::Released(Some(at)) => at.as_microsecond().to_string(),
            Key::Source(name) => name.clone(),
        };
        format!("{}.{total}.{}.{key}", self.sort as i32, place.number)
    }
}

fn understand(sort: UpdateSort, token: &str) -> Option<(u32, Place)> {
    let mut parts = token.splitn(4, '.');
    let own: i32 = parts.next()?.parse().ok()?;
    let total = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    let key = parts.next()?;
    if own != sort as i32 {
        return None;
    }
    let key = match sort {
        UpdateSort::Unspecified | UpdateSort::Number => Key::Number,
        UpdateSort::RequiredDescending => Key::Required(key.parse().ok()?),
        UpdateSort::ReleasedDescending if key.is_empty() => Key::Released(None),
        UpdateSort::ReleasedDescending => {
            Key::Released(Some(Timestamp::from_microsecond(key.parse().ok()?).ok()?))
        }
        UpdateSort::SourcePackage => {
            let usable = key.len() <= MAX_NAME && !key.contains('\0');
            Key::Source(usable.then(|| key.to_owned())?)
        }
    };
    Some((total, Place { number, key }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::catalog::Update;

    const SORTS: [UpdateSort; 5] = [
        UpdateSort::Unspecified,
        UpdateSort::Number,
        UpdateSort::RequiredDescending,
        UpdateSort::ReleasedDescending,
        UpdateSort::SourcePackage,
    ];

    fn row(number: u32) -> UpdateSummary {
        let at = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        UpdateSummary {
            update: Some(Update {
                update_no: number,
                source_package: "node-v8.1".to_owned(),
                released_at: (number > 2).then(|| convert::to_timestamp(at)),
                ..Default::default()
            }),
            required: 7,
            ..Default::default()
        }
    }

    #[test]
    fn a_token_leads_behind_the_last_row_in_every_order() {
        for sort in SORTS {
            for last in [2, 3] {
                let page = UpdatePage::read(1, sort, "").unwrap();
                let mut rows = vec![row(last), row(9)];
                let token = page.fit(&mut rows, 5);
                assert_eq!(rows.len(), 1);
                let next = UpdatePage::read(1, sort, &token).unwrap();
                assert_eq!(next.total, Some(5));
                assert_eq!(next.after, page.place(&row(last)), "{sort:?} {token}");
                assert_eq!(next.fit(&mut vec![row(9)], 5), "", "the last page");
            }
        }
    }

    #[test]
    fn a_token_of_another_list_is_refused() {
        for token in ["x", "1", "2.5.3.", "1.5.3", "1.5.x.", "1.-1.3.", "1000"] {
            assert!(
                UpdatePage::read(0, UpdateSort::Number, token).is_err(),
                "{token}"
            );
        }
        let nul = "4.5.3.a\0b";
        assert!(UpdatePage::read(0, UpdateSort::SourcePackage, nul).is_err());
    }
}
