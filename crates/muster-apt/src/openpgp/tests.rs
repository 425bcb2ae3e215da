//! Keys and texts are in `tests/data`, made by GnuPG (`make.sh` there); time is passed in.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn keyring(files: &[&str]) -> Keyring {
    let mut keyring = Keyring::new();
    for file in files {
        keyring.add(&data(file), file).unwrap();
    }
    keyring
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn signing_day() -> Timestamp {
    at("2025-01-16T00:00:00Z")
}

fn check_file(file: &str, keys: &[&str], now: Timestamp) -> Result<Verified, Refused> {
    verify(&data(file), &keyring(keys), now)
}

#[test]
fn a_good_signature_gives_the_signed_text_and_the_signer() {
    let verified = check_file("good.InRelease", &["good.asc"], signing_day()).unwrap();
    assert_eq!(verified.signers.len(), 1);
    assert_eq!(
        verified.signers[0].primary,
        keyring(&["good.asc"]).fingerprints()[0]
    );
    assert_eq!(verified.signers[0].signed_at, at("2025-01-15T00:00:00Z"));
    let expected = String::from_utf8(data("release.txt"))
        .unwrap()
        .replace("end  \n", "end\n");
    assert_eq!(
        verified.text, expected,
        "dashes are given back, blanks at the ends of lines are not"
    );
}

#[test]
fn one_trusted_key_of_several_suffices() {
    let verified = check_file("two.InRelease", &["good.asc"], signing_day()).unwrap();
    assert_eq!(verified.signers.len(), 1);
}

#[test]
fn a_bound_subkey_may_sign_and_its_primary_key_is_named() {
    let verified = check_file("subkey.InRelease", &["several.gpg"], signing_day()).unwrap();
    assert_ne!(verified.signers[0].fingerprint, verified.signers[0].primary);
}

#[test]
fn an_unknown_key_is_named() {
    let refused = check_file("other.InRelease", &["good.asc"], signing_day()).unwrap_err();
    assert!(
        matches!(&refused, Refused::UnknownKey { keys } if keys[0].len() == 40),
        "{refused}"
    );
    let refused = check_file("good.InRelease", &[], signing_day()).unwrap_err();
    assert_eq!(refused.reason(), "UNKNOWN_KEY");
}

#[test]
fn a_changed_text_is_a_bad_signature() {
    let text = String::from_utf8(data("good.InRelease")).unwrap();
    for (from, to) in [
        ("Codename: one", "Codename: two"),
        ("- -Dash", "- -dash"),
        ("0 main", "1 main"),
    ] {
        assert!(text.contains(from));
        let tampered = text.replace(from, to);
        let refused =
            verify(tampered.as_bytes(), &keyring(&["good.asc"]), signing_day()).unwrap_err();
        assert!(
            matches!(refused, Refused::BadSignature { .. }),
            "{from}: {refused}"
        );
    }
}

#[test]
fn blanks_at_the_ends_of_lines_and_line_ends_do_not_matter() {
    let text = String::from_utf8(data("good.InRelease")).unwrap();
    for same in [
        text.replace('\n', "\r\n"),
        text.replace("Codename: one\n", "Codename: one \t\n"),
    ] {
        let verified = verify(same.as_bytes(), &keyring(&["good.asc"]), signing_day()).unwrap();
        assert!(verified.text.contains("\nCodename: one\n"));
    }
}

#[test]
fn an_unsigned_text_is_not_signed() {
    for text in [&data("release.txt")[..], b"", b"\xff\xfe"] {
        assert_eq!(
            verify(text, &keyring(&["good.asc"]), signing_day()),
            Err(Refused::NotSigned)
        );
    }
    let text = String::from_utf8(data("good.InRelease")).unwrap();
    let (body, _) = text.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    assert_eq!(
        verify(body.as_bytes(), &keyring(&["good.asc"]), signing_day()),
        Err(Refused::NotSigned)
    );
}

