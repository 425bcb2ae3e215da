//! What the site wants clients to be told, and whom to refuse: as the site server said it last.
//! Kept in memory; a site server that is away changes nothing of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use muster_domain::ClientId;
use muster_proto::client::{GetDirectionsRequest, GetDirectionsResponse};
use muster_proto::convert;
use muster_proto::state::{Wish, WishKind};
use muster_runtime::auth;
use tonic::Request;

use super::{Error, Point};

/// Wishes, and denied certificates, that are kept at most, whatever the site server sends.
const MOST: usize = 50_000;

/// What the site said last.
#[derive(Debug, Default)]
pub(crate) struct Directions(RwLock<Held>);

#[derive(Debug, Default)]
struct Held {
    version: u64,
    denied_version: u64,
    interval: Option<Duration>,
    wishes: HashMap<ClientId, Open>,
    /// By fingerprint in hex: whether another certificate took its place.
    denied: HashMap<String, bool>,
}

/// One wish.
#[derive(Debug)]
struct Open {
    wish: Wish,
    ask: u32,
    /// The client has been told.
    told: AtomicBool,
}

impl Directions {
    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often clients should report; `None` before the site server was reached.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.held().interval
    }

    /// What the site wants of a client, once per ask. Only the renewal of an identity is asked of
    /// whoever comes: two machines come under it.
    pub(crate) fn wish_for(&self, client: ClientId) -> Option<Wish> {
        let held = self.held();
        let open = held.wishes.get(&client)?;
        let first = !open.told.swap(true, Ordering::Relaxed);
        let everybody = open.wish.kind() == WishKind::RenewIdentity;
        (first || everybody).then(|| open.wish.clone())
    }

    /// Whether a certificate still counts.
    ///
    /// # Errors
    /// [`Error::Blocked`] for that of a deleted client, [`Error::Replaced`] when the client has
    /// another one.
    pub(crate) fn check<T>(&self, request: &Request<T>) -> Result<(), Error> {
        let peer = auth::peer(request);
        let fingerprint = peer.and_then(|peer| peer.fingerprint.as_deref());
        let denied = fingerprint.and_then(|it| self.held().denied.get(it).copied());
        match denied {
            None => Ok(()),
            Some(true) => Err(Error::Replaced),
            Some(false) => Err(Error::Blocked),
        }
    }

    fn known(&self) -> GetDirectionsRequest {
        let held = self.held();
        GetDirectionsRequest {
            known_version: held.version,
            known_denied_version: held.denied_version,
        }
    }

    /// Takes over what the site says now.
    fn take(&self, answer: GetDirectionsResponse) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if answer.version != held.version {
            let interval = answer.report_interval.as_ref();
            held.interval =
                interval.and_then(|it| convert::from_duration("report_interval", it).ok());
            let before = std::mem::take(&mut held.wishes);
            let wishes = answer.wishes.into_iter().take(MOST).filter_map(|it| {
                let client = ClientId::from_slice(&it.client_id).ok()?;
                let (wish, ask) = (it.wish?, it.ask);
                let same = before
                    .get(&client)
                    .filter(|open| open.ask == ask && open.wish == wish);
                let told = same.is_some_and(|open| open.told.load(Ordering::Relaxed));
                let told = AtomicBool::new(told);
                Some((client, Open { wish, ask, told }))
            });
            held.wishes = wishes.collect();
            held.version = answer.version;
        }
        if answer.denied_version != held.denied_version {
            let denied = answer.denied.into_iter().take(MOST);
            held.denied = denied
                .map(|it| (hex::encode(it.fingerprint), it.replaced))
                .collect();
            held.denied_version = answer.denied_version;
        }
    }
}

/// Asks the site server for what is new.
pub(crate) async fn follow_directions(point: &Point) -> Result<(), Error> {
    let directions = &point.directions;
    let mut site = point
        .site
        .clone()
        .max_decoding_message_size(4 * muster_runtime::grpc::MAX_MESSAGE);
    let answer = site.get_directions(directions.known()).await;
    let answer = answer.map_err(|status| Error::Site(Box::new(status)))?;
    directions.take(answer.into_inner());
    let held = directions.held();
    let count = |count: usize| u32::try_from(count).map_or(f64::MAX, f64::from);
    metrics::gauge!("muster_directions_wishes").set(count(held.wishes.len()));
    metrics::gauge!("muster_directions_denied").set(count(held.denied.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::client::ClientWish;

    fn answer(version: u64, wishes: &[(ClientId, WishKind, u32)]) -> GetDirectionsResponse {
        let wish = |(client, kind, ask): &(ClientId, WishKind, u32)| ClientWish {
            client_id: client.as_bytes().to_vec().into(),
            wish: Some(Wish {
                kind: (*kind).into(),
                epoch: 1,
                ranges: vec![],
            }),
            ask: *ask,
        };
        GetDirectionsResponse {
            version,
            report_interval: Some(convert::to_duration(Duration::from_secs(900))),
            wishes: wishes.iter().map(wish).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_wish_is_handed_out_once_per_ask() {
        let (directions, client) = (Directions::default(), ClientId::generate());
        let told = || directions.wish_for(client).is_some();
        assert!(!told());
        directions.take(answer(1, &[(client, WishKind::Full, 1)]));
        assert_eq!((told(), told()), (true, false));
        let other = (ClientId::generate(), WishKind::Full, 1);
        directions.take(answer(2, &[(client, WishKind::Full, 1), other]));
        assert!(!told(), "something else changed");
        directions.take(answer(3, &[(client, WishKind::Full, 2)]));
        assert_eq!((told(), told()), (true, false), "asked again");
        directions.take(answer(4, &[]));
        assert!(!told(), "it was answered");
    }

    #[test]
    fn every_machine_under_a_forked_identity_is_asked_to_renew_it() {
        let (directions, client) = (Directions::default(), ClientId::generate());
        directions.take(answer(1, &[(client, WishKind::RenewIdentity, 1)]));
        for _ in 0..3 {
            let wish = directions.wish_for(client).unwrap();
            assert_eq!(wish.kind(), WishKind::RenewIdentity);
        }
    }

    #[test]
    fn an_answer_without_news_changes_nothing() {
        let (directions, client) = (Directions::default(), ClientId::generate());
        directions.take(answer(7, &[(client, WishKind::Full, 1)]));
        let nothing = GetDirectionsResponse {
            version: 7,
            ..Default::default()
        };
        directions.take(nothing);
        assert_eq!(directions.known().known_version, 7);
        assert_eq!(directions.interval(), Some(Duration::from_secs(900)));
        assert!(directions.wish_for(client).is_some());
    }
}
