//! Which archives a machine follows (sources.list(5)): one-line `sources.list` files and deb822
//! `.sources` files, read from a root's `etc/apt` by apt's rules. Only `deb` entries count.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::stanza::{Reader, Stanza};

/// The largest file read here, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// One suite of one archive, with the components that the machine follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The archive's address, without a slash at its end.
    pub uri: String,
    /// The suite, such as `bookworm-security`; it ends in `/` for a flat archive without components.
    pub suite: String,
    /// The components, in the order in which they are written; empty for a flat archive.
    pub components: Vec<String>,
    /// Restricts the architectures; empty means the machine's own.
    pub architectures: Vec<String>,
    /// The keys that may sign it.
    pub signed_by: SignedBy,
    /// `Check-Valid-Until`: whether an expired `Valid-Until` is refused. True unless written otherwise.
    pub check_valid_until: bool,
    /// `Trusted: yes`: apt would skip the signature. Muster does not; this is here to say so.
    pub trusted: bool,
    /// Where it is written.
    pub file: PathBuf,
    /// The line of the entry in that file, from 1.
    pub line: u64,
}

/// `Signed-By`: which keys may sign a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SignedBy {
    /// Every key of `trusted.gpg` and `trusted.gpg.d`.
    #[default]
    Default,
    /// Only keys of these files.
    Files(Vec<PathBuf>),
    /// Only keys of the default files with one of these fingerprints (40 or 64 hex digits, upper
    /// case); `!` at the end means exactly this key and none of its subkeys.
    Fingerprints(Vec<String>),
    /// Only the armored keys written in the entry itself.
    Embedded(String),
}

/// An entry that could not be understood; the others still count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {reason}", file.display())]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What was not understood.
    pub reason: String,
}

/// What a root's `etc/apt` says.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// One per suite, in the order of the files.
    pub sources: Vec<Source>,
    /// What was left out.
    pub problems: Vec<Problem>,
}

/// Reads `etc/apt/sources.list` and `etc/apt/sources.list.d` below `root`.
///
/// As apt does, files count when their name ends in `.list` or `.sources` and holds only letters,
/// digits, `_`, `-` and `.`; they are read in the order of their names.
///
/// # Errors
/// When a file that is there cannot be read. A missing folder is an empty answer.
pub fn read_root(root: &Path) -> io::Result<Sources> {
    let apt = root.join("etc/apt");
    let mut found = Sources::default();
    let main = apt.join("sources.list");
    if main.is_file() {
        parse_list(&read(&main)?, &main, &mut found);
    }
    for path in parts(&apt.join("sources.list.d"), &["list", "sources"])? {
        let text = read(&path)?;
        if path.extension().is_some_and(|e| e == "list") {
            parse_list(&text, &path, &mut found);
        } else {
            parse_deb822(&text, &path, &mut found);
        }
    }
    Ok(found)
}

