//! Whether a site holds what its clients said: its rows, its counters and its reports beside brute
//! force over the fleet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Result;
use muster_domain::states::Detection;
use muster_postgres::Pool;
use muster_proto::report::GetComplianceRequest;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_runtime::grpc::Channel;
use uuid::Uuid;

use crate::figures::Figures;
use crate::fleet::{Member, uncell};
use crate::ground::Ground;

/// What is wrong; all zero when nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Clients whose row is not what they said.
    pub clients: u64,
    /// Updates whose counters are not.
    pub counters: u64,
    /// Updates, and totals, of which the report says something else.
    pub reported: u64,
    /// Reports in quarantine.
    pub quarantined: u64,
}

impl Wrong {
    /// Nothing is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// As figures that have to be zero.
    pub fn judge(&self, figures: &mut Figures) {
        figures.zero("clients_not_as_the_model", self.clients);
        figures.zero("counters_not_as_the_model", self.counters);
        figures.zero("report_rows_not_as_the_model", self.reported);
        figures.zero("reports_in_quarantine", self.quarantined);
    }
}

/// Compares everything. All clients of the site are in `fleet`.
///
/// # Errors
/// When the site does not answer.
pub async fn compare(ground: &Ground, fleet: &[Member]) -> Result<Wrong> {
    compare_site(&ground.pool, ground.administrator()?, fleet).await
}

/// As [`compare`], of any site: its database, and the way to its console's services. Numbers of
/// clients are its own.
///
/// # Errors
/// When the site does not answer.
pub async fn compare_site(pool: &Pool, console: Channel, fleet: &[Member]) -> Result<Wrong> {
    let db = pool.get().await?;
    let quarantined = db
        .query_one("SELECT count(*) FROM quarantine", &[])
        .await?
        .get::<_, i64>(0);
    Ok(Wrong {
        clients: rows(pool, fleet).await?,
        counters: counters(pool, fleet).await?,
        reported: report(console, fleet).await?,
        quarantined: quarantined.unsigned_abs(),
    })
}

async fn rows(pool: &Pool, fleet: &[Member]) -> Result<u64> {
    const NUMBERS: &str = "
        SELECT client_no, client_id FROM clients WHERE deleted_at IS NULL ORDER BY client_no";
    const ROWS: &str = "
        SELECT client_no, installed, required, unknown FROM client_compliance
        WHERE client_no >= $1 AND client_no <= $2 ORDER BY client_no";
    let db = pool.get().await?;
    let members: HashMap<Uuid, &Member> = fleet.iter().map(|it| (it.id, it)).collect();
    let numbers: Vec<(i32, Uuid)> = db
        .query(NUMBERS, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let there = numbers.iter().filter(|(_, id)| members.contains_key(id));
    let mut wrong = u64::try_from(fleet.len() - there.count())?;
    for page in numbers.chunks(2_000) {
        let (first, last) = (page[0].0, page[page.len() - 1].0);
        let rows = db.query(ROWS, &[&first, &last]).await?;
        let mut rows = rows.iter().peekable();
        for (number, id) in page {
            let row = rows.next_if(|row| row.get::<_, i32>(0) == *number);
            let held: [Vec<i32>; 3] = match row {
                Some(row) => [row.get(1), row.get(2), row.get(3)],
                None => Default::default(),
            };
            let says = members.get(id).map(|member| columns(member));
            wrong += u64::from(says != Some(held));
        }
        wrong += u64::try_from(rows.count())?;
    }
    Ok(wrong)
}

async fn counters(pool: &Pool, fleet: &[Member]) -> Result<u64> {
    const COUNTERS: &str = "
        SELECT update_no, installed, required, unknown FROM update_counters
        WHERE (installed, required, unknown) <> (0, 0, 0)";
    let db = pool.get().await?;
    let model = counts(fleet);
    let rows = db.query(COUNTERS, &[]).await?;
    let held: BTreeMap<i32, [i32; 3]> = rows
        .iter()
        .map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)]))
        .collect();
    let differ = held.iter().filter(|(no, it)| model.get(no) != Some(it));
    let missing = model.keys().filter(|no| !held.contains_key(no));
    Ok(u64::try_from(differ.count() + missing.count())?)
}

/// The overall report: the updates that are required most, and how many clients comply with them.
async fn report(console: Channel, fleet: &[Member]) -> Result<u64> {
    let mut reports = ReportServiceClient::new(console)
        .max_decoding_message_size(muster_runtime::grpc::MAX_MESSAGE);
    let answer = reports.get_compliance(GetComplianceRequest::default());
    let answer = answer.await?.into_inner();
    let model = counts(fleet);
    // A client that has said nothing has no data for anything.
    let silent = fleet.iter().filter(|member| member.serial == 0).count();
    let (clients, silent) = (u32::try_from(fleet.len())?, u32::try_from(silent)?);
    let mut wrong = 0;
    for row in &answer.updates {
        let number = i32::try_from(row.update_no)?;
        let counts = model.get(&number).copied().unwrap_or_default();
        let [installed, required, unknown] = counts.map(i32::unsigned_abs);
        let unknown = unknown + silent;
        let not_required = clients - installed - required - unknown;
        wrong += u64::from(
            [row.installed, row.required, row.unknown, row.not_required]
                != [installed, required, unknown, not_required],
        );
    }
    let listed: BTreeSet<u32> = answer.updates.iter().map(|row| row.update_no).collect();
    let (mut non_compliant, mut doubtful) = (0, 0);
    for member in fleet {
        let says = |state| {
            let mut states = member.states.iter().map(|cell| uncell(*cell));
            states.any(|(number, is)| is == state && listed.contains(&number.0))
        };
        if member.serial > 0 && says(Detection::Required) {
            non_compliant += 1;
        } else if member.serial == 0 || says(Detection::Unknown) {
            doubtful += 1;
        }
    }
    let compliant = clients - non_compliant - doubtful;
    let totals = [
        answer.clients,
        answer.compliant,
        answer.non_compliant,
        answer.unknown,
    ];
    Ok(wrong + u64::from(totals != [clients, compliant, non_compliant, doubtful]))
}

/// Installed, required and unknown of each update that somebody lists.
fn counts(fleet: &[Member]) -> BTreeMap<i32, [i32; 3]> {
    let mut counts: Vec<[i32; 3]> = Vec::new();
    for member in fleet.iter().filter(|member| member.serial > 0) {
        for (number, state) in member.states.iter().map(|cell| uncell(*cell)) {
            let (at, Some(column)) = (number.0 as usize, column(state)) else {
                continue;
            };
            if at >= counts.len() {
                counts.resize(at + 1, [0; 3]);
            }
            counts[at][column] += 1;
        }
    }
    (0..)
        .zip(counts)
        .filter(|(_, counts)| *counts != [0; 3])
        .collect()
}

fn column(state: Detection) -> Option<usize> {
    match state {
        Detection::Installed => Some(0),
        Detection::Required => Some(1),
        Detection::Unknown => Some(2),
        Detection::NotRequired => None,
    }
}

fn columns(member: &Member) -> [Vec<i32>; 3] {
    let mut columns: [Vec<i32>; 3] = Default::default();
    if member.serial == 0 {
        return columns;
    }
    for (number, state) in member.states.iter().map(|cell| uncell(*cell)) {
        let Some(at) = column(state) else { continue };
        columns[at].push(i32::try_from(number.0).unwrap_or(0));
    }
    columns
}
