//! What neighbouring sites put around their messages: a signature, names and a version.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use bytes::Bytes;
use muster_domain::SiteCode;
use muster_link::{BatchHead, Chain, Mark};
use muster_proto::link as pb;
use muster_runtime::faults::{self, Control};
use prost::Message;

use super::policy::PolicyKey;
use super::report::Refused;

pub(crate) use pb::link_message::Kind;

/// The version of the protocol. One version apart is understood, so what is new in one must be
/// something that the one before can do without: it does not read it, keep it or tell others of it
/// until it is brought to this version, and then everything is said again.
const PROTOCOL: u32 = 1;
/// Put before a message when it is signed, so that the signature fits nothing else.
const SIGNING_CONTEXT: &[u8] = b"muster-link-v1\0";
/// Largest body of a batch, and what it may be when decompressed, in bytes.
pub(crate) const MAX_BODY: usize = 8 * 1024 * 1024;
const MAX_OPENED: u64 = 32 * 1024 * 1024;
/// Fast, and what is alike stands side by side already.
const COMPRESSION: i32 = 3;
/// A column of this length is compressed by itself: each has a distribution of its own. In bytes.
const ALONE: usize = 2 * 1024;

/// The version of the protocol that we speak.
pub(crate) fn spoken() -> u32 {
    PROTOCOL - u32::from(faults::without(Control::OlderLink))
}

/// A site that we have a link with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    pub(crate) code: SiteCode,
    pub(crate) is_parent: bool,
}

/// Signs a message to a neighbour.
pub(crate) fn seal(key: &PolicyKey, from: SiteCode, to: SiteCode, kind: Kind) -> Bytes {
    let message = pb::LinkMessage {
        from_site_code: from.to_string(),
        to_site_code: to.to_string(),
        protocol: spoken(),
        kind: Some(kind),
    };
    let message = message.encode_to_vec();
    let signature = key.sign(SIGNING_CONTEXT, &message);
    let signed = pb::SignedMessage {
        message: message.into(),
        signature,
    };
    signed.encode_to_vec().into()
}

/// What a neighbour said, and in which version of the protocol.
pub(crate) fn open(
    bytes: Bytes,
    public_key: &[u8],
    from: SiteCode,
    to: SiteCode,
) -> Result<(u32, Kind), Refused> {
    let signed = pb::SignedMessage::decode(bytes)
        .map_err(|error| Refused::new("UNDECODABLE_LINK_MESSAGE", error))?;
    let content = [SIGNING_CONTEXT, &signed.message].concat();
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(&content, &signed.signature)
        .map_err(|_| Refused::new("BAD_SIGNATURE", format!("not signed by {from}")))?;
    let message = pb::LinkMessage::decode(signed.message)
        .map_err(|error| Refused::new("UNDECODABLE_LINK_MESSAGE", error))?;
    if message.from_site_code != from.as_str() || message.to_site_code != to.as_str() {
        let text = format!(
            "from {} to {}",
            message.from_site_code, message.to_site_code
        );
        return Err(Refused::new("FOREIGN_LINK_MESSAGE", text));
    }
    // What a later version says beside what we know is for later versions.
    let unknown = || {
        Refused::new(
            "UNKNOWN_LINK_MESSAGE",
            "there is nothing in it that we know",
        )
    };
    Ok((message.protocol, message.kind.ok_or_else(unknown)?))
}

/// Why a neighbour's version of the protocol is refused, in its words: it is the one to change.
pub(crate) fn protocol_refusal(theirs: u32) -> Option<Refused> {
    apart(spoken(), theirs)
}

/// Whether a message that we understand shows that a refusal is over. What was wrong with a batch is
/// over when one gets through.
pub(crate) fn ends_refusal(refusal: &str, kind: &Kind, own: SiteCode) -> bool {
    match (refusal.split(':').next().unwrap_or_default(), kind) {
        // Whoever refuses our version answers nothing else.
        ("PROTOCOL_TOO_OLD" | "PROTOCOL_TOO_NEW", kind) => !matches!(kind, Kind::Refusal(_)),
        // Those above the peer are others now; a child that sees a loop says so to each greeting.
        ("LOOP", Kind::Greeting(it)) => !it.lineage.iter().any(|code| code == own.as_str()),
        _ => false,
    }
}