/// The files of a `.d` folder that apt would read: `run-parts` names with one of the extensions,
/// sorted by name. A missing folder is empty.
pub(crate) fn parts(folder: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        let wanted = extensions.contains(&extension);
        if wanted && !name.starts_with('.') && name.bytes().all(plain) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a configuration file with a bound on its size; what is no UTF-8 is replaced.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let text = format!("{} is larger than {MAX_FILE} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses the one-line form, as in `deb [signed-by=/k.gpg] https://archive.example/debian stable main`.
pub fn parse_list(text: &str, file: &Path, into: &mut Sources) {
    for (index, line) in text.lines().enumerate() {
        let number = index as u64 + 1;
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match one_line(line) {
            Ok(None) => {}
            Ok(Some(source)) => {
                into.sources.push(Source {
                    file: file.into(),
                    line: number,
                    ..source
                });
            }
            Err(reason) => {
                into.problems.push(Problem {
                    file: file.into(),
                    line: number,
                    reason,
                });
            }
        }
    }
}

fn one_line(line: &str) -> Result<Option<Source>, String> {
    let (kind, rest) = line
        .split_once([' ', '\t'])
        .ok_or("an entry without an address")?;
    match kind {
        "deb" => {}
        "deb-src" => return Ok(None),
        other => return Err(format!("entry type {other:?} is not known")),
    }
    let mut rest = rest.trim_start();
    let mut source = empty();
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options
            .split_once(']')
            .ok_or("options without a closing bracket")?;
        for option in options.split_ascii_whitespace() {
            let (name, value) = option.split_once('=').ok_or("an option without a value")?;
            let name = name.trim_end_matches(['+', '-']);
            let values: Vec<String> = value.split(',').map(str::to_owned).collect();
            match name.to_ascii_lowercase().as_str() {
                "arch" => source.architectures = values,
                "signed-by" => source.signed_by = signed_by(value.replace(',', " ").trim()),
                "check-valid-until" => source.check_valid_until = truth(value).unwrap_or(true),
                "trusted" => source.trusted = truth(value).unwrap_or(false),
                _ => {} // options about downloads and translations change nothing for us
            }
        }
        rest = after.trim_start();
    }
    let mut words = rest.split_ascii_whitespace();
    source.uri = address(words.next().ok_or("an entry without an address")?)?;
    source.suite = words.next().ok_or("an entry without a suite")?.to_owned();
    source.components = words.map(str::to_owned).collect();
    check(&source)?;
    Ok(Some(source))
}

/// Parses the deb822 form. One stanza gives a source for each pair of address and suite.
pub fn parse_deb822(text: &str, file: &Path, into: &mut Sources) {
    let mut reader = Reader::new(text.as_bytes()).with_comments();
    loop {
        let result = match reader.next_stanza() {
            Ok(None) => return,
            Ok(Some(stanza)) => {
                let line = stanza.line();
                from_stanza(&stanza)
                    .map_err(|reason| (line, reason))
                    .map(|all| (line, all))
            }
            Err(error) => Err((error.line(), error.to_string())),
        };
        match result {
            Ok((line, sources)) => into.sources.extend(sources.into_iter().map(|s| Source {
                file: file.into(),
                line,
                ..s
            })),
            Err((line, reason)) => into.problems.push(Problem {
                file: file.into(),
                line,
                reason,
            }),
        }
    }
}

fn from_stanza(stanza: &Stanza<'_>) -> Result<Vec<Source>, String> {
    if stanza.get("Enabled").and_then(truth) == Some(false) {
        return Ok(Vec::new());
    }
    let words = |name: &str| -> Vec<String> {
        let value = stanza.get(name).unwrap_or_default();
        value.split_ascii_whitespace().map(str::to_owned).collect()
    };
    let types = words("Types");
    if types.is_empty() {
        return Err("the stanza has no Types".to_owned());
    }
    if !types.iter().any(|t| t == "deb") {
        return Ok(Vec::new());
    }
    let (uris, suites) = (words("URIs"), words("Suites"));
    if uris.is_empty() || suites.is_empty() {
        return Err("the stanza has no URIs or no Suites".to_owned());
    }
    let mut sources = Vec::new();
    for uri in &uris {
        for suite in &suites {
            let source = Source {
                uri: address(uri)?,
                suite: suite.clone(),
                components: words("Components"),
                architectures: words("Architectures"),
                signed_by: stanza.get("Signed-By").map(signed_by).unwrap_or_default(),
                check_valid_until: stanza
                    .get("Check-Valid-Until")
                    .and_then(truth)
                    .unwrap_or(true),
                trusted: stanza.get("Trusted").and_then(truth).unwrap_or(false),
                ..empty()
            };
            check(&source)?;
            sources.push(source);
        }
    }
    Ok(sources)
}

fn empty() -> Source {
    Source {
        uri: String::new(),
        suite: String::new(),
        components: Vec::new(),
        architectures: Vec::new(),
        signed_by: SignedBy::Default,
        check_valid_until: true,
        trusted: false,
        file: PathBuf::new(),
        line: 0,
    }
}

/// Addresses and names become parts of a URL, so what could change its meaning is refused.
fn check(source: &Source) -> Result<(), String> {
    let flat = source.suite.ends_with('/');
    if flat != source.components.is_empty() {
        return Err(
            "a suite that ends in / has no components, every other one has some".to_owned(),
        );
    }
    let plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'+' | b'~');
    for name in source.components.iter().chain([&source.suite]) {
        let good = name.bytes().all(plain) && name.split('/').all(|part| part != "..");
        if !good {
            return Err(format!("{name:?} is no name of a suite or component"));
        }
    }
    Ok(())
}

