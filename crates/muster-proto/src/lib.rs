//! The wire: messages, clients and servers generated from `proto/`, and how they turn
//! into the types of `muster-domain` ([`convert`]).

/// Messages and services, one module per package of `proto/muster`.
#[allow(
    missing_docs,
    clippy::all,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags // comments in proto/ are not Markdown
)]
mod generated {
    pub mod catalog {
        pub mod v1 {
            tonic::include_proto!("muster.catalog.v1");
        }
    }
    pub mod client {
        pub mod v1 {
            tonic::include_proto!("muster.client.v1");
        }
    }
    pub mod collection {
        pub mod v1 {
            tonic::include_proto!("muster.collection.v1");
        }
    }
    pub mod content {
        pub mod v1 {
            tonic::include_proto!("muster.content.v1");
        }
    }
    pub mod deployment {
        pub mod v1 {
            tonic::include_proto!("muster.deployment.v1");
        }
    }
    pub mod link {
        pub mod v1 {
            tonic::include_proto!("muster.link.v1");
        }
    }
    pub mod policy {
        pub mod v1 {
            tonic::include_proto!("muster.policy.v1");
        }
    }
    pub mod report {
        pub mod v1 {
            tonic::include_proto!("muster.report.v1");
        }
    }
    pub mod site {
        pub mod v1 {
            tonic::include_proto!("muster.site.v1");
        }
    }
    pub mod state {
        pub mod v1 {
            tonic::include_proto!("muster.state.v1");
        }
    }
}

pub mod convert;

pub use generated::{
    catalog::v1 as catalog, client::v1 as client, collection::v1 as collection,
    content::v1 as content, deployment::v1 as deployment, link::v1 as link, policy::v1 as policy,
    report::v1 as report, site::v1 as site, state::v1 as state,
};

/// The encoded `FileDescriptorSet` of all of `proto/`: for reflection, for printing
/// messages as JSON, and for the tests that hold tables against the calls that exist.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
