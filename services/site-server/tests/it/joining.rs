//! Sites join each other with tokens, and leave. Users of a broker have one name for all of its virtual
//! hosts, so every test has site codes of its own.

use std::time::Duration;

use muster_proto::collection::CreateCollectionRequest;
use muster_proto::collection::collection_service_client::CollectionServiceClient;
use muster_proto::link::join_service_client::JoinServiceClient;
use muster_proto::link::upstream_service_client::UpstreamServiceClient;
use muster_proto::link::{GetRolesRequest, GetUpstreamRequest, JoinRequest, LinkHealth};
use muster_proto::site::site_service_client::SiteServiceClient;
use muster_proto::site::{
    CreateInvitationRequest, JoinParentRequest, LeaveParentRequest, ListLinksRequest,
    ListSitesRequest, RemoveChildRequest, Site as Shown,
};
use muster_rabbitmq::ManagementConfig;
use muster_runtime::grpc::{ChannelOptions, channel_pinned, channel_with};
use muster_runtime::status::reason;
use muster_runtime::tls::ClientTls;
use muster_testkit::eventually;
use tonic::{Code, Status};

use crate::site::{Ground, Site};

pub(crate) async fn start(code: &str, may_have_children: bool) -> Site {
    start_with(code, may_have_children, |_| ()).await
}

/// As [`start`], with other settings.
pub(crate) async fn start_with(
    code: &str,
    may_have_children: bool,
    set: impl FnOnce(&mut site_server::LinksConfig),
) -> Site {
    let mut ground = Ground::of(code).await;
    set(&mut ground.config.links);
    if may_have_children {
        let broker = muster_testkit::instances().rabbitmq;
        ground.config.rabbitmq.management = Some(ManagementConfig {
            uri: format!("http://127.0.0.1:{}", broker.management_port),
            user: broker.user,
            password_file: broker.password_file,
            tls: None,
        });
    }
    let handle = site_server::start(ground.config.clone()).await.unwrap();
    Site::on(ground, Some(handle)).await
}

impl Site {
    pub(crate) fn sites(&self) -> SiteServiceClient<muster_runtime::grpc::Channel> {
        SiteServiceClient::new(self.channel("administrator"))
    }

    pub(crate) async fn invite(&self, code: &str) -> Result<String, Status> {
        let request = CreateInvitationRequest {
            site_code: code.into(),
            valid_for: None,
        };
        let answer = self.sites().create_invitation(request).await?;
        Ok(answer.into_inner().token)
    }

    pub(crate) async fn join(&self, token: &str) -> Result<Shown, Status> {
        let request = JoinParentRequest {
            token: token.into(),
        };
        let answer = self.sites().join_parent(request).await?.into_inner();
        Ok(answer.parent.unwrap())
    }

    async fn tree(&self) -> Vec<(String, String)> {
        let answer = self.sites().list_sites(ListSitesRequest {}).await.unwrap();
        let sites = answer.into_inner().sites.into_iter();
        sites
            .map(|site| (site.site_code, site.parent_site_code))
            .collect()
    }

