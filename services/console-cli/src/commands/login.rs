//! `muster login`: remembers a site after it has answered once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use muster_proto::site::GetSiteRequest;
use serde_json::json;

use super::Plain;
use crate::client::Site;
use crate::config::{Config, Context};
use crate::failure::Failure;
use crate::output::Printer;

/// Arguments of `muster login`.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Address of the site server
    #[arg(long, value_name = "URL")]
    site_server: String,
    /// The site's CA, PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Certificate of an administrator, PEM
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Asks the site who it is and remembers it; nothing is written when it does not answer.
pub(crate) async fn run(
    args: LoginArgs,
    name: Option<&str>,
    timeout: Duration,
    printer: &Printer,
) -> Result<(), Failure> {
    let mut context = Context {
        name: name.unwrap_or_default().to_owned(),
        site_server: args.site_server,
        ca: absolute(&args.ca)?,
        cert: absolute(&args.cert)?,
        key: absolute(&args.key)?,
    };
    let answer = Site::new(&context, timeout)?
        .sites()
        .get_site(GetSiteRequest::default())
        .await?;
    let site = answer.into_inner().site.unwrap_or_default();
    if context.name.is_empty() {
        context.name.clone_from(&site.site_code);
    }
    let name = context.name.clone();
    let mut config = Config::load()?;
    config.put(context);
    let path = config.save()?;
    printer.show(&Plain {
        value: json!({"context": name, "siteCode": site.site_code, "siteName": site.name, "config": path}),
        text: format!("logged in to site {} ({}) as context {name}", site.site_code, site.name),
        names: vec![name],
    })
}

/// The file from wherever the next command is typed.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| {
        Failure::usage(
            "FILE_NOT_FOUND",
            format!("cannot read {}: {error}", path.display()),
        )
    })
}