fn apart(ours: u32, theirs: u32) -> Option<Refused> {
    let text = || format!("the link speaks version {ours} here, and {theirs} there");
    if theirs.saturating_add(1) < ours {
        return Some(Refused::new("PROTOCOL_TOO_OLD", text()));
    }
    (theirs > ours + 1).then(|| Refused::new("PROTOCOL_TOO_NEW", text()))
}

/// The body of a batch, as it is sent.
pub(crate) fn pack(mut body: pb::BatchBody) -> std::io::Result<Vec<u8>> {
    let mut alone = Vec::new();
    if let Some(rows) = &mut body.rows {
        let columns: [fn(&mut pb::ClientRows) -> &mut Bytes; 5] = [
            |rows| &mut rows.clients,
            |rows| &mut rows.serials,
            |rows| &mut rows.counts,
            |rows| &mut rows.updates,
            |rows| &mut rows.states,
        ];
        for column in columns {
            if column(rows).len() >= ALONE {
                let mut part = pb::ClientRows::default();
                *column(&mut part) = std::mem::take(column(rows));
                alone.push(part);
            }
        }
    }
    // Messages that follow each other are read as one with the fields of all.
    let mut packed = zstd::bulk::compress(&body.encode_to_vec(), COMPRESSION)?;
    for rows in alone {
        let part = pb::BatchBody {
            rows: Some(rows),
            ..pb::BatchBody::default()
        };
        packed.extend(zstd::bulk::compress(&part.encode_to_vec(), COMPRESSION)?);
    }
    Ok(packed)
}

/// The opposite of [`pack`], with bounds.
pub(crate) fn unpack(bytes: &[u8]) -> Result<pb::BatchBody, Refused> {
    use std::io::Read;
    let refused = |error: &dyn std::fmt::Display| Refused::new("UNDECODABLE_LINK_BATCH", error);
    if bytes.len() > MAX_BODY {
        return Err(refused(&"too large"));
    }
    let mut opened = Vec::new();
    zstd::stream::read::Decoder::with_buffer(bytes)
        .and_then(|decoder| decoder.take(MAX_OPENED + 1).read_to_end(&mut opened))
        .map_err(|error| refused(&error))?;
    if opened.len() as u64 > MAX_OPENED {
        return Err(refused(&"too large when decompressed"));
    }
    pb::BatchBody::decode(Bytes::from(opened)).map_err(|error| refused(&error))
}

/// A mark for the wire.
pub(crate) fn to_mark(mark: Mark) -> pb::Mark {
    pb::Mark {
        epoch: mark.epoch,
        seq: mark.seq,
        chain: Bytes::copy_from_slice(&mark.chain.0),
    }
}

/// A mark from the wire.
pub(crate) fn mark(mark: Option<&pb::Mark>) -> Result<Mark, Refused> {
    let mark = mark.ok_or_else(|| Refused::new("UNDECODABLE_LINK_MESSAGE", "a mark is missing"))?;
    Ok(Mark {
        epoch: mark.epoch,
        seq: mark.seq,
        chain: chain(&mark.chain)?,
    })
}

/// Where a batch has its place.
pub(crate) fn head(batch: &pb::Batch) -> Result<BatchHead, Refused> {
    Ok(BatchHead {
        epoch: batch.epoch,
        seq: batch.seq,
        after: chain(&batch.after)?,
    })
}

