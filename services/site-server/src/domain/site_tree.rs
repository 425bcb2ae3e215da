//! Which sites are below which, to name the clients of a site and of all below it.

use std::collections::{BTreeMap, BTreeSet};

use muster_domain::SiteCode;

/// Where a site hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) parent: Option<String>,
    /// The child of ours that told us of it; `None` is ourselves or a site above us.
    pub(crate) via: Option<String>,
}

/// The sites that this one knows and that have not left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SiteTree(BTreeMap<String, Place>);

/// Whose clients are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Those of every site that we know clients of.
    All,
    /// Those of these sites, none of which is ours.
    Of(Vec<String>),
}

impl Owners {
    /// For SQL: no codes are no condition.
    pub(crate) fn codes(&self) -> Option<&[String]> {
        match self {
            Self::All => None,
            Self::Of(codes) => Some(codes),
        }
    }
}

impl SiteTree {
    /// From what is known of each site.
    pub(crate) fn new(sites: impl IntoIterator<Item = (String, Place)>) -> Self {
        Self(sites.into_iter().collect())
    }

    /// A site and all below it, as seen from `own`; `None` where it is neither ours nor below ours.
    pub(crate) fn at_or_below(&self, code: SiteCode, own: SiteCode) -> Option<Owners> {
        if code == own {
            return Some(Owners::All);
        }
        let top = code.as_str();
        self.0.get(top)?.via.as_ref()?;
        // What a child told us of is below it, also where nobody has said yet under whom it hangs.
        let told = self.0.iter();
        let told = told.filter(|(_, place)| place.via.as_deref() == Some(top));
        let mut below: BTreeSet<&str> = told.map(|(code, _)| code.as_str()).collect();
        below.insert(top);
        loop {
            let before = below.len();
            for (code, place) in &self.0 {
                let hangs = place.via.is_some()
                    && place.parent.as_deref().is_some_and(|it| below.contains(it));
                if hangs {
                    below.insert(code);
                }
            }
            if below.len() == before {
                let codes = below.into_iter().map(str::to_owned).collect();
                return Some(Owners::Of(codes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(sites: &[(&str, &str, &str)]) -> SiteTree {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        SiteTree::new(sites.iter().map(|(code, parent, via)| {
            let place = Place {
                parent: some(parent),
                via: some(via),
            };
            ((*code).to_owned(), place)
        }))
    }

    fn of(tree: &SiteTree, code: &str) -> Option<Vec<String>> {
        let (code, own) = (code.parse().unwrap(), "P01".parse().unwrap());
        tree.at_or_below(code, own)
            .map(|owners| owners.codes().map_or_else(Vec::new, <[_]>::to_vec))
    }

    #[test]
    fn a_site_is_meant_with_all_below_it_and_not_with_those_above_or_beside() {
        let tree = tree(&[
            ("CEN", "", ""),
            ("P01", "CEN", ""),
            ("A01", "P01", "A01"),
            ("A02", "A01", "A01"),
            ("A03", "A02", "A01"),
            ("B01", "P01", "B01"),
        ]);
        let codes = |codes: &[&str]| Some(codes.iter().map(|it| (*it).to_owned()).collect());
        assert_eq!(of(&tree, "A01"), codes(&["A01", "A02", "A03"]));
        assert_eq!(of(&tree, "A02"), codes(&["A02", "A03"]));
        assert_eq!(of(&tree, "B01"), codes(&["B01"]));
        let own: SiteCode = "P01".parse().unwrap();
        assert_eq!(tree.at_or_below(own, own), Some(Owners::All));
        assert_eq!(
            of(&tree, "CEN"),
            None,
            "its other clients are not known here"
        );
        assert_eq!(of(&tree, "X99"), None);
    }

    #[test]
    fn what_a_child_told_of_is_below_it_and_a_loop_ends() {
        let tree = tree(&[
            ("P01", "", ""),
            ("A01", "P01", "A01"),
            ("A02", "A09", "A01"),
            ("A03", "A04", "A01"),
            ("A04", "A03", "A01"),
        ]);
        assert_eq!(of(&tree, "A01").unwrap(), ["A01", "A02", "A03", "A04"]);
        assert_eq!(of(&tree, "A03").unwrap(), ["A03", "A04"]);
    }
}
