//! Deployment packages: content on distribution points.

use jiff::Timestamp;
use muster_proto::content::{
    CreatePackageResponse, FileState, FileStatus, GetPackageResponse, ListPackagesResponse, Package,
};

use super::{Answer, created};
use crate::output::table::Block;
use crate::output::text::{ago, at, hex, id, size, word};

fn names(packages: &[Package]) -> Vec<String> {
    packages
        .iter()
        .map(|package| package.name.clone())
        .collect()
}

impl Answer for ListPackagesResponse {
    const MESSAGE: &'static str = "muster.content.v1.ListPackagesResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let row = |package: &Package| {
            vec![
                package.name.clone(),
                package.owner_site_code.clone(),
                package.update_count.to_string(),
                package.file_count.to_string(),
                package.files_available.to_string(),
                package.files_failed.to_string(),
                size(package.total_bytes),
                ago(package.created_at.as_ref(), now),
                package.problem.clone(),
            ]
        };
        const HEADER: &[&str] = &[
            "PACKAGE",
            "OWNER",
            "UPDATES#",
            "FILES#",
            "AVAILABLE#",
            "FAILED#",
            "SIZE#",
            "CREATED",
            "PROBLEM",
        ];
        vec![Block::Table {
            header: HEADER,
            rows: self.packages.iter().map(row).collect(),
        }]
    }

    fn names(&self) -> Vec<String> {
        names(&self.packages)
    }
}

impl Answer for GetPackageResponse {
    const MESSAGE: &'static str = "muster.content.v1.GetPackageResponse";

    fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let package = self.package.clone().unwrap_or_default();
        // What is available is only counted: what is not is what people look for.
        let row = |file: &FileStatus| {
            let state = word(file.state().as_str_name(), "FILE_STATE_");
            vec![
                hex(&file.sha256),
                state,
                size(file.bytes_fetched),
                file.detail.clone(),
            ]
        };
        let missing: Vec<_> = self
            .files
            .iter()
            .filter(|file| file.state() != FileState::Available)
            .map(row)
            .collect();
        let mut blocks = vec![Block::Pairs(vec![
            ("Package", package.name),
            ("Id", id(&package.package_id)),
            ("Owner", package.owner_site_code),
            ("Updates", package.update_count.to_string()),
            ("Files", package.file_count.to_string()),
            ("Available", package.files_available.to_string()),
            ("Failed", package.files_failed.to_string()),
            ("Size", size(package.total_bytes)),
            ("Created", at(package.created_at.as_ref(), now)),
            ("Problem", package.problem),
        ])];
        if !missing.is_empty() {
            let header = &["FILE", "STATE", "FETCHED#", "DETAIL"];
            blocks.push(Block::Table {
                header,
                rows: missing,
            });
        }
        blocks
    }

    fn names(&self) -> Vec<String> {
        names(self.package.as_slice())
    }

    fn line(&self, _now: Timestamp) -> String {
        let package = self.package.clone().unwrap_or_default();
        let (done, all) = (package.files_available, package.file_count);
        let failed = match package.files_failed {
            0 => String::new(),
            failed => format!(", {failed} failed: {}", package.problem),
        };
        format!(
            "{done} of {all} files available, {} in all{failed}",
            size(package.total_bytes)
        )
    }
}

impl Answer for CreatePackageResponse {
    const MESSAGE: &'static str = "muster.content.v1.CreatePackageResponse";

    fn blocks(&self, _now: Timestamp) -> Vec<Block> {
        created("package", &Answer::names(self).concat())
    }

    fn names(&self) -> Vec<String> {
        names(self.package.as_slice())
    }
}
