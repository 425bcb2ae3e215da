//! Clients become another site's by the word of the central site, and by nobody else's.

use bytes::Bytes;
use muster_domain::ClientId;
use muster_domain::states::Detection::{Installed, Required};
use muster_proto::client as pb;
use muster_proto::policy::{MoveOrder, Policy};
use muster_runtime::status::reason;
use muster_runtime::tls::ca::signing_request;
use muster_testkit::eventually;
use prost::Message;
use tonic::Status;

use crate::joining::start;
use crate::site::{Client, Site};

/// A client with the signing request that proves elsewhere who it is.
async fn enrol(site: &Site, host_name: &str) -> (Client, Vec<u8>) {
    let token = site.tokens(1).await.remove(0);
    let csr = signing_request().unwrap().der;
    let answer = site.enrol_with(&token, &csr, host_name).await.unwrap();
    let id = ClientId::from_slice(&answer.client_id).unwrap();
    let epoch = answer.epoch;
    (Client { id, epoch, answer }, csr)
}

async fn decide(at: &Site, client: &Client, to: &str) -> Result<pb::ClientMove, Status> {
    let request = pb::MoveClientRequest {
        name: client.id.to_string(),
        to_site_code: to.into(),
    };
    let answer = at.clients().move_client(request).await?.into_inner();
    Ok(answer.r#move.unwrap())
}

/// Where the client's site tells it to go.
async fn order(site: &Site, client: &Client) -> Option<MoveOrder> {
    let answer = site.policy(client, &[]).await.ok()?;
    let policy = Policy::decode(answer.policy?.policy).unwrap();
    policy.r#move
}

async fn arrive(
    site: &Site,
    client: &Client,
    certificate: &Bytes,
    csr: &[u8],
) -> Result<Client, String> {
    let arrival = pb::Arrival {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        certificate: certificate.clone(),
        known_epoch: client.epoch,
    };
    let request = pb::EnrolRequest {
        csr: Bytes::copy_from_slice(csr),
        arrival: Some(arrival),
        ..Default::default()
    };
    let request = pb::EnrolClientRequest {
        request: Some(request),
        ..Default::default()
    };
    let answer = site.gateway().enrol_client(request).await;
    let answer = answer.map_err(|status| reason(&status).unwrap_or_default())?;
    let answer = answer.into_inner().response.unwrap();
    Ok(Client {
        id: client.id,
        epoch: answer.epoch,
        answer,
    })
}

async fn owner(central: &Site, client: &Client) -> Option<String> {
    let request = pb::GetClientRequest {
        name: client.id.to_string(),
    };
    let answer = central.clients().get_client(request).await.ok()?;
    Some(answer.into_inner().client?.site_code)
}

async fn live(site: &Site) -> i64 {
    site.count("SELECT count(*) FROM clients WHERE deleted_at IS NULL")
        .await
}

fn refused(outcome: Result<pb::ClientMove, Status>) -> String {
    reason(&outcome.unwrap_err()).unwrap_or_default()
}

#[tokio::test]
async fn a_client_becomes_another_sites_and_counts_once_all_the_time() {
    let central = start("CEN", true).await;
    let (old, new) = (start("Y01", false).await, start("Y02", false).await);
    for child in [&old, &new] {
        let token = central.invite(child.config.site_code.as_str()).await;
        child.join(&token.unwrap()).await.unwrap();
    }
    let (client, csr) = enrol(&old, "traveller").await;
    let (other, other_csr) = enrol(&old, "neighbour").await;
    let of_new = new.enrol("resident").await;
    old.report(&[
        client.full(2, &[(1, Required), (2, Installed)]),
        other.full(1, &[(1, Required)]),
    ])
    .await;
    new.report(&[of_new.full(1, &[(2, Required)])]).await;
    let rows = "SELECT count(*) FROM client_compliance WHERE cardinality(required) > 0";
    eventually(async || central.count(rows).await == 3).await;
    let receptions = "SELECT count(*) FROM sites WHERE record IS NOT NULL";
    eventually(async || central.count(receptions).await == 2).await;

    // Who may not, and what makes no sense.
    assert_eq!(refused(decide(&old, &client, "Y02").await), "NOT_CENTRAL");
    assert_eq!(
        refused(decide(&central, &client, "X99").await),
        "UNKNOWN_SITE"
    );
    assert_eq!(refused(decide(&central, &client, "Y01").await), "SAME_SITE");
    assert_eq!(
        refused(decide(&central, &client, "CEN").await),
        "NOT_BESIDE"
    );
    let certificate = client.answer.certificate_chain[0].clone();
    let early = arrive(&new, &client, &certificate, &csr).await;
    assert_eq!(early.unwrap_err(), "MOVE_REFUSED", "nothing is decided");

    eventually(async || decide(&central, &client, "Y02").await.is_ok()).await;
    eventually(async || order(&old, &client).await.is_some()).await;
    let told = order(&old, &client).await.unwrap();
    assert_eq!(told.site_code, "Y02");
    assert_eq!(told.management_points, ["https://mp.example:8410"]);
    assert_eq!(
        told.authority,
        new.enrol("x").await.answer.certificate_chain[1]
    );
    assert!(order(&old, &other).await.is_none());

    // Only the client itself is taken in, and only there.
    let decided = "SELECT count(*) FROM client_moves";
    eventually(async || new.count(decided).await == 1).await;
    let theirs = other.answer.certificate_chain[0].clone();
    for (certificate, csr, why) in [
        (&certificate, &other_csr, "a request for another key"),
        (&theirs, &other_csr, "another certificate"),
        (&Bytes::from_static(b"?"), &csr, "no certificate"),
    ] {
        let outcome = arrive(&new, &client, certificate, csr).await;
        assert_eq!(outcome.unwrap_err(), "MOVE_REFUSED", "{why}");
    }
    let back = arrive(&old, &client, &certificate, &csr).await;
    assert_eq!(back.unwrap_err(), "MOVE_REFUSED");
    assert_eq!(owner(&central, &client).await.as_deref(), Some("Y01"));

    let first = arrive(&new, &client, &certificate, &csr).await.unwrap();
    let again = arrive(&new, &client, &certificate, &csr).await.unwrap();
    assert!(client.epoch < first.epoch && first.epoch < again.epoch);
    // It reports to both for a moment: to the old site what it had on its way.
    old.report(&[client.delta(3, 3, &[(1, Installed)])]).await;
    new.report(&[again.full(5, &[(1, Installed), (2, Required)])])
        .await;
    eventually(async || owner(&central, &client).await.as_deref() == Some("Y02")).await;
    eventually(async || live(&old).await == 1).await;
    eventually(async || central.held(&client).await == [vec![1], vec![2], vec![]]).await;
    assert!(order(&new, &again).await.is_none());
    assert_eq!(
        old.policy(&client, &[]).await.unwrap_err().code(),
        tonic::Code::PermissionDenied
    );
    // What the old site would still say changes nothing.
    old.report(&[client.full(9, &[(1, Required), (2, Required)])])
        .await;
    new.report(&[again.delta(6, 6, &[(2, Installed)])]).await;
    eventually(async || central.held(&client).await == [vec![1, 2], vec![], vec![]]).await;
    assert_eq!(live(&central).await, 4);
    for site in [&central, &old, &new] {
        assert_eq!(site.wrong_counters().await, 0, "{}", site.config.site_code);
        assert_eq!(site.count("SELECT count(*) FROM quarantine").await, 0);
    }

    // And back again: what was said in between is known at the site that had it first.
    decide(&central, &client, "Y01").await.unwrap();
    let latest = again.answer.certificate_chain[0].clone();
    eventually(async || order(&new, &again).await.is_some()).await;
    let heard = "SELECT count(*) FROM client_moves WHERE to_site_code = 'Y01'";
    eventually(async || old.count(heard).await == 1).await;
    let back = arrive(&old, &again, &latest, &csr).await.unwrap();
    assert!(back.epoch > again.epoch);
    old.report(&[back.full(7, &[(1, Required)])]).await;
    eventually(async || central.held(&client).await == [vec![], vec![1], vec![]]).await;
    eventually(async || live(&new).await == 2 && live(&old).await == 2).await;
    assert_eq!(owner(&central, &client).await.as_deref(), Some("Y01"));
    assert_eq!(live(&central).await, 4);
    for site in [&central, &old, &new] {
        assert_eq!(site.wrong_counters().await, 0, "{}", site.config.site_code);
    }
}
