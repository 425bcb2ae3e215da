use super::*;
use x509_parser::prelude::{FromDer, X509Certificate};

fn authority() -> (tempfile::TempDir, CertificateAuthority) {
    let folder = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::create(folder.path(), "P01").unwrap();
    (folder, ca)
}

fn client(name: &str) -> Identity {
    Identity::new(Role::Client, "P01", name).unwrap()
}

#[test]
fn a_caller_cannot_choose_its_identity() {
    let (_folder, ca) = authority();
    // The request asks to be the site server, an authority, and a host, for ever.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wish = CertificateParams::new(vec!["site.example".to_owned()]).unwrap();
    wish.subject_alt_names.push(SanType::URI(
        "muster://P01/site-server/x".try_into().unwrap(),
    ));
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let request = wish.serialize_request(&key).unwrap();

    let signed = ca
        .sign_csr(request.der(), &client("c-1"), CLIENT_VALIDITY)
        .unwrap();
    assert_eq!(
        Identity::from_certificate(&signed.der).unwrap(),
        client("c-1")
    );
    let (_, certificate) = X509Certificate::from_der(&signed.der).unwrap();
    assert!(!certificate.is_ca());
    assert_eq!(
        certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(
        !certificate
            .key_usage()
            .unwrap()
            .unwrap()
            .value
            .key_cert_sign()
    );
    let life = certificate.validity().not_after.timestamp()
        - certificate.validity().not_before.timestamp();
    assert_eq!(
        life,
        i64::try_from((CLIENT_VALIDITY + BACKDATE).as_secs()).unwrap()
    );
    assert_eq!(
        certificate.public_key().subject_public_key.data.as_ref(),
        key.public_key_raw()
    );
}

#[test]
fn a_request_without_proof_of_the_key_is_refused() {
    let (_folder, ca) = authority();
    let mut der = signing_request().unwrap().der;
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(matches!(
        ca.sign_csr(&der, &client("c"), DAY),
        Err(Error::Request(_))
    ));
    assert!(matches!(
        ca.sign_csr(b"", &client("c"), DAY),
        Err(Error::Request(_))
    ));
    assert!(matches!(
        ca.sign_csr(&vec![0x30; 1 << 20], &client("c"), DAY),
        Err(Error::Request(_))
    ));
}

#[test]
fn a_request_with_another_kind_of_key_is_refused() {
    let (_folder, ca) = authority();
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(kind).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        assert!(matches!(
            ca.sign_csr(request.der(), &client("c"), DAY),
            Err(Error::Request(_))
        ));
    }
}

#[test]
fn an_authority_speaks_for_its_own_site_only() {
    let (_folder, ca) = authority();
    let foreign = Identity::new(Role::Client, "P02", "c").unwrap();
    let request = signing_request().unwrap();
    assert!(matches!(
        ca.sign_csr(&request.der, &foreign, DAY),
        Err(Error::WrongSite { .. })
    ));
}

#[test]
fn an_authority_is_the_same_after_loading_and_is_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, ca) = authority();
    assert!(matches!(
        CertificateAuthority::create(folder.path(), "P01"),
        Err(Error::Exists { .. })
    ));
    let loaded = CertificateAuthority::load(folder.path()).unwrap();
    assert_eq!((loaded.site(), loaded.pem()), (ca.site(), ca.pem()));
    let mode = fs::metadata(folder.path().join("ca.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let issued = loaded
        .issue(Role::ManagementPoint, "mp1", &["localhost", "127.0.0.1"])
        .unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.certificate.der).unwrap();
    let names = &certificate
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert_eq!(names.len(), 3);
}
