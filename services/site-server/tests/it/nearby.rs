//! Clients are told of the servers near them first.

use bytes::Bytes;
use muster_proto::client::{GetClientLocationsRequest, GetClientPolicyRequest, Locations};
use muster_proto::policy::Policy;
use prost::Message;
use site_server::SecondarySite;
use tonic::Code;

use crate::site::{Client, Site};

fn lyon() -> SecondarySite {
    SecondarySite {
        code: "S01".parse().unwrap(),
        name: "Lyon".into(),
        subnets: vec!["10.20.0.0/16".parse().unwrap()],
        management_points: vec!["https://mp.lyon.example:8410".into()],
        software_update_points: vec!["https://sup.lyon.example:8420".into()],
        distribution_points: vec![],
    }
}

async fn locations(
    site: &Site,
    client: &Client,
    address: &str,
) -> Result<Locations, tonic::Status> {
    let request = GetClientLocationsRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        address: address.into(),
    };
    let answer = site.gateway().get_client_locations(request).await?;
    Ok(answer.into_inner().locations.unwrap())
}

async fn policy(site: &Site, client: &Client, address: &str) -> Policy {
    let request = GetClientPolicyRequest {
        client_id: Bytes::copy_from_slice(client.id.as_bytes()),
        address: address.into(),
        ..Default::default()
    };
    let answer = site.gateway().get_client_policy(request).await.unwrap();
    let signed = answer.into_inner().policy.unwrap();
    Policy::decode(signed.policy).unwrap()
}

#[tokio::test]
async fn a_client_in_the_boundary_of_a_secondary_site_asks_its_servers_first() {
    let site = Site::start_with(|config| config.secondary_sites.push(lyon())).await;
    let client = site.enrol("host-1").await;

    let there = locations(&site, &client, "10.20.3.4").await.unwrap();
    assert_eq!(
        there.management_points,
        ["https://mp.lyon.example:8410", "https://mp.example:8410"]
    );
    assert_eq!(there.distribution_points, ["https://dp.example:8443"]);
    let here = locations(&site, &client, "10.21.3.4").await.unwrap();
    assert_eq!(here.management_points, ["https://mp.example:8410"]);
    assert_eq!(here, locations(&site, &client, "").await.unwrap());

    let there = policy(&site, &client, "10.20.3.4").await;
    assert_eq!(
        there.software_update_points,
        ["https://sup.lyon.example:8420", "https://sup.example:8420"]
    );
    // It has gone home: the next policy says so.
    let here = policy(&site, &client, "10.21.3.4").await;
    assert_eq!(here.software_update_points, ["https://sup.example:8420"]);

    let refused = locations(&site, &client, "10.20.3").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
