//! What the maker of a package is told.

use muster_domain::states::Detection::Required;
use muster_proto::catalog as cat;
use muster_proto::content::CreatePackageRequest;
use muster_proto::content::package_service_client::PackageServiceClient;
use muster_proto::state;
use muster_testkit::eventually;

use crate::roles::update;
use crate::site::Site;

#[tokio::test]
async fn who_packages_a_new_kernel_is_told_of_the_packages_that_nobody_has_yet() {
    const OLD: u32 = 3;
    const NEW: u32 = 4;
    let site = Site::start().await;
    let kernel = cat::Update {
        supersedes: vec![OLD],
        ..update(NEW, "linux", &["linux-image-amd64", "linux-image-41-amd64"])
    };
    site.others.world.lock().unwrap().catalog = vec![
        update(1, "openssl", &["openssl", "libssl-doc"]),
        update(OLD, "linux", &["linux-image-amd64", "linux-image-40-amd64"]),
        kernel,
    ];
    eventually(async || site.count("SELECT generation FROM catalog_state").await == 1).await;
    let client = site.enrol("host-1").await;
    let mut report = client.full(1, &[(1, Required), (NEW, Required)]);
    let need = |update_no, package: &str| state::LeafNeed {
        update_no,
        packages: vec![package.to_owned()],
    };
    report.compliance.as_mut().unwrap().needs =
        vec![need(1, "openssl"), need(NEW, "linux-image-amd64")];
    site.report(&[report]).await;
    eventually(async || site.contiguous(&client).await == 1).await;

    let mut packages = PackageServiceClient::new(site.channel("administrator"));
    let mut warned = async |name: &str, update_numbers: Vec<u32>, all_leaves| {
        let request = CreatePackageRequest {
            name: name.to_owned(),
            update_numbers,
            all_leaves,
            ..Default::default()
        };
        let answer = packages.create_package(request).await.unwrap();
        answer.into_inner().warnings
    };
    let warnings = warned("kernel", vec![1, NEW], false).await;
    assert_eq!(
        warnings,
        [
            "new packages that no client asked for, such as linux-image-41-amd64, in 1 of the \
             updates: use all_leaves when installs fail with 102"
        ]
    );
    assert!(warned("all of it", vec![NEW], true).await.is_empty());
    let documentation_is_left_out = warned("libraries", vec![1], false).await;
    assert!(documentation_is_left_out.is_empty());
}
