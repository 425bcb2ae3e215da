//! Rules only the site server has: pure functions, time comes in as an argument.

pub(crate) mod changed;
pub(crate) mod client_page;
pub(crate) mod deployment_states;
pub(crate) mod facts;
pub(crate) mod identity;
pub(crate) mod invitation;
pub(crate) mod link;
pub(crate) mod link_progress;
pub(crate) mod link_quota;
pub(crate) mod link_rows;
pub(crate) mod names;
pub(crate) mod nearby;
pub(crate) mod pace;
pub(crate) mod page;
pub(crate) mod policy;
pub(crate) mod report;
pub(crate) mod settle;
pub(crate) mod site_tree;
pub(crate) mod suite;
pub(crate) mod update_page;
