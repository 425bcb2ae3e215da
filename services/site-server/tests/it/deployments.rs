//! From what clients need over a package and a deployment to the reports.

use muster_domain::states::Detection::{Installed, Required};
use muster_proto::catalog as cat;
use muster_proto::catalog::update_service_client::UpdateServiceClient;
use muster_proto::content as con;
use muster_proto::content::package_service_client::PackageServiceClient;
use muster_proto::deployment as dep;
use muster_proto::deployment::deployment_service_client::DeploymentServiceClient;
use muster_proto::policy::Policy;
use muster_proto::report as rep;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_proto::site::site_service_client::SiteServiceClient;
use muster_proto::site::{GetSiteRequest, ListSitesRequest};
use muster_proto::state;
use muster_runtime::status;
use muster_testkit::eventually;
use prost::Message;
use tonic::Code;

use crate::roles::update;
use crate::site::{Client, Site};

const OPENSSL: u32 = 1;
pub(crate) const BASH: u32 = 2;

pub(crate) async fn with_catalog() -> Site {
    let site = Site::start().await;
    site.others.world.lock().unwrap().catalog = vec![
        update(OPENSSL, "openssl", &["openssl", "libssl3", "libssl-doc"]),
        update(BASH, "bash", &["bash"]),
    ];
    eventually(async || site.count("SELECT generation FROM catalog_state").await == 1).await;
    site
}

fn needs(client: &Client, update_no: u32, packages: &[&str]) -> state::Report {
    let mut report = client.full(1, &[(update_no, Required)]);
    let packages = packages
        .iter()
        .map(|package| (*package).to_owned())
        .collect();
    let need = state::LeafNeed {
        update_no,
        packages,
    };
    report.compliance.as_mut().unwrap().needs.push(need);
    report
}

async fn package(site: &Site, name: &str, updates: &[u32]) -> con::Package {
    let request = con::CreatePackageRequest {
        name: name.into(),
        update_numbers: updates.to_vec(),
        ..Default::default()
    };
    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    packages
        .create_package(request)
        .await
        .unwrap()
        .into_inner()
        .package
        .unwrap()
}

