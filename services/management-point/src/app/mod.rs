//! What a management point does for clients: one file per use case. It decides nothing that the
//! site decides, and keeps nothing on disk.

mod accept_states;
mod ask_site;
mod collector;
mod directions;
mod enrol;
mod error;

use muster_proto::client::client_gateway_service_client::ClientGatewayServiceClient;
use muster_runtime::grpc::Channel;

pub(crate) use accept_states::{Turnstile, accept_states, relay_reports};
pub(crate) use ask_site::{get_locations, get_policy, register, renew_identity};
pub(crate) use collector::{Collector, Handed, Inboxes};
pub(crate) use directions::{Directions, follow_directions};
pub(crate) use enrol::{Doorkeeper, enrol};
pub(crate) use error::Error;

use crate::config::Config;

/// A management point.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) config: Config,
    pub(crate) site: ClientGatewayServiceClient<Channel>,
    pub(crate) collector: Collector,
    pub(crate) doorkeeper: Doorkeeper,
    pub(crate) turnstile: Turnstile,
    pub(crate) directions: Directions,
}