fn address(text: &str) -> Result<String, String> {
    let known = [
        "http://",
        "https://",
        "file:",
        "copy:",
        "cdrom:",
        "mirror+",
        "mirror://",
        "tor+",
    ];
    if !known.iter().any(|scheme| text.starts_with(scheme)) {
        return Err(format!("address {text:?} has a scheme that is not known"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn signed_by(value: &str) -> SignedBy {
    if value.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        // Continuation lines start with a blank, and a lone dot stands for an empty line.
        let lines = value.lines().map(|line| match line.trim() {
            "." => "",
            other => other,
        });
        return SignedBy::Embedded(lines.collect::<Vec<_>>().join("\n") + "\n");
    }
    let words: Vec<&str> = value
        .split([' ', '\t', '\n', ','])
        .map(str::trim)
        .filter(|w| !w.is_empty())
        .collect();
    if !words.is_empty() && words.iter().all(|word| word.starts_with('/')) {
        return SignedBy::Files(words.iter().map(PathBuf::from).collect());
    }
    SignedBy::Fingerprints(words.iter().map(|word| word.to_ascii_uppercase()).collect())
}

/// apt's words for true and false.
fn truth(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "yes" | "true" | "with" | "on" | "enable" | "1" => Some(true),
        "no" | "false" | "without" | "off" | "disable" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(text: &str) -> Sources {
        let mut found = Sources::default();
        parse_list(text, Path::new("sources.list"), &mut found);
        found
    }

    fn deb822(text: &str) -> Sources {
        let mut found = Sources::default();
        parse_deb822(text, Path::new("a.sources"), &mut found);
        found
    }

    #[test]
    fn one_line_entries_are_read_with_their_options() {
        let found = list(
            "# a comment\ndeb-src http://archive.example/debian stable main\n\
             deb http://archive.example/debian/ stable main contrib # why\n\
             deb [ arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.asc check-valid-until=no ] https://archive.example/d stable-security main\n\
             deb https://archive.example/flat ./\n",
        );
        assert_eq!(found.problems, []);
        let [first, second, flat] = &found.sources[..] else {
            panic!("{:?}", found.sources)
        };
        assert_eq!(
            (first.uri.as_str(), first.line),
            ("http://archive.example/debian", 3)
        );
        assert_eq!(first.components, ["main", "contrib"]);
        assert_eq!(second.architectures, ["amd64", "arm64"]);
        assert_eq!(
            second.signed_by,
            SignedBy::Files(vec!["/k/a.gpg".into(), "/k/b.asc".into()])
        );
        assert!(!second.check_valid_until && first.check_valid_until);
        assert_eq!((flat.suite.as_str(), flat.components.len()), ("./", 0));
    }

    #[test]
    fn a_stanza_gives_one_source_for_each_suite() {
        let found = deb822(
            "Types: deb deb-src\n# a comment\nURIs: http://archive.example/debian\n\
             Suites: stable stable-updates\nComponents: main\nSigned-By: /k/a.gpg\n\n\
             Types: deb\nEnabled: no\nURIs: http://archive.example/x\nSuites: y\nComponents: z\n\n\
             Types: deb\nURIs: http://archive.example/own\nSuites: own\nComponents: main\nSigned-By:\n \
             -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----\n",
        );
        assert_eq!(found.problems, []);
        let suites: Vec<_> = found.sources.iter().map(|s| s.suite.as_str()).collect();
        assert_eq!(suites, ["stable", "stable-updates", "own"]);
        assert_eq!(
            found.sources[2].signed_by,
            SignedBy::Embedded(
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc=\n-----END PGP PUBLIC KEY BLOCK-----\n".into()
            )
        );
    }

    #[test]
    fn an_entry_that_is_not_understood_is_named_and_the_others_count() {
        let found = list(
            "deb\nrpm http://a b c\ndeb gopher://a b c\ndeb http://a ../x main\ndeb http://a b\ndeb http://a b c\n",
        );
        assert_eq!(found.sources.len(), 1);
        assert_eq!(
            found.problems.iter().map(|p| p.line).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        let found = deb822(
            "Types: deb\nURIs: http://a\n\nTypes: deb\nURIs: http://a\nSuites: b\nComponents: c\n",
        );
        assert_eq!((found.sources.len(), found.problems.len()), (1, 1));
    }

    #[test]
    fn a_root_is_read_as_apt_reads_it() {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt/sources.list.d");
        fs::create_dir_all(&apt).unwrap();
        let write = |name: &str, suite: &str| {
            fs::write(
                apt.join(name),
                format!("deb http://archive.example/d {suite} main\n"),
            )
            .unwrap();
        };
        write("b.list", "b");
        write("a.list", "a");
        write("c.list.disabled", "c");
        write("d e.list", "d");
        write(".f.list", "f");
        fs::write(
            root.path().join("etc/apt/sources.list"),
            "deb http://archive.example/d m main\n",
        )
        .unwrap();
        let found = read_root(root.path()).unwrap();
        let suites: Vec<_> = found.sources.iter().map(|s| s.suite.as_str()).collect();
        assert_eq!(suites, ["m", "a", "b"]);
        let nothing = tempfile::tempdir().unwrap();
        assert!(read_root(nothing.path()).unwrap().sources.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "(deb|Types:|\\[|\\]|=|/|\n| |[a-zA-Z:#.é]){0,60}") {
            list(&text);
            deb822(&text);
        }
    }
}