    async fn peers(&self) -> Vec<(String, bool)> {
        let answer = self.sites().list_links(ListLinksRequest {}).await.unwrap();
        let links = answer.into_inner().links.into_iter();
        links
            .map(|link| (link.peer_site_code, link.parent))
            .collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(pair).collect()
}

fn refused(outcome: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = outcome.unwrap_err();
    (status.code(), reason(&status).unwrap_or_default())
}

fn conflict(word: &str) -> (Code, String) {
    (Code::FailedPrecondition, word.to_owned())
}

#[tokio::test]
async fn a_site_becomes_a_child_with_a_token_and_leaves_again() {
    let (central, child) = (start("CEN", true).await, start("J01", false).await);
    let token = central.invite("j01").await.unwrap();
    assert!(token.starts_with("muster-join-"));
    let kept = central
        .count("SELECT count(*) FROM site_invitations WHERE site_code = 'J01' AND used_at IS NULL")
        .await;
    assert_eq!(kept, 1);

    let parent = child.join(&token).await.unwrap();
    assert_eq!((parent.site_code.as_str(), parent.own), ("CEN", false));
    let both = pairs(&[("CEN", ""), ("J01", "CEN")]);
    assert_eq!(
        (central.tree().await, child.tree().await),
        (both.clone(), both)
    );
    assert_eq!(central.peers().await, [("J01".to_owned(), false)]);
    assert_eq!(child.peers().await, [("CEN".to_owned(), true)]);
    let links = central.sites().list_links(ListLinksRequest {}).await;
    assert_ne!(
        links.unwrap().into_inner().links[0].health(),
        LinkHealth::Refused
    );

    // The answer may have been lost: the same again is harmless, and the link stays one.
    let joined = "SELECT extract(epoch FROM joined_at)::int8 FROM links";
    let since = central.count(joined).await;
    child.join(&token).await.unwrap();
    assert_eq!(central.count(joined).await, since);
    assert_eq!(
        child
            .count(
                "SELECT count(*) FROM parent_broker WHERE username = 'site-J01' AND password <> ''"
            )
            .await,
        1
    );

    // What administrators make is at both, until they part.
    for site in [&central, &child] {
        let request = CreateCollectionRequest {
            name: format!("Of {}", site.config.site_code),
            ..Default::default()
        };
        let mut collections = CollectionServiceClient::new(site.channel("administrator"));
        collections.create_collection(request).await.unwrap();
    }
    let made = "SELECT count(*) FROM collections WHERE NOT built_in";
    let both = async |count| central.count(made).await == count && child.count(made).await == count;
    eventually(async || both(2).await).await;
    child
        .sites()
        .leave_parent(LeaveParentRequest::default())
        .await
        .unwrap();
    eventually(async || both(1).await).await;
    let of_others = "SELECT count(*) FROM objects WHERE owner_site_code IS NOT NULL";
    assert_eq!(central.count(of_others).await, 0);
    assert_eq!(child.count(of_others).await, 0);
    assert_eq!(child.tree().await, pairs(&[("J01", "")]));
    assert_eq!(central.tree().await, pairs(&[("CEN", "")]));
    assert!(central.peers().await.is_empty() && child.peers().await.is_empty());
    let again = child
        .sites()
        .leave_parent(LeaveParentRequest::default())
        .await;
    assert_eq!(refused(again), conflict("NO_PARENT"));

    // The token is used up, also for who used it: the site was removed meanwhile.
    assert_eq!(refused(child.join(&token).await), conflict("TOKEN"));
    let token = central.invite("J01").await.unwrap();
    child.join(&token).await.unwrap();
    assert_eq!(central.peers().await, [("J01".to_owned(), false)]);
}

#[tokio::test]
async fn a_childs_roles_learn_where_the_parents_are_and_nobody_else_does() {
    let (central, child) = (start("CEO", true).await, start("J21", false).await);
    let ask = async |site: &Site, name| {
        let mut service = UpstreamServiceClient::new(site.channel(name));
        service.get_upstream(GetUpstreamRequest {}).await
    };
    let alone = ask(&child, "software-update-point").await;
    assert_eq!(refused(alone), conflict("NO_PARENT"));

    let token = central.invite("J21").await.unwrap();
    child.join(&token).await.unwrap();
    let supplied = ["software-update-point", "distribution-point"];
    for name in supplied {
        let upstream = ask(&child, name).await.unwrap().into_inner();
        let roles = upstream.roles.unwrap();
        assert_eq!(upstream.site_code, "CEO");
        assert_eq!(roles.software_update_points.len(), 1);
        // What it is lent opens the parent's doors for sites below, and no others.
        let tls = ClientTls::from_pem(&upstream.ca, &upstream.certificate, &upstream.key).unwrap();
        let address = format!("https://127.0.0.1:{}", central.config.listen.port());
        let lent = channel_with(&address, tls, &ChannelOptions::default()).unwrap();
        let mut service = UpstreamServiceClient::new(lent.clone());
        let again = service.get_roles(GetRolesRequest {}).await.unwrap();
        assert_eq!(again.into_inner(), roles);
        let other = service.get_upstream(GetUpstreamRequest {}).await;
        assert_eq!(other.unwrap_err().code(), Code::PermissionDenied);
        let mut sites = SiteServiceClient::new(lent);
        let other = sites.list_sites(ListSitesRequest {}).await;
        assert_eq!(other.unwrap_err().code(), Code::PermissionDenied);
    }
    for name in ["administrator", "management-point", "site-server"] {
        let code = ask(&child, name).await.unwrap_err().code();
        assert_eq!(code, Code::PermissionDenied, "{name}");
    }
    for name in supplied.into_iter().chain(["administrator", "site-server"]) {
        let mut service = UpstreamServiceClient::new(central.channel(name));
        let answer = service.get_roles(GetRolesRequest {}).await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{name}");
    }

    // Once it is removed, what it was lent opens nothing.
    let request = RemoveChildRequest {
        site_code: "J21".into(),
    };
    central.sites().remove_child(request).await.unwrap();
    let gone = ask(&child, "distribution-point").await.unwrap_err();
    assert_eq!(gone.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_childs_broker_user_may_use_its_two_queues_and_nothing_else() {
    let (central, child) = (start("CEN", true).await, start("J02", false).await);
    child
        .join(&central.invite("J02").await.unwrap())
        .await
        .unwrap();
    let sql = "SELECT username, password, uri FROM parent_broker";
    let row = child
        .pool
        .get()
        .await
        .unwrap()
        .query_one(sql, &[])
        .await
        .unwrap();
    let [user, password, uri]: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(
        (user.as_str(), uri.as_str()),
        ("site-J02", central.config.rabbitmq.uri.as_str())
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, password).unwrap();
    let config = muster_rabbitmq::Config::new(uri, user, &file);
    for queue in ["link.CEN.J02.up", "site.CEN.state.9", "x"] {
        let made = muster_rabbitmq::topology::declare(&config, &[queue.to_owned()]).await;
        assert!(made.is_err(), "it could make {queue}");
    }
    // What it told us of goes with it.
    for name in ["ours", "theirs"] {
        central.enrol(name).await;
    }
    let db = central.pool.get().await.unwrap();
    let sql = "UPDATE clients SET (owner_site_code, via_site_code) = ('J02', 'J02') WHERE host_name = 'theirs'";
    db.execute(sql, &[]).await.unwrap();
    central
        .sites()
        .remove_child(RemoveChildRequest {
            site_code: "J02".into(),
        })
        .await
        .unwrap();
    let entered = muster_rabbitmq::open(&config, "test").await;
    assert!(entered.is_err(), "a removed site enters the broker");
    let left = "SELECT count(*) FROM clients WHERE deleted_at IS NULL";
    muster_testkit::eventually(async || central.count(left).await == 1).await;
    let again = central
        .sites()
        .remove_child(RemoveChildRequest {
            site_code: "J02".into(),
        })
        .await;
    assert_eq!(refused(again), (Code::NotFound, "UNKNOWN_SITE".to_owned()));
    assert_eq!(central.tree().await, pairs(&[("CEN", "")]));
}

#[tokio::test]
async fn a_token_is_good_once_for_one_site_and_not_for_ever() {
    let (central, first) = (start("CEN", true).await, start("J03", false).await);
    let other = start("J04", false).await;
    let exists = |code: &str| (Code::AlreadyExists, code.to_owned());

    let token = central.invite("J03").await.unwrap();
    assert_eq!(refused(other.join(&token).await), conflict("TOKEN"));
    assert_eq!(
        refused(first.join("muster-join-nonsense").await),
        conflict("TOKEN")
    );
    let expired = "UPDATE site_invitations SET expires_at = now() - interval '1 second'";
    let db = central.pool.get().await.unwrap();
    db.execute(expired, &[]).await.unwrap();
    assert_eq!(refused(first.join(&token).await), conflict("TOKEN"));

    let token = central.invite("J03").await.unwrap();
    first.join(&token).await.unwrap();
    assert_eq!(
        refused(central.invite("J03").await),
        exists("DUPLICATE_SITE_CODE")
    );
    assert_eq!(
        refused(central.invite("CEN").await),
        exists("DUPLICATE_SITE_CODE")
    );
    // Another machine that calls itself the same, with the same token.
    let impostor = start("J03", false).await;
    assert_eq!(refused(impostor.join(&token).await), conflict("TOKEN"));
    assert!(impostor.peers().await.is_empty());

    let second = start("CE2", true).await;
    let away = second.invite("J03").await.unwrap();
    assert_eq!(refused(first.join(&away).await), conflict("HAS_PARENT"));
}

#[tokio::test]
async fn who_answers_in_the_parents_place_gets_nothing() {
    let (central, impostor) = (start("CEN", true).await, start("CEN", true).await);
    let child = start("J05", false).await;
    let token = central.invite("J05").await.unwrap();
    // The same token with the address of a site that has another authority.
    let address = |site: &Site| format!("https://{}", site.config.listen);
    let (real, false_) = (address(&central), address(&impostor));
    assert_eq!(real.len(), false_.len());
    let decode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(text)
            .unwrap()
    };
    let encode = |bytes: Vec<u8>| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let bytes = decode(token.strip_prefix("muster-join-").unwrap());
    let head = &bytes[..bytes.len() - real.len()];
    let bent = format!("muster-join-{}", encode([head, false_.as_bytes()].concat()));
    assert_eq!(
        refused(child.join(&bent).await),
        conflict("FOREIGN_AUTHORITY")
    );
    assert!(child.peers().await.is_empty());
    child.join(&token).await.unwrap();
}

#[tokio::test]
async fn nobody_is_below_itself_and_every_code_is_there_once() {
    let (central, middle) = (start("CEN", true).await, start("J06", true).await);
    let leaf = start("J07", false).await;
    middle
        .join(&central.invite("J06").await.unwrap())
        .await
        .unwrap();
    leaf.join(&middle.invite("J07").await.unwrap())
        .await
        .unwrap();
    assert_eq!(
        middle.tree().await,
        pairs(&[("CEN", ""), ("J06", "CEN"), ("J07", "J06")])
    );
    // The leaf has not been told of the central site yet, but knows that it is above.
    let exists = (Code::AlreadyExists, "DUPLICATE_SITE_CODE".to_owned());
    assert_eq!(refused(leaf.invite("CEN").await), exists);
    assert_eq!(refused(middle.invite("CEN").await), exists);
    let other = start("X01", true).await;
    let token = other.invite("J06").await.unwrap();
    assert_eq!(refused(middle.join(&token).await), conflict("HAS_PARENT"));
}

#[tokio::test]
async fn a_site_cannot_be_below_one_that_has_become_its_child() {
    let (first, second) = (start("AAA", true).await, start("BBB", true).await);
    // Both tokens are made while both sites are alone.
    let (of_first, of_second) = (
        first.invite("BBB").await.unwrap(),
        second.invite("AAA").await.unwrap(),
    );
    second.join(&of_first).await.unwrap();
    assert_eq!(refused(first.join(&of_second).await), conflict("LOOP"));
    assert_eq!(refused(first.join(&of_first).await), conflict("LOOP"));
    assert_eq!(first.peers().await, [("BBB".to_owned(), false)]);
}

#[tokio::test]
async fn without_a_way_to_make_users_the_administrator_is_told_what_to_do() {
    let (central, child) = (start("CEN", false).await, start("J08", false).await);
    let token = central.invite("J08").await.unwrap();
    let status = child.join(&token).await.unwrap_err();
    assert_eq!(reason(&status).as_deref(), Some("BROKER"));
    assert!(
        status.message().contains("rabbitmqctl set_permissions"),
        "{status}"
    );
    assert!(central.peers().await.is_empty());
    // Nothing is used up by that.
    let unused = "SELECT count(*) FROM site_invitations WHERE used_at IS NULL";
    assert_eq!(central.count(unused).await, 1);
}

#[tokio::test]
async fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let central = start("CEN", true).await;
    let token = central.invite("J09").await.unwrap();
    let authority = {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject;
        use sha2::Digest;
        let der = CertificateDer::from_pem_file(&central.config.ca.cert).unwrap();
        sha2::Sha256::digest(&der).into()
    };
    let url = format!("https://{}", central.config.listen);
    let options = ChannelOptions {
        connect_timeout: Duration::from_secs(5),
        ..ChannelOptions::default()
    };
    let channel = channel_pinned(&url, authority, &options).unwrap();
    let mut service = JoinServiceClient::new(channel.clone());
    let request = JoinRequest {
        token,
        site_code: "J09".into(),
        name: "x".into(),
        public_key: vec![7; 32].into(),
        protocol: 1,
        ..Default::default()
    };
    let status = service.join(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Without a certificate nothing else can be called.
    let mut sites = SiteServiceClient::new(channel);
    let status = sites.list_sites(ListSitesRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}
