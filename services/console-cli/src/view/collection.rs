//! Collections of clients.

use jiff::Timestamp;
use muster_proto::collection::{
    ChangeMembersResponse, Collection, CreateCollectionResponse, GetCollectionResponse,
    ListCollectionsResponse,
};

use super::{Answer, created};
use crate::output::table::Block;
use crate::output::text::{ago, at, id, yes};

fn names(collections: &[Collection]) -> Vec<String> {
    collections
        .iter()
        .map(|collection| collection.name.clone())
        .collect()
}

impl Answer for ListCollectionsResponse {
    const MESSAGE: &'static str = "muster.collection.v1.ListCollectionsResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |collection: &Collection| {
            vec![
                collection.name.clone(),
                collection.owner_site_code.clone(),
                collection.member_count.to_string(),
                yes(collection.built_in),
                ago(collection.created_at.as_ref(), now),
                collection.description.clone(),
            ]
        };
        const HEADER: &[&str] = &[
            "COLLECTION",
            "OWNER",
            "MEMBERS#",
            "BUILT-IN",
            "CREATED",
            "DESCRIPTION",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.collections.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        names(&self.collections)
    }
}

impl Answer for GetCollectionResponse {
    const MESSAGE: &'static str = "muster.collection.v1.GetCollectionResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let collection = self.collection.clone().unwrap_or_default();
        vec![Block::Pairs(vec![
            ("Collection", collection.name),
            ("Id", id(&collection.collection_id)),
            ("Owner", collection.owner_site_code),
            ("Description", collection.description),
            ("Members", collection.member_count.to_string()),
            ("Built in", yes(collection.built_in)),
            ("Created", at(collection.created_at.as_ref(), now)),
        ])]
    }

    fn names(&self) -> Vec<String> {
        names(self.collection.as_slice())
    }
}

impl Answer for CreateCollectionResponse {
    const MESSAGE: &'static str = "muster.collection.v1.CreateCollectionResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        created("collection", &Answer::names(self).concat())
    }

    fn names(&self) -> Vec<String> {
        names(self.collection.as_slice())
    }
}

impl Answer for ChangeMembersResponse {
    const MESSAGE: &'static str = "muster.collection.v1.ChangeMembersResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        let collection = self.collection.clone().unwrap_or_default();
        let count = collection.member_count;
        vec![Block::Line(format!(
            "collection \"{}\" has {count} members",
            collection.name
        ))]
    }

    fn names(&self) -> Vec<String> {
        names(self.collection.as_slice())
    }
}
