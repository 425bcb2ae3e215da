//! What runs beside the calls.

mod collect;

use std::sync::Arc;

use muster_runtime::Tasks;

pub(crate) use collect::collect_reports;

use crate::app::{Point, follow_directions};

/// Keeps asking the site server for what clients are to be told.
pub(crate) fn follow(point: &Arc<Point>, tasks: &Tasks) {
    let (it, every) = (Arc::clone(point), point.config.directions_interval);
    tasks.every("follow-directions", every, None, move || {
        let point = Arc::clone(&it);
        async move { follow_directions(&point).await }
    });
}