#[test]
fn text_outside_of_the_signed_block_is_refused() {
    let text = String::from_utf8(data("good.InRelease")).unwrap();
    for outside in [
        format!("Origin: Evil\n{text}"),
        format!("{text}Origin: Evil\n"),
        format!("{text}{text}"),
    ] {
        let refused = verify(outside.as_bytes(), &keyring(&["good.asc"]), signing_day());
        assert_eq!(refused, Err(Refused::TextOutside));
    }
    assert!(
        verify(
            format!("{text}\n \n").as_bytes(),
            &keyring(&["good.asc"]),
            signing_day()
        )
        .is_ok()
    );
}

#[test]
fn what_two_readers_could_read_differently_is_malformed() {
    let text = String::from_utf8(data("good.InRelease")).unwrap();
    for (from, to) in [
        ("Hash: SHA256\n", "Hash: SHA256\nComment: x\n"),
        ("- -Dash", "-Dash"),
        ("-----END PGP SIGNATURE-----", ""),
        ("\n=", "\n-----BEGIN PGP SIGNATURE-----"),
        ("Suite: stable", "Suite: \rstable"),
    ] {
        let changed = text.replacen(from, to, 1);
        let refused = verify(changed.as_bytes(), &keyring(&["good.asc"]), signing_day());
        if text.contains(from) {
            assert!(
                matches!(refused, Err(Refused::Malformed(_))),
                "{from:?}: {refused:?}"
            );
        }
    }
}

#[test]
fn a_weak_digest_is_no_signature() {
    let refused = check_file("sha1.InRelease", &["good.asc"], signing_day()).unwrap_err();
    assert!(
        matches!(&refused, Refused::WeakDigest { digest, .. } if digest == "SHA1"),
        "{refused}"
    );
}

#[test]
fn a_small_key_is_too_weak() {
    let refused = check_file("small.InRelease", &["small.gpg"], signing_day()).unwrap_err();
    assert!(matches!(refused, Refused::WeakKey { .. }), "{refused}");
}

#[test]
fn a_key_that_has_expired_is_refused_although_it_signed_before() {
    assert!(check_file("expired.InRelease", &["expired.gpg"], signing_day()).is_ok());
    let refused = check_file(
        "expired.InRelease",
        &["expired.gpg"],
        at("2025-02-02T00:00:00Z"),
    );
    let expired_at = at("2025-02-01T00:00:00Z");
    assert!(
        matches!(refused, Err(Refused::ExpiredKey { expired_at: e, .. }) if e == expired_at),
        "{refused:?}"
    );
}

#[test]
fn a_revoked_key_is_refused() {
    let refused = check_file("revoked.InRelease", &["revoked.gpg"], signing_day()).unwrap_err();
    assert!(matches!(refused, Refused::RevokedKey { .. }), "{refused}");
}

#[test]
fn signatures_end_and_do_not_come_from_the_future() {
    assert!(check_file("shortlived.InRelease", &["good.asc"], signing_day()).is_ok());
    let refused = check_file(
        "shortlived.InRelease",
        &["good.asc"],
        at("2025-01-21T00:00:00Z"),
    );
    assert!(
        matches!(refused, Err(Refused::ExpiredSignature { .. })),
        "{refused:?}"
    );
    let refused = check_file("good.InRelease", &["good.asc"], at("2025-01-14T00:00:00Z"));
    assert!(
        matches!(refused, Err(Refused::FutureSignature { .. })),
        "{refused:?}"
    );
}

