//! Deployment packages: which updates' files belong on distribution points.

use deadpool_postgres::GenericClient;
use muster_proto::content as pb;
use muster_proto::link::ObjectKind;
use uuid::Uuid;

use super::links::{self, objects};
use super::manage_update_lists::{self, RECOMMENDED};
use super::{Error, Site};
use crate::domain::names;
use crate::domain::page::Page;
use crate::store::named::Named;
use crate::store::{deployments, packages, sites};

async fn find(site: &Site, db: &impl GenericClient, name: &str) -> Result<Named, Error> {
    let name = name.trim();
    let unknown = || Error::not_found("UNKNOWN_PACKAGE", format!("there is no package {name:?}"));
    let found = packages::find(db, site.config.site_code, name).await?;
    found.ok_or_else(unknown)
}

/// Makes a package and starts the transfer of its files.
pub(crate) async fn create_package(
    site: &Site,
    administrator: &str,
    request: &pb::CreatePackageRequest,
) -> Result<pb::CreatePackageResponse, Error> {
    let name = names::name(&request.name)?;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let (list_no, updates) =
        manage_update_lists::chosen(site, &tx, &request.update_list, &request.update_numbers)
            .await?;
    let number = packages::add(&tx, &name, &updates, list_no, request.all_leaves)
        .await
        .map_err(|error| error.taken("package", &name))?;
    packages::derive_files(&tx).await?;
    let (with_new_names, example) = if request.all_leaves {
        (0, None)
    } else {
        packages::new_names(&tx, &updates).await?
    };
    let package = packages::show(&tx, site.config.site_code, number).await?;
    let id = Uuid::from_slice(&package.package_id).unwrap_or_default();
    objects::changed(&tx, ObjectKind::Package, &[id]).await?;
    tx.commit().await?;
    site.content_wanted.notify_one();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        package = name,
        updates = updates.len(),
        files = package.file_count,
        bytes = package.total_bytes,
        "package created"
    );
    let mut warnings = Vec::new();
    if updates.len() > RECOMMENDED {
        warnings.push(format!(
            "{} updates: at most {RECOMMENDED} are recommended",
            updates.len()
        ));
    }
    if package.file_count == 0 {
        warnings.push(
            "no client has said that it needs a file of these updates: files follow when one does"
                .to_owned(),
        );
    }
    if let Some(example) = example {
        warnings.push(format!(
            "new packages that no client asked for, such as {example}, in {with_new_names} of the \
             updates: use all_leaves when installs fail with 102"
        ));
    }
    if site.distribution_points.is_empty() {
        warnings.push("the site has no distribution point".to_owned());
    }
    Ok(pb::CreatePackageResponse {
        package: Some(package),
        warnings,
    })
}

/// One page of packages.
pub(crate) async fn list_packages(
    site: &Site,
    request: &pb::ListPackagesRequest,
) -> Result<pb::ListPackagesResponse, Error> {
    let page = Page::read(request.page_size, &request.page_token)?;
    let mut found = packages::list(&site.db().await?, site.config.site_code, page).await?;
    let next_page_token = page.cut(&mut found);
    Ok(pb::ListPackagesResponse {
        packages: found,
        next_page_token,
    })
}

/// One package with the state of its files.
pub(crate) async fn get_package(
    site: &Site,
    request: &pb::GetPackageRequest,
) -> Result<pb::GetPackageResponse, Error> {
    let db = site.db().await?;
    let number = find(site, &db, &request.name).await?.number;
    Ok(pb::GetPackageResponse {
        package: Some(packages::show(&db, site.config.site_code, number).await?),
        files: packages::files(&db, number).await?,
    })
}

/// Removes a package; its files leave the distribution points unless another package has them.
pub(crate) async fn delete_package(
    site: &Site,
    administrator: &str,
    request: &pb::DeletePackageRequest,
) -> Result<(), Error> {
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    let found = find(site, &tx, &request.name).await?.ours("package")?;
    let used_by = deployments::using_package_updates(&tx, found.number).await?;
    packages::delete(&tx, found.number).await?;
    objects::deleted(&tx, ObjectKind::Package, found.id).await?;
    sites::raise_policy_revision(&tx).await?;
    tx.commit().await?;
    site.content_wanted.notify_one();
    links::wake(site);
    tracing::info!(
        audit = true,
        administrator,
        package = request.name,
        deployed_by = used_by,
        "package deleted"
    );
    Ok(())
}