fn chain(bytes: &[u8]) -> Result<Chain, Refused> {
    let chain = bytes.try_into().map(Chain);
    chain.map_err(|_| Refused::new("UNDECODABLE_LINK_MESSAGE", "a chain has 16 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PolicyKey {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.key");
        std::fs::write(&path, PolicyKey::generate().unwrap()).unwrap();
        PolicyKey::load(&path).unwrap()
    }

    #[test]
    fn a_message_opens_with_the_senders_key_in_its_own_direction_and_no_other_way() {
        let (ours, theirs) = (key(), key());
        let code = |code: &str| code.parse::<SiteCode>().unwrap();
        let (child, parent) = (code("P01"), code("CEN"));
        let ask = || Kind::AskToGreet(pb::AskToGreet {});
        let sealed = seal(&theirs, child, parent, ask());
        let open = |bytes: &Bytes, key: &PolicyKey, from, to| {
            super::open(bytes.clone(), &key.public(), from, to).map_err(|it| it.reason)
        };
        assert_eq!(open(&sealed, &theirs, child, parent), Ok((1, ask())));
        assert_eq!(open(&sealed, &ours, child, parent), Err("BAD_SIGNATURE"));
        let turned = open(&sealed, &theirs, parent, child);
        assert_eq!(turned, Err("FOREIGN_LINK_MESSAGE"));
        for at in 0..sealed.len() {
            let mut altered = sealed.to_vec();
            altered[at] ^= 1;
            assert!(open(&altered.into(), &theirs, child, parent).is_err());
        }
    }

    #[test]
    fn one_version_apart_is_understood() {
        let reason = |ours, theirs| apart(ours, theirs).map(|it| it.reason);
        for theirs in 4..=6 {
            assert_eq!(reason(5, theirs), None, "{theirs}");
        }
        for theirs in [0, 3] {
            assert_eq!(reason(5, theirs), Some("PROTOCOL_TOO_OLD"), "{theirs}");
        }
        for theirs in [7, u32::MAX] {
            assert_eq!(reason(5, theirs), Some("PROTOCOL_TOO_NEW"), "{theirs}");
        }
        let text = protocol_refusal(PROTOCOL + 2).unwrap().detail;
        assert_eq!(text, "the link speaks version 1 here, and 3 there");
    }

    #[test]
    fn a_refusal_is_over_when_something_shows_that() {
        let ends = |refusal, kind| ends_refusal(refusal, &kind, "P01".parse().unwrap());
        let greeting = |lineage: &[&str]| {
            Kind::Greeting(pb::Greeting {
                lineage: lineage.iter().map(|code| (*code).to_owned()).collect(),
                ..Default::default()
            })
        };
        let ask = || Kind::AskToGreet(pb::AskToGreet {});
        assert!(ends("PROTOCOL_TOO_OLD: the link speaks 1", ask()));
        let again = Kind::Refusal(pb::Refusal::default());
        assert!(!ends("PROTOCOL_TOO_OLD: the link speaks 1", again));
        assert!(ends("LOOP: P01 is above CEN already", greeting(&["CEN"])));
        assert!(!ends(
            "LOOP: P01 is above CEN already",
            greeting(&["CEN", "P01"])
        ));
        assert!(!ends("LOOP: P01 is above CEN already", ask()));
        assert!(!ends("NOT_A_CHILD: of another site", ask()));
    }

    #[test]
    fn a_body_that_explodes_when_decompressed_is_refused() {
        let bomb = zstd::encode_all(vec![0_u8; 40 * 1024 * 1024].as_slice(), 3).unwrap();
        assert!(bomb.len() < 64 * 1024);
        assert!(unpack(&bomb).is_err());
        let body = pb::BatchBody {
            reports: vec![Bytes::from_static(b"report")],
            ..Default::default()
        };
        assert_eq!(unpack(&pack(body.clone()).unwrap()).unwrap(), body);
    }

    #[test]
    fn long_columns_come_out_as_they_went_in() {
        let column = |seed: usize| -> Bytes {
            let bytes = (0..ALONE * 3).map(|at| u8::try_from(at * seed % 251).unwrap());
            bytes.collect::<Vec<u8>>().into()
        };
        let body = pb::BatchBody {
            reports: vec![Bytes::from_static(b"report")],
            rows: Some(pb::ClientRows {
                clients: column(1),
                check: Bytes::from_static(b"12345678"),
                epochs: column(2),
                serials: column(3),
                generations: Bytes::from_static(b"g"),
                counts: column(4),
                base: 7,
                updates: column(5),
                states: column(6),
            }),
            ..Default::default()
        };
        assert_eq!(unpack(&pack(body.clone()).unwrap()).unwrap(), body);
    }
}
