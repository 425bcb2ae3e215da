//! A Debian archive in memory, served on loopback and signed by a key that lives as long as the test.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use muster_runtime::Tasks;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
};
use pgp::types::Password;
use sha2::{Digest, Sha256};

type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// The archive: change its files, then synchronise.
pub(crate) struct Archive {
    files: Files,
    requests: Arc<Mutex<Vec<String>>>,
    addr: SocketAddr,
    key: SignedSecretKey,
    keyring: PathBuf,
    _tasks: Tasks,
}

/// A binary package of an index.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    pub(crate) version: &'static str,
    pub(crate) size: u64,
}

pub(crate) const fn package(
    name: &'static str,
    source: &'static str,
    version: &'static str,
) -> Package {
    Package {
        name,
        source,
        version,
        size: 1000,
    }
}

/// The text of an index.
pub(crate) fn stanzas(packages: &[Package]) -> String {
    packages.iter().fold(String::new(), |mut text, p| {
        let (name, source, version, size) = (p.name, p.source, p.version, p.size);
        let hash = hex::encode(Sha256::digest(format!("{name} {version} {size}")));
        writeln!(
            text,
            "Package: {name}\nSource: {source}\nVersion: {version}\nArchitecture: amd64\n\
             Filename: pool/main/{source}/{name}_{version}_amd64.deb\nSize: {size}\nSHA256: {hash}\n\
             Description: the {name}\n"
        )
        .unwrap();
        text
    })
}

/// A release that can be bent before it is signed.
#[derive(Clone)]
pub(crate) struct Release {
    pub(crate) suite: &'static str,
    pub(crate) date: Timestamp,
    pub(crate) valid_until: Option<Timestamp>,
    /// Path, bytes that are served, and the size and hash that are signed.
    pub(crate) files: Vec<(String, Vec<u8>, u64, String)>,
    pub(crate) more: &'static str,
}

pub(crate) fn xz(text: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut liblzma::bufread::XzEncoder::new(text, 6), &mut packed)
        .unwrap();
    packed
}

impl Release {
    /// A good one with one index.
    pub(crate) fn new(suite: &'static str, text: &str) -> Self {
        let date = Timestamp::now() - jiff::SignedDuration::from_hours(24);
        let mut release = Self {
            suite,
            date,
            valid_until: Some(Timestamp::now() + jiff::SignedDuration::from_hours(24)),
            files: Vec::new(),
            more: "Acquire-By-Hash: yes\n",
        };
        release.add("main/binary-amd64/Packages", text.as_bytes().to_vec());
        release.add("main/binary-amd64/Packages.xz", xz(text.as_bytes()));
        release
    }

    pub(crate) fn add(&mut self, path: &str, bytes: Vec<u8>) {
        let hash = hex::encode(Sha256::digest(&bytes));
        self.files
            .push((path.to_owned(), bytes.clone(), bytes.len() as u64, hash));
    }

    pub(crate) fn at(mut self, date: Timestamp) -> Self {
        self.date = date;
        self
    }

    pub(crate) fn text(&self) -> String {
        let time = |time: &Timestamp| DateTimePrinter::new().timestamp_to_string(time).unwrap();
        let mut text = format!(
            "Origin: Debian\nLabel: Example\nSuite: {0}\nCodename: {0}\nVersion: 12.1\nDate: {1}\n",
            self.suite,
            time(&self.date)
        );
        if let Some(valid_until) = &self.valid_until {
            writeln!(text, "Valid-Until: {}", time(valid_until)).unwrap();
        }
        text.push_str(self.more);
        text.push_str("SHA256:\n");
        for (path, _, size, hash) in &self.files {
            writeln!(text, " {hash} {size} {path}").unwrap();
        }
        text
    }
}

pub(crate) fn new_key() -> SignedSecretKey {
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Archive <archive@archive.example>".into())
        .build()
        .unwrap()
        .generate(rand::rngs::OsRng)
        .unwrap()
}

pub(crate) fn sign(text: &str, key: &SignedSecretKey) -> Vec<u8> {
    let message = CleartextSignedMessage::sign(
        rand::rngs::OsRng,
        text,
        &key.primary_key,
        &Password::empty(),
    )
    .unwrap();
    message.to_armored_bytes(ArmorOptions::default()).unwrap()
}

impl Archive {
    /// Serves an empty archive; its keyring goes to `folder`.
    pub(crate) async fn start(folder: &Path) -> Self {
        let key = new_key();
        let keyring = folder.join("archive.asc");
        let public = key
            .to_public_key()
            .to_armored_bytes(ArmorOptions::default())
            .unwrap();
        std::fs::write(&keyring, public).unwrap();
        let (files, requests, tasks) = (Files::default(), Arc::default(), Tasks::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .fallback(serve)
            .with_state((Arc::clone(&files), Arc::clone(&requests)));
        tasks.spawn("archive", async move { axum::serve(listener, app).await });
        Self {
            files,
            requests,
            addr,
            key,
            keyring,
            _tasks: tasks,
        }
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}/debian", self.addr)
    }

    pub(crate) fn keyring(&self) -> &Path {
        &self.keyring
    }

    /// Puts a file where apt would look for it.
    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.files
            .lock()
            .unwrap()
            .insert(format!("/debian/{path}"), bytes);
    }

    /// Signs a release and puts it and its files up, under their names and hashes.
    pub(crate) fn publish(&self, release: &Release) {
        let inrelease = sign(&release.text(), &self.key);
        self.publish_signed(release, inrelease);
    }

    /// The same with a signed text from elsewhere.
    pub(crate) fn publish_signed(&self, release: &Release, inrelease: Vec<u8>) {
        let base = format!("dists/{}", release.suite);
        for (path, bytes, _, hash) in &release.files {
            let (folder, _) = path.rsplit_once('/').unwrap();
            self.put(&format!("{base}/{path}"), bytes.clone());
            self.put(
                &format!("{base}/{folder}/by-hash/SHA256/{hash}"),
                bytes.clone(),
            );
        }
        self.put(&format!("{base}/InRelease"), inrelease);
    }

    /// Takes a file away.
    pub(crate) fn remove(&self, path: &str) {
        self.files
            .lock()
            .unwrap()
            .remove(&format!("/debian/{path}"));
    }

    pub(crate) fn sign(&self, text: &str) -> Vec<u8> {
        sign(text, &self.key)
    }

    /// The paths that were asked for since the last time.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

async fn serve(
    State((files, requests)): State<(Files, Arc<Mutex<Vec<String>>>)>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    requests.lock().unwrap().push(uri.path().to_owned());
    let Some(bytes) = files.lock().unwrap().get(uri.path()).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..8]));
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|held| held.as_bytes() == etag.as_bytes())
    {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    ([(header::ETAG, etag)], bytes).into_response()
}
