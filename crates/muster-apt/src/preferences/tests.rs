//! apt_preferences(5), rule by rule.

use proptest::prelude::*;

use super::*;

fn archive(suite: &str, codename: &str) -> ArchiveInfo {
    ArchiveInfo {
        suite: Some(suite.to_owned()),
        codename: Some(codename.to_owned()),
        origin: Some("Example".to_owned()),
        label: Some("Example".to_owned()),
        version: Some("12.5".to_owned()),
        component: Some("main".to_owned()),
        architecture: Some("amd64".to_owned()),
        site: "archive.example".to_owned(),
        ..ArchiveInfo::default()
    }
}

fn preferences(text: &str) -> Preferences {
    let mut preferences = Preferences::default();
    preferences.parse(text, Path::new("preferences"));
    assert_eq!(preferences.problems, [], "{text}");
    preferences
}

const SUBJECT: Subject<'_> = Subject {
    package: "libssl3",
    architecture: "amd64",
    source: "openssl",
    native: "amd64",
};

/// Installed 2; 1 in old, 2 and 3 in stable, 4 in testing, 5 in experimental.
fn choose(text: &str) -> (Option<String>, Candidate) {
    let [old, stable, testing] = [
        archive("oldstable", "one"),
        archive("stable", "two"),
        archive("testing", "three"),
    ];
    let experimental = ArchiveInfo {
        not_automatic: true,
        ..archive("experimental", "exp")
    };
    let versions: Vec<Version> = ["1", "2", "3", "4", "5"].map(|v| v.parse().unwrap()).into();
    let archives = [&old, &stable, &stable, &testing, &experimental].map(|one| [one]);
    let available: Vec<_> = versions
        .iter()
        .zip(&archives)
        .map(|(version, archives)| Available { version, archives })
        .collect();
    let candidate = preferences(text).candidate(SUBJECT, Some(&versions[1]), &available);
    (
        candidate.chosen().map(|judged| judged.version.to_string()),
        candidate,
    )
}

fn chosen(text: &str) -> String {
    choose(text).0.unwrap_or_default()
}

#[test]
fn without_pins_the_newest_of_the_automatic_archives_wins() {
    let (version, candidate) = choose("");
    assert_eq!(version.as_deref(), Some("4"));
    assert_eq!(candidate.chosen().unwrap().why, Why::Default);
    assert_eq!(candidate.judged[0].priority, 1, "experimental");
}

#[test]
fn a_pin_on_a_release_lowers_raises_and_forbids() {
    assert_eq!(
        chosen("Package: *\nPin: release a=testing\nPin-Priority: 90\n"),
        "3"
    );
    assert_eq!(
        chosen("Package: *\nPin: release n=exp\nPin-Priority: 600\n"),
        "5"
    );
    assert_eq!(
        chosen("Package: *\nPin: release a=testing\nPin-Priority: -1\n"),
        "3"
    );
    assert_eq!(
        chosen("Package: *\nPin: release a=testing\nPin-Priority: never\n"),
        "3"
    );
    assert_eq!(
        chosen("Package: *\nPin: release testing\nPin-Priority: 90\n"),
        "3"
    );
    assert_eq!(
        chosen("Package: *\nPin: release a=stable, o=Nobody\nPin-Priority: 900\n"),
        "4"
    );
    assert_eq!(
        chosen("Package: *\nPin: release o=Example, n=two\nPin-Priority: 900\n"),
        "3"
    );
}

#[test]
fn a_pin_on_the_package_is_named_with_its_place() {
    let (version, candidate) =
        choose("# why\nPackage: libssl*\nPin: version 3*\nPin-Priority: 501\n");
    assert_eq!(version.as_deref(), Some("3"));
    let place = Place {
        file: "preferences".into(),
        line: 2,
    };
    assert_eq!(candidate.chosen().unwrap().why, Why::Pinned(place));
}