async fn deploy(
    site: &Site,
    name: &str,
    list: &str,
) -> Result<dep::CreateDeploymentResponse, tonic::Status> {
    let request = dep::CreateDeploymentRequest {
        name: name.into(),
        update_list: list.into(),
        deadline_at: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut deployments = DeploymentServiceClient::new(site.channel("administrator"));
    Ok(deployments.create_deployment(request).await?.into_inner())
}

#[tokio::test]
async fn a_deployment_goes_from_what_clients_need_to_what_they_installed() {
    let site = with_catalog().await;
    let (one, two) = (site.enrol("host-1").await, site.enrol("host-2").await);
    site.report(&[
        needs(&one, OPENSSL, &["libssl3", "openssl"]),
        two.full(1, &[(BASH, Installed)]),
    ])
    .await;
    eventually(async || site.contiguous(&two).await == 1).await;

    // What is required becomes a list; superseded and expired ones would be left out.
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    let request = cat::CreateUpdateListRequest {
        name: "November".into(),
        filter: Some(cat::UpdateFilter {
            required_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let list = updates
        .create_update_list(request)
        .await
        .unwrap()
        .into_inner()
        .update_list
        .unwrap();
    assert_eq!(list.update_count, 1);
    let found = updates
        .list_updates(cat::ListUpdatesRequest {
            filter: Some(cat::UpdateFilter {
                source_package: "open*".into(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let found = &found.updates[0];
    assert_eq!(
        (
            found.installed,
            found.required,
            found.not_required,
            found.unknown
        ),
        (0, 1, 1, 0)
    );

    // Nothing can be deployed before its files are there.
    let early = deploy(&site, "Patch day", "November").await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    assert_eq!(status::reason(&early).as_deref(), Some("NO_CONTENT"));
    assert!(
        early.message().contains("has no content: create a package"),
        "{}",
        early.message()
    );

    // Only the two files that somebody needs are fetched, and the suite is published.
    assert_eq!(package(&site, "Files", &[OPENSSL]).await.file_count, 2);
    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    let get = || con::GetPackageRequest {
        name: "files".into(),
    };
    eventually(async || {
        let package = packages
            .get_package(get())
            .await
            .unwrap()
            .into_inner()
            .package
            .unwrap();
        package.files_available == 2
    })
    .await;
    assert!(
        site.others
            .world
            .lock()
            .unwrap()
            .published
            .contains("bookworm-security")
    );
    assert!(
        !site
            .others
            .world
            .lock()
            .unwrap()
            .published
            .contains("bookworm")
    );

    let before = site.policy(&one, &[]).await.unwrap().policy.unwrap();
    let made = deploy(&site, "Patch day", "November")
        .await
        .unwrap()
        .deployment
        .unwrap();
    assert_eq!(
        (made.collection.as_str(), made.update_numbers.as_slice()),
        ("All systems", &[1][..])
    );
    assert_eq!(
        deploy(&site, "patch DAY", "November")
            .await
            .unwrap_err()
            .code(),
        Code::AlreadyExists
    );
    let signed = site
        .policy(&one, &before.version)
        .await
        .unwrap()
        .policy
        .unwrap();
    let policy = Policy::decode(signed.policy).unwrap();
    assert!(policy.revision > Policy::decode(before.policy).unwrap().revision);
    assert_eq!(policy.deployments[0].deployment_id, made.deployment_id);
    assert!(policy.deployments[0].deadline_at.is_some());
    let files: Vec<&str> = policy.updates[0]
        .files
        .iter()
        .map(|f| f.package.as_str())
        .collect();
    assert_eq!(files, ["openssl", "libssl3"]);
    let suite = &policy.suites[policy.updates[0].files[0].suite as usize];
    assert_eq!(
        (suite.suite.as_str(), suite.key.len()),
        ("bookworm-security", 16)
    );

    // A need that comes later is followed without anybody's doing.
    let mut later = two.delta(2, 2, &[(OPENSSL, Required)]);
    let need = state::LeafNeed {
        update_no: OPENSSL,
        packages: vec!["libssl-doc".into()],
    };
    later.compliance.as_mut().unwrap().needs.push(need);
    site.report(&[later]).await;
    eventually(async || {
        let package = packages
            .get_package(get())
            .await
            .unwrap()
            .into_inner()
            .package
            .unwrap();
        package.files_available == 3
    })
    .await;
    let signed = site
        .policy(&one, &signed.version)
        .await
        .unwrap()
        .policy
        .unwrap();
    assert_eq!(
        Policy::decode(signed.policy).unwrap().updates[0]
            .files
            .len(),
        3
    );

    watch_until_done(&site, &made.deployment_id, &one, &two).await;
    ask(&site).await;
}

fn enforced(
    report: state::Report,
    deployment_id: &bytes::Bytes,
    (update, deployment, error): (i32, i32, i32),
) -> state::Report {
    let serial = report.last_serial;
    state::Report {
        update_enforcements: vec![state::UpdateEnforcementState {
            deployment_id: deployment_id.clone(),
            update_no: OPENSSL,
            state: update,
            error_code: error,
            detail: if error == 0 {
                String::new()
            } else {
                "dpkg said no".into()
            },
            serial,
            changed_at: None,
        }],
        deployments: vec![state::DeploymentState {
            deployment_id: deployment_id.clone(),
            compliance: if deployment == 4 { 1 } else { 2 },
            enforcement: deployment,
            evaluation: 2,
            error_code: error,
            detail: String::new(),
            serial,
            changed_at: None,
        }],
        ..report
    }
}

async fn watch_until_done(site: &Site, id: &bytes::Bytes, one: &Client, two: &Client) {
    let mut deployments = DeploymentServiceClient::new(site.channel("administrator"));
    let request = dep::WatchDeploymentRequest {
        name: "Patch day".into(),
        until_done: true,
    };
    let mut watch = deployments
        .watch_deployment(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap().summary.unwrap();
    assert_eq!((first.clients, first.unknown), (2, 2));

    // An old state that comes late does not replace a newer one.
    let downloading = enforced(one.delta(2, 2, &[]), id, (12, 7, 0));
    let done = enforced(one.delta(3, 3, &[(OPENSSL, Installed)]), id, (10, 4, 0));
    site.report(&[done]).await;
    site.report(&[downloading]).await;
    site.report(&[enforced(two.delta(3, 3, &[]), id, (11, 6, 101))])
        .await;
    let mut last = first;
    while let Some(message) = watch.message().await.unwrap() {
        last = message.summary.unwrap();
        let columns = last.compliant + last.in_progress + last.failed + last.unknown;
        assert_eq!(columns, last.clients);
    }
    assert_eq!(
        (last.compliant, last.failed, last.in_progress, last.unknown),
        (1, 1, 0, 0)
    );
    eventually(async || site.contiguous(one).await == 3).await;
}

async fn ask(site: &Site) {
    let mut reports = ReportServiceClient::new(site.channel("administrator"));
    let request = rep::GetComplianceRequest {
        update_list: "November".into(),
        ..Default::default()
    };
    let report = reports.get_compliance(request).await.unwrap().into_inner();
    assert_eq!(
        (
            report.clients,
            report.compliant,
            report.non_compliant,
            report.unknown
        ),
        (2, 1, 1, 0)
    );
    let update = &report.updates[0];
    assert_eq!(
        (update.installed, update.required, update.not_required),
        (1, 1, 0)
    );

    let request = rep::GetEnforcementRequest {
        deployment: "Patch day".into(),
        ..Default::default()
    };
    let report = reports.get_enforcement(request).await.unwrap().into_inner();
    let states: Vec<(i32, u32)> = report.states.iter().map(|s| (s.state, s.clients)).collect();
    assert_eq!(states, [(4, 1), (6, 1)]);
    assert_eq!(report.clients[0].updates[0].enforcement, 10);
    assert_eq!(report.clients[0].updates[0].compliance, 3);
    assert_eq!(report.clients[1].error_code, 101);

    let report = reports
        .list_errors(rep::ListErrorsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(report.errors.len(), 1);
    let error = &report.errors[0];
    assert_eq!(
        (error.error_code, error.clients, error.updates),
        (101, 1, 1)
    );
    assert_eq!(error.meaning, "the package manager failed");
    assert_eq!(error.example_detail, "dpkg said no");

    let request = rep::GetClientReportRequest {
        client: "host-2".into(),
        ..Default::default()
    };
    let report = reports
        .get_client_report(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((report.installed, report.required), (1, 1));
    assert_eq!(report.updates.len(), 1);
    assert_eq!(
        (report.updates[0].compliance, report.updates[0].enforcement),
        (2, 11)
    );
    assert_eq!(report.deployments[0].enforcement, 6);

    let mut sites = SiteServiceClient::new(site.channel("administrator"));
    let listed = sites
        .list_sites(ListSitesRequest {})
        .await
        .unwrap()
        .into_inner()
        .sites;
    assert_eq!(
        (
            listed[0].clients,
            listed[0].updates,
            listed[0].catalog_generation
        ),
        (2, 2, 1)
    );
    let shown = sites
        .get_site(GetSiteRequest::default())
        .await
        .unwrap()
        .into_inner();
    let reachable: Vec<(&str, bool)> = shown
        .roles
        .iter()
        .map(|role| (role.role.as_str(), role.reachable))
        .collect();
    assert_eq!(
        reachable,
        [
            ("software-update-point", true),
            ("management-point", false),
            ("distribution-point", true)
        ]
    );
}

#[tokio::test]
async fn what_is_deleted_leaves_clients_and_distribution_points() {
    let site = with_catalog().await;
    let client = site.enrol("host-1").await;
    site.report(&[needs(&client, BASH, &["bash"])]).await;
    eventually(async || site.contiguous(&client).await == 1).await;
    let mut updates = UpdateServiceClient::new(site.channel("administrator"));
    let list = cat::CreateUpdateListRequest {
        name: "L".into(),
        update_numbers: vec![BASH],
        ..Default::default()
    };
    updates.create_update_list(list).await.unwrap();
    package(&site, "P", &[BASH]).await;
    eventually(async || deploy(&site, "D", "L").await.is_ok()).await;
    let deployed = site.policy(&client, &[]).await.unwrap().policy.unwrap();
    assert_eq!(
        Policy::decode(deployed.policy).unwrap().deployments.len(),
        1
    );

    let used = updates
        .delete_update_list(cat::DeleteUpdateListRequest { name: "L".into() })
        .await;
    assert_eq!(
        status::reason(&used.unwrap_err()).as_deref(),
        Some("IN_USE")
    );
    let mut deployments = DeploymentServiceClient::new(site.channel("administrator"));
    let delete = || dep::DeleteDeploymentRequest { name: "D".into() };
    deployments.delete_deployment(delete()).await.unwrap();
    assert_eq!(
        deployments
            .delete_deployment(delete())
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    let after = site
        .policy(&client, &deployed.version)
        .await
        .unwrap()
        .policy
        .unwrap();
    assert!(Policy::decode(after.policy).unwrap().deployments.is_empty());
    updates
        .delete_update_list(cat::DeleteUpdateListRequest { name: "L".into() })
        .await
        .unwrap();

    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    packages
        .delete_package(con::DeletePackageRequest { name: "P".into() })
        .await
        .unwrap();
    eventually(async || site.others.world.lock().unwrap().removed.len() == 1).await;
    eventually(async || site.count("SELECT count(*) FROM content_files").await == 0).await;
    // The same files can be wanted again.
    site.others.world.lock().unwrap().asked.clear();
    package(&site, "P", &[BASH]).await;
    eventually(async || {
        site.count("SELECT count(*) FROM distribution_states WHERE state = 3")
            .await
            == 1
    })
    .await;
}
