//! P-05 without its protection: when sites do not compare what they hold, a row that somebody changed
//! by hand stays as it is. In a program of its own, because the switch is for a whole process.
#![allow(clippy::unwrap_used)] // helpers of tests fail by panicking
#![allow(dead_code)] // most of them are for others

#[path = "it/pair.rs"]
mod pair;
#[path = "it/roles.rs"]
mod roles;
#[path = "it/site.rs"]
mod site;

use std::time::Duration;

use muster_domain::states::Detection::{Installed, Required};
use muster_runtime::faults::{Control, Plan, arm};
use muster_testkit::eventually;
use pair::Pair;

// A test, and one that is alone in its program.
#[allow(clippy::disallowed_methods)]
#[tokio::test]
async fn without_digests_a_row_that_was_changed_by_hand_stays_as_it_is() {
    let plan = Plan {
        abort: None,
        controls: vec![Control::WithoutDigests],
    };
    arm(plan).unwrap();
    let pair = Pair::start().await;
    let client = pair.child.enrol("host-1").await;
    let report = client.full(1, &[(1, Installed), (2, Required)]);
    pair.child.report(&[report]).await;
    eventually(async || pair.child.contiguous(&client).await == 1).await;
    pair.settled("before").await;
    let db = pair.parent.pool.get().await.unwrap();
    let by_hand = "UPDATE client_compliance_rows SET required = '{}'";
    assert_eq!(db.execute(by_hand, &[]).await.unwrap(), 1);
    drop(db);
    // Several cycles.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_ne!(pair.held().await, pair.told().await);
    assert_eq!(pair.differing().await, 0);
}