#[test]
fn names_may_be_patterns_sources_and_architectures() {
    for (package, meets) in [
        ("libssl3", true),
        ("bash libssl3", true),
        ("/^libssl/", true),
        ("src:openssl", true),
        ("src:open*", true),
        ("libssl3:amd64", true),
        ("libssl3:any", true),
        ("libssl3:arm64", false),
        ("src:libssl3", false),
        ("libssl", false),
    ] {
        let text = format!("Package: {package}\nPin: version 3\nPin-Priority: 900\n");
        assert_eq!(chosen(&text), if meets { "3" } else { "4" }, "{package}");
    }
}

#[test]
fn a_downgrade_needs_a_priority_of_1000() {
    let pin = |priority| {
        format!("Package: libssl3\nPin: release a=oldstable\nPin-Priority: {priority}\n")
    };
    assert_eq!(chosen(&pin(999)), "4");
    let (_, candidate) = choose(&pin(999));
    let old = candidate.judged.last().unwrap();
    assert_eq!(
        (old.version.as_str(), old.excluded),
        ("1", Some(Excluded::Downgrade))
    );
    assert_eq!(chosen(&pin(1000)), "1");
}

#[test]
fn the_first_pin_wins_and_the_specific_one_wins_over_the_general_one() {
    let text = "Package: *\nPin: release a=testing\nPin-Priority: 900\n\n\
                Package: libssl3\nPin: release a=testing\nPin-Priority: 50\n\n\
                Package: libssl3\nPin: release a=testing\nPin-Priority: 990\n";
    assert_eq!(chosen(text), "3");
    let text = "Package: *\nPin: release a=testing\nPin-Priority: 50\n\nPackage: *\nPin: release a=testing\nPin-Priority: 900\n";
    assert_eq!(chosen(text), "3");
}

#[test]
fn an_origin_pin_asks_for_the_host() {
    let text = "Package: *\nPin: origin \"archive.example\"\nPin-Priority: 50\n";
    let (version, candidate) = choose(text);
    assert_eq!(version.as_deref(), Some("2"), "what is installed has 100");
    assert_eq!(candidate.chosen().unwrap().why, Why::Installed);
    assert_eq!(
        chosen("Package: *\nPin: origin other.example\nPin-Priority: 50\n"),
        "4"
    );
}

#[test]
fn everything_forbidden_leaves_nothing() {
    assert_eq!(
        choose("Package: *\nPin: release *\nPin-Priority: -1\n").0,
        None
    );
}

#[test]
fn but_automatic_upgrades_are_100_and_lose_to_500() {
    let backports = ArchiveInfo {
        not_automatic: true,
        but_automatic_upgrades: true,
        ..archive("stable-backports", "two-backports")
    };
    let versions: Vec<Version> = ["2", "3"].map(|v| v.parse().unwrap()).into();
    let available = [Available {
        version: &versions[1],
        archives: &[&backports],
    }];
    let none = Preferences::default();
    let candidate = none.candidate(SUBJECT, Some(&versions[0]), &available);
    assert_eq!(
        candidate.chosen().unwrap().version.as_str(),
        "3",
        "an upgrade within it"
    );
    let stable = archive("stable", "two");
    let older = Available {
        version: &versions[0],
        archives: &[&stable],
    };
    let candidate = none.candidate(SUBJECT, Some(&versions[0]), &[older, available[0]]);
    assert_eq!(candidate.chosen().unwrap().version.as_str(), "2");
}

#[test]
fn stanzas_that_apt_leaves_out_are_named() {
    let mut preferences = Preferences::default();
    let text = "Package: *\nPin: version 1\nPin-Priority: 1\n\nPackage: a\nPin: release a=x\nPin-Priority: 0\n\n\
                Pin: release a=x\nPin-Priority: 1\n\nPackage: a\nPin: moon x\nPin-Priority: 1\n\n\
                Package: /(/\nPin: release a=x\nPin-Priority: 1\n";
    preferences.parse(text, Path::new("p"));
    assert_eq!((preferences.len(), preferences.problems.len()), (0, 5));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(package in "[ -~]{0,20}", pin in "[ -~]{0,30}", priority in "[ -~]{0,6}") {
        let mut preferences = Preferences::default();
        preferences.parse(&format!("Package: {package}\nPin: {pin}\nPin-Priority: {priority}\n"), Path::new("p"));
        preferences.candidate(SUBJECT, None, &[]);
    }
}
