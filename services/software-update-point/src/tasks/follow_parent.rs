//! Looks at the software update point above all the time.

use std::sync::Arc;

use crate::app::look_at_parent::look_at_parent;
use crate::app::{Error, Point};

/// Follows it when it has something newer.
pub(crate) async fn follow_parent(point: Arc<Point>) -> Result<(), Error> {
    match &point.parent {
        Some(parent) => look_at_parent(&point, parent).await,
        None => Ok(()),
    }
}
