//! Protections of the recording of reports and of links that a test can take away, to prove that it
//! would see their absence (reliability.md N-04 to N-07). Nothing here does anything in production: see
//! `muster_runtime::faults`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, Ordering};

use muster_compliance::Change;
use muster_domain::states::Detection;
use muster_proto::state as pb;
use muster_runtime::faults::{self, Control};
use prost::Message;

use super::open_batch::Item;
use crate::domain::report::{Report, Stream};
use crate::domain::settle::Moves;

/// The client's serial does not decide what is newest.
pub(crate) fn replaces_order() -> bool {
    faults::without(Control::MergeByArrival) || faults::without(Control::MergeByClientClock)
}

/// N-05: gives a report a serial by its arrival, or by its client's clock.
pub(crate) fn renumber(report: Report, item: &Item, held: &Stream) -> Report {
    if faults::without(Control::MergeByArrival) {
        let last = held.contiguous.cast_signed().max(report.last_serial) + 1;
        return report.renumbered(last);
    }
    if faults::without(Control::MergeByClientClock) {
        let time = pb::Report::decode(item.bytes.clone())
            .ok()
            .and_then(|message| message.reported_at);
        let micros = time.map_or(0, |it| it.seconds * 1_000_000 + i64::from(it.nanos / 1_000));
        return report.renumbered(micros.max(1));
    }
    report
}

/// N-06: what counters move by when every delivery counts.
pub(crate) fn delivered(item: &Item) -> Vec<Change> {
    if !faults::without(Control::CountDeliveries) {
        return Vec::new();
    }
    let report = item.decode().ok();
    let states = report.map(|it| it.compliance.states).unwrap_or_default();
    states
        .into_iter()
        .map(|(update_no, to)| Change {
            update_no,
            from: Detection::NotRequired,
            to,
        })
        .collect()
}

/// N-06: forgets what really changed.
pub(crate) fn count_deliveries(moves: &mut Moves, delivered: &[Change]) {
    if faults::without(Control::CountDeliveries) {
        *moves = Moves::default();
        moves.add(delivered);
    }
}

/// N-04: the highest mark that the parent was told of.
static LAST_TOLD: AtomicI64 = AtomicI64::new(0);

/// N-04: these marks go into batches for the parent.
pub(crate) fn told(marks: &BTreeSet<i64>) {
    if let (true, Some(last)) = (faults::without(Control::OutboxByNumber), marks.last()) {
        LAST_TOLD.fetch_max(*last, Ordering::SeqCst);
    }
}

/// N-04: whether nobody looks for a mark, because the parent was told of a higher one.
pub(crate) fn passes_over(mark: i64) -> bool {
    faults::without(Control::OutboxByNumber) && mark <= LAST_TOLD.load(Ordering::SeqCst)
}

/// N-07: what a site of the version before this one does not read in what a child says.
pub(crate) fn forget_newer(report: &mut Report) {
    if faults::without(Control::OlderLink) {
        report.deployments.clear();
        report.enforcements.clear();
    }
}