#[test]
fn signed_by_narrows_the_keys() {
    let root = tempfile::tempdir().unwrap();
    let keys = root.path().join("etc/apt/trusted.gpg.d");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("a.asc"), data("good.asc")).unwrap();
    fs::write(keys.join("b.gpg"), data("several.gpg")).unwrap();
    fs::write(keys.join("c.gpg"), "no key").unwrap();
    let ask = |signed_by: &crate::sources::SignedBy, file: &str| {
        let keyring = Keyring::for_source(root.path(), signed_by).unwrap();
        verify(&data(file), &keyring, signing_day()).map_err(|refused| refused.reason())
    };
    use crate::sources::SignedBy;
    assert!(ask(&SignedBy::Default, "good.InRelease").is_ok());
    let good = keyring(&["good.asc"]).fingerprints();
    assert!(ask(&SignedBy::Fingerprints(good.clone()), "good.InRelease").is_ok());
    assert_eq!(
        ask(&SignedBy::Fingerprints(good), "subkey.InRelease"),
        Err("UNKNOWN_KEY")
    );
    let subkey = check_file("subkey.InRelease", &["several.gpg"], signing_day()).unwrap();
    let primary = subkey.signers[0].primary.clone();
    assert!(
        ask(
            &SignedBy::Fingerprints(vec![primary.clone()]),
            "subkey.InRelease"
        )
        .is_ok()
    );
    let exact = SignedBy::Fingerprints(vec![primary + "!"]);
    assert_eq!(ask(&exact, "subkey.InRelease"), Err("UNKNOWN_KEY"));
    let files = SignedBy::Files(vec!["/etc/apt/trusted.gpg.d/b.gpg".into()]);
    assert!(ask(&files, "subkey.InRelease").is_ok());
    let block = SignedBy::Embedded(String::from_utf8(data("good.asc")).unwrap());
    assert!(ask(&block, "good.InRelease").is_ok());
    assert_eq!(ask(&block, "subkey.InRelease"), Err("UNKNOWN_KEY"));
    let missing = SignedBy::Files(vec!["/etc/apt/keyrings/none.gpg".into()]);
    assert!(Keyring::for_source(root.path(), &missing).is_err());
}

/// What gpgv says, `None` without it.
fn gpgv(keyring: &Path, file: &Path) -> Option<bool> {
    let output = Command::new("gpgv")
        .arg("--keyring")
        .arg(keyring)
        .arg(file)
        .output()
        .ok()?;
    Some(output.status.success())
}

#[test]
fn we_agree_with_gpgv_about_this_machines_archives() {
    let root = Path::new("/");
    let Ok(sources) = crate::sources::read_root(root) else {
        return;
    };
    let Ok(lists) = fs::read_dir("/var/lib/apt/lists") else {
        return;
    };
    let lists: Vec<_> = lists
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    for source in &sources.sources {
        let address = source
            .uri
            .split_once("://")
            .map_or("", |(_, rest)| rest)
            .replace('/', "_");
        let name = format!(
            "{address}_dists_{}_InRelease",
            source.suite.replace('/', "_")
        );
        let Some(path) = lists.iter().find(|path| path.ends_with(&name)) else {
            continue;
        };
        let keyring = Keyring::for_source(root, &source.signed_by).unwrap();
        let file = fs::read(path).unwrap();
        let verified = verify(&file, &keyring, Timestamp::now());
        if let crate::sources::SignedBy::Files(files) = &source.signed_by
            && let Some(theirs) = gpgv(&files[0], path)
        {
            assert_eq!(verified.is_ok(), theirs, "{name}: {verified:?}");
        }
        let text = String::from_utf8(file)
            .unwrap()
            .replacen("Suite: ", "Suite: x", 1);
        assert!(
            verify(text.as_bytes(), &keyring, Timestamp::now()).is_err(),
            "{name} tampered"
        );
        if let Ok(verified) = verified {
            crate::release::Release::parse(&verified.text).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_verification_panic(at in 0usize..600, byte in any::<u8>(), cut in 0usize..700) {
        let mut file = data("good.InRelease");
        let at = at.min(file.len() - 1);
        file[at] = byte;
        file.truncate(cut.max(50));
        let _ = verify(&file, &keyring(&["good.asc"]), signing_day());
    }

    #[test]
    fn no_bytes_make_a_keyring_panic(bytes in any::<Vec<u8>>(), at in 0usize..900, byte in any::<u8>()) {
        let _ = Keyring::new().add(&bytes, "random");
        let mut keys = data("several.gpg");
        let at = at.min(keys.len() - 1);
        keys[at] = byte;
        let mut keyring = Keyring::new();
        let _ = keyring.add(&keys, "damaged");
        let _ = verify(&data("subkey.InRelease"), &keyring, signing_day());
    }
}
