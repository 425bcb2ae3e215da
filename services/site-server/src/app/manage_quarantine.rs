//! What an administrator does with messages that could not be recorded: look at them, try them
//! again when what was wrong is put right, or drop them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use muster_proto::state as pb;
use muster_runtime::status::chain;
use prost::Message;

use super::open_batch::{self, Arrived, Item};
use super::record_states::{self, Recorded};
use super::{Error, Site};
use crate::domain::page::Page;
use crate::domain::report::Refused;
use crate::store::quarantine::{self, Held, Selection};

/// Messages that one call may name.
const MAX_NUMBERS: usize = 1_000;
/// One call tries so many messages, and begins none after this time; the caller asks again.
const REDRIVE_AT_ONCE: i64 = 200;
const REDRIVE_TIME: Duration = Duration::from_secs(10);
/// One call drops so many messages.
const DROP_AT_ONCE: i64 = 10_000;
/// Decoded reports of a batch that are shown, in encoded bytes.
const SHOWN_BYTES: usize = 1024 * 1024;

/// What could not be recorded, newest first.
pub(crate) async fn list_quarantined(
    site: &Site,
    request: &pb::ListQuarantinedRequest,
) -> Result<pb::ListQuarantinedResponse, Error> {
    // Bodies are large; a page of them must fit into one message.
    let page = Page::read(request.page_size.clamp(1, 32), &request.page_token)?;
    let mut messages = quarantine::list(&site.db().await?, page).await?;
    let next_page_token = page.cut(&mut messages);
    Ok(pb::ListQuarantinedResponse {
        messages,
        next_page_token,
    })
}

/// One message, with what its bytes say.
pub(crate) async fn inspect_quarantined(
    site: &Site,
    request: &pb::InspectQuarantinedRequest,
) -> Result<pb::InspectQuarantinedResponse, Error> {
    let no = number(request.quarantine_no)?;
    let unknown = || {
        let text = format!("no message {no} is in quarantine");
        Error::not_found("UNKNOWN_MESSAGE", text)
    };
    let message = quarantine::show(&site.db().await?, no).await?;
    let message = message.ok_or_else(unknown)?;
    let (reports, decode_error) = decode(&message);
    Ok(pb::InspectQuarantinedResponse {
        message: Some(message),
        reports,
        decode_error,
    })
}

fn decode(message: &pb::QuarantinedMessage) -> (Vec<pb::Report>, String) {
    if message.body_bytes > message.body.len() as u64 {
        return (Vec::new(), "too large to be shown".to_owned());
    }
    if !message.whole_batch {
        return match pb::Report::decode(message.body.clone()) {
            Ok(report) => (vec![report], String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
    }
    let batch = match pb::ReportBatch::decode(message.body.clone()) {
        Ok(batch) => batch,
        Err(error) => return (Vec::new(), error.to_string()),
    };
    let (mut reports, mut bytes) = (Vec::new(), 0);
    for envelope in batch.reports {
        bytes += envelope.report.len();
        if bytes > SHOWN_BYTES {
            return (reports, "further reports are not shown".to_owned());
        }
        match pb::Report::decode(envelope.report) {
            Ok(report) => reports.push(report),
            Err(error) => return (reports, error.to_string()),
        }
    }
    (reports, String::new())
}

/// Tries messages again, oldest first, each in a transaction of its own.
pub(crate) async fn redrive_quarantined(
    site: &Site,
    administrator: &str,
    request: &pb::RedriveQuarantinedRequest,
) -> Result<pb::RedriveQuarantinedResponse, Error> {
    let after = match request.page_token.as_str() {
        "" => 0,
        token => token
            .parse()
            .map_err(|_| Error::invalid("PAGE_TOKEN", "this page token is not one of ours"))?,
    };
    let limit = REDRIVE_AT_ONCE + 1;
    let mut numbers = match selection(&request.quarantine_numbers, &request.reason)? {
        Selection::Numbers(numbers) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let rest = numbers.into_iter().filter(|no| *no > after);
            rest.take(limit).collect()
        }
        Selection::Reason(reason) => {
            quarantine::numbers(&site.db().await?, &reason, after, limit).await?
        }
    };
    let all = i64::try_from(numbers.len()).is_ok_and(|found| found < limit);
    if !all {
        numbers.pop();
    }
    let (started, last) = (Instant::now(), numbers.last().copied());
    let mut results = Vec::new();
    let mut next_page_token = String::new();
    for no in numbers {
        let result = redrive(site, administrator, no).await?;
        tracing::info!(
            audit = true,
            administrator,
            quarantine_no = no,
            outcome = result.outcome().as_str_name(),
            reason = result.reason,
            "quarantined message redriven"
        );
        results.push(result);
        let ended = Some(no) == last;
        if (ended && !all) || (!ended && started.elapsed() > REDRIVE_TIME) {
            next_page_token = no.to_string();
            break;
        }
    }
    Ok(pb::RedriveQuarantinedResponse {
        results,
        next_page_token,
    })
}

async fn redrive(site: &Site, administrator: &str, no: i64) -> Result<pb::RedriveResult, Error> {
    let (outcome, reason) = match redrive_once(site, administrator, no).await {
        Err(error) if error.is_data_error() => {
            let refused = Refused::new("REFUSED_BY_DATABASE", chain(&error));
            let reason = record_states::reason(&refused);
            quarantine::refuse_again(&site.db().await?, no, &reason).await?;
            (pb::RedriveOutcome::Refused, reason)
        }
        done => done?,
    };
    let word = outcome.as_str_name().trim_start_matches("REDRIVE_OUTCOME_");
    metrics::counter!("muster_state_redriven_total", "outcome" => word.to_ascii_lowercase())
        .increment(1);
    Ok(pb::RedriveResult {
        quarantine_no: no.unsigned_abs(),
        outcome: outcome.into(),
        reason,
    })
}

/// The states of the message and its leaving the quarantine commit together.
///
/// The locks are taken in the order of the state queues, clients before the quarantine: the two
/// may wait for each other, never in a circle. So the message is read before it is locked.
async fn redrive_once(
    site: &Site,
    administrator: &str,
    no: i64,
) -> Result<(pb::RedriveOutcome, String), Error> {
    const GONE: (pb::RedriveOutcome, String) = (pb::RedriveOutcome::Gone, String::new());
    let now = Timestamp::now();
    let read = quarantine::get(&site.db().await?, no).await?;
    let Some(held) = read else {
        return Ok(GONE);
    };
    let items = open(held, no);
    let items: Vec<&Item> = items.iter().collect();
    let mut known = record_states::hold(site, &items).await?;
    let mut db = site.db().await?;
    let tx = db.transaction().await?;
    if quarantine::get(&tx, no).await?.is_none() {
        return Ok(GONE);
    }
    let applied = record_states::apply(site, &known, &tx, &items, now).await?;
    let recorded = applied.recorded;
    applied.doubt(&mut known);
    let stays = items.iter().any(|item| item.held.is_some()) && recorded.quarantined > 0;
    if stays {
        let reason = quarantine::reason(&tx, no).await?;
        tx.commit().await?;
        return Ok((pb::RedriveOutcome::Refused, reason));
    }
    if !quarantine::settle(&tx, no, administrator).await? {
        // Somebody else was quicker; what this try has done is undone.
        return Ok(GONE);
    }
    tx.commit().await?;
    record_states::finish(site, &mut known, applied);
    let outcome = match recorded {
        Recorded { reports: 0, .. } => pb::RedriveOutcome::Known,
        Recorded { .. } => pb::RedriveOutcome::Recorded,
    };
    Ok((outcome, String::new()))
}

/// The reports in a message. Those of a batch that can be read now are on their own from here on:
/// what of them is refused is kept aside by itself.
fn open(held: Held, no: i64) -> Vec<Item> {
    let body = Bytes::from(held.body);
    let mut items = if held.whole_batch {
        let arrived = Arrived {
            body,
            origin: held.origin.into(),
            trusted: held.trusted,
        };
        open_batch::open(&arrived, held.received_at)
    } else {
        vec![Item::of_client(
            held.origin.into(),
            held.client_id,
            body,
            held.received_at,
        )]
    };
    if let [only] = items.as_mut_slice()
        && only.whole_batch == held.whole_batch
    {
        only.held = Some(no);
    }
    items
}

/// Removes messages for good.
pub(crate) async fn drop_quarantined(
    site: &Site,
    administrator: &str,
    request: &pb::DropQuarantinedRequest,
) -> Result<pb::DropQuarantinedResponse, Error> {
    let selection = selection(&request.quarantine_numbers, &request.reason)?;
    let db = site.db().await?;
    let dropped = quarantine::remove(&db, &selection, administrator, DROP_AT_ONCE).await?;
    let more = match &selection {
        Selection::Numbers(_) => false,
        Selection::Reason(reason) => !quarantine::numbers(&db, reason, 0, 1).await?.is_empty(),
    };
    tracing::info!(
        audit = true,
        administrator,
        ?selection,
        dropped,
        "quarantined messages dropped"
    );
    Ok(pb::DropQuarantinedResponse { dropped, more })
}

fn selection(numbers: &[u64], reason: &str) -> Result<Selection, Error> {
    let invalid = |why: &str| Error::invalid("SELECTION", why);
    match (numbers, reason) {
        ([], "") => Err(invalid(
            "say which messages: by their numbers or by a reason",
        )),
        ([], reason) => {
            let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            if reason.len() > 64 || !reason.bytes().all(fits) {
                return Err(invalid("a reason is one word such as UNKNOWN_EPOCH"));
            }
            Ok(Selection::Reason(reason.to_owned()))
        }
        (numbers, "") if numbers.len() <= MAX_NUMBERS => {
            let mut numbers = numbers
                .iter()
                .map(|no| number(*no))
                .collect::<Result<Vec<_>, _>>()?;
            numbers.sort_unstable();
            numbers.dedup();
            Ok(Selection::Numbers(numbers))
        }
        (_, "") => Err(invalid("at most 1,000 messages can be named at once")),
        (_, _) => Err(invalid("say numbers or a reason, not both")),
    }
}

fn number(quarantine_no: u64) -> Result<i64, Error> {
    i64::try_from(quarantine_no)
        .map_err(|_| Error::invalid("SELECTION", "a number of a message is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_named_by_numbers_or_by_one_word() {
        assert_eq!(
            selection(&[3, 1, 3], "").unwrap(),
            Selection::Numbers(vec![1, 3])
        );
        assert_eq!(
            selection(&[], "UNKNOWN_EPOCH").unwrap(),
            Selection::Reason("UNKNOWN_EPOCH".to_owned())
        );
        let many = vec![1; MAX_NUMBERS + 1];
        for (numbers, reason) in [
            (&[][..], ""),
            (&[1], "UNKNOWN_EPOCH"),
            (&[], "%"),
            (&[], "unknown epoch"),
            (&[u64::MAX], ""),
            (&many, ""),
        ] {
            assert!(selection(numbers, reason).is_err(), "{reason}");
        }
    }
}
