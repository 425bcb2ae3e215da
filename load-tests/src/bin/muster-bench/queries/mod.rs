//! B5 `report_queries`: what people ask, through the console's API while reports come in at half
//! of what the site can take, beside the best SQL over one row per client and update. Every answer
//! is compared with brute force over the fleet.

mod ingest;
mod sql;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use load_tests::figures::Figures;
use load_tests::fleet::{Fleet, Member, Random, Sent, messages, uncell};
use load_tests::ground::{Ground, Place};
use muster_compliance::{ClientStates, Matrix};
use muster_domain::UpdateNo;
use muster_domain::states::Detection;
use muster_proto::catalog::CreateUpdateListRequest;
use muster_proto::catalog::update_service_client::UpdateServiceClient;
use muster_proto::report as pb;
use muster_proto::report::report_service_client::ReportServiceClient;
use muster_proto::state;
use muster_runtime::grpc::Channel;
use prost::Message;
use uuid::Uuid;

use crate::Size;
use crate::wave::{count, quantile};
use ingest::Ingest;

/// The update list: every tenth of the updates that most clients speak of.
const LIST: &str = "List of the benchmark";
const LISTED: usize = 100;
const EVERY: usize = 10;
/// The update that is asked for: nearly every client says something of it.
const UPDATE: u32 = 1;
/// The update of the freshness probe; nobody else speaks of it.
const FRESH: u32 = 30_001;
/// One client in so many never reported.
const SILENT_ONE_IN: usize = 100;
/// Rows of a page.
const PAGE: u32 = 100;

/// Times of one question, in milliseconds.
type Times = BTreeMap<&'static str, Vec<f64>>;

struct Run {
    ground: Ground,
    reports: ReportServiceClient<Channel>,
    fleet: Vec<Member>,
    list: Vec<u32>,
    deployment: Uuid,
    truth: Truth,
    wrong: Wrong,
}

/// Answers that are not what brute force says.
#[derive(Debug, Default)]
struct Wrong {
    answers: u64,
    first: Option<String>,
}

impl Wrong {
    fn unless(&mut self, right: bool, what: impl FnOnce() -> String) {
        if !right {
            self.answers += 1;
            self.first.get_or_insert_with(what);
        }
    }
}

/// Brute force over the fleet.
#[derive(Debug, Default)]
struct Truth {
    clients: u32,
    silent: u32,
    non_compliant: u32,
    unknown: u32,
    /// Of each update of the list: unknown, not listed, required, installed.
    updates: Vec<[u32; 4]>,
    first_missing: Vec<Uuid>,
    first_silent: Vec<Uuid>,
    /// Of the first client: what it lists of the list.
    first_lists: BTreeMap<u32, i32>,
    histogram: BTreeMap<i32, u32>,
    failed: u32,
}

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let mut figures = Figures::new("report_queries", size.case);
    let mut run = Run::new(size, place).await?;
    let begin = Instant::now();
    sql::explode(&run.ground, &run.fleet).await?;
    figures.plain(
        "seconds_to_explode_and_index",
        begin.elapsed().as_secs_f64(),
    );
    recompute(&mut run, &mut figures).await?;
    let ingest = Ingest::start(&run.ground, &run.fleet[run.fleet.len() / 2..]).await?;
    figures.plain("ingest_reports_per_second", ingest.rate);
    let (rounds, asked) = if size.case == "full" {
        (size.pairs, 200)
    } else {
        (size.pairs, 50)
    };
    let (mut ours, mut theirs) = (Times::new(), Times::new());
    for _ in 0..rounds {
        for _ in 0..asked {
            run.ask(&mut ours).await?;
        }
        run.ask_sql(&mut theirs).await?;
    }
    let fresh = run.freshness(asked).await?;
    let recorded = ingest.stop().await?;
    figures.plain("ingest_reports_recorded_meanwhile", count(recorded));
    judge(&run, &ours, &theirs, &mut figures);
    let (commit, visible) = fresh;
    figures.plain("freshness_p99_ms_report_to_commit", quantile(&commit, 0.99));
    let batch = quantile(&commit, 0.99);
    figures.at_most(
        "freshness_p99_ms_commit_to_visible",
        quantile(&visible, 0.99),
        batch,
        1.0,
    );
    figures.zero("wrong_answers", run.wrong.answers);
    let memory = run.ground.memory();
    figures.plain("peak_memory_mib_site_server", memory.site_server);
    run.ground.stop().await?;
    let outcome = figures.end();
    match run.wrong.first {
        Some(first) => outcome.context(first),
        None => outcome,
    }
}

fn judge(run: &Run, ours: &Times, theirs: &Times, figures: &mut Figures) {
    let middle =
        |times: &Times, name: &str| times.get(name).map_or(f64::NAN, |it| quantile(it, 0.5));
    for (name, times) in ours {
        figures.plain(&format!("{name}_p50_ms"), quantile(times, 0.5));
        match *name {
            "q1_list" | "q2_update" => {
                figures.at_most(&format!("{name}_p99_ms"), quantile(times, 0.99), 5.0, 1.0);
            }
            "q3_missing" | "q8_no_data" => {
                figures.at_most(&format!("{name}_p99_ms"), quantile(times, 0.99), 20.0, 1.0);
            }
            _ => figures.plain(&format!("{name}_p99_ms"), quantile(times, 0.99)),
        }
    }
    let list = middle(theirs, "q1_list");
    figures.at_most(
        "q1_list_p50_ms_beside_sql",
        middle(ours, "q1_list"),
        list,
        0.01,
    );
    let (bare_list, bare) = run.bare_questions();
    figures.beside("q1_list_ms_question_beside_sql", bare_list, list);
    // A call through gRPC with TLS takes longer than the question does: both are shown, and the
    // question by itself is what is judged beside the statement by itself.
    let update = middle(theirs, "q2_update");
    figures.beside(
        "q2_update_p50_ms_with_grpc_beside_sql",
        middle(ours, "q2_update"),
        update,
    );
    figures.at_most("q2_update_ms_question_beside_sql", bare, update, 0.01);
    for name in ["q3_missing", "q8_no_data"] {
        figures.beside(
            &format!("{name}_p50_ms_beside_sql"),
            middle(ours, name),
            middle(theirs, name),
        );
    }
}

/// q7: all counters anew, from the rows of the clients, beside the statement that does so.
async fn recompute(run: &mut Run, figures: &mut Figures) -> Result<()> {
    let begin = Instant::now();
    let matrix = run.matrix();
    let numbers: Vec<UpdateNo> = (1..=30_000).map(UpdateNo).collect();
    let counts = matrix.list_counts(&numbers, None);
    let ours = begin.elapsed().as_secs_f64() * 1e3;
    let cells: u64 = counts
        .iter()
        .map(|it| u64::from(it.installed) + u64::from(it.required) + u64::from(it.unknown))
        .sum();
    let db = run.ground.pool.get().await?;
    let begin = Instant::now();
    let row = db.query_one(sql::ALL, &[]).await?;
    let theirs = begin.elapsed().as_secs_f64() * 1e3;
    let same = row.get::<_, i64>(1).unsigned_abs() == cells;
    run.wrong
        .unless(same, || "q7: the counters differ".to_owned());
    figures.beside("q7_recompute_ms", ours, theirs);
    let begin = Instant::now();
    let again = matrix.list_counts(&numbers, None);
    run.wrong
        .unless(again == counts, || "q7: two looks, two answers".to_owned());
    figures.beside(
        "q7_all_counters_ms_from_bitmaps",
        begin.elapsed().as_secs_f64() * 1e3,
        theirs,
    );
    Ok(())
}

impl Run {
    async fn new(size: Size, place: &Place) -> Result<Self> {
        let mut ground = Ground::start(place, Vec::new()).await?;
        let mut fleet = Fleet::new(size.clients, size.states, size.seed).members;
        ground.enrol(&fleet).await?;
        // Who never reported has no states.
        for member in fleet.iter_mut().skip(1).step_by(SILENT_ONE_IN) {
            member.states.clear();
        }
        let deployment = deploy(&ground).await?;
        let mut random = Random::new(size.seed ^ 7);
        let mut truth = Truth::default();
        let mut sent_all = 0;
        for page in fleet.chunks_mut(5_000) {
            let mut sent: Vec<Sent> = Vec::with_capacity(page.len() * 2);
            for member in page.iter_mut().filter(|member| !member.states.is_empty()) {
                let report = member.full();
                sent.push(member.sent(report));
                let report = truth.enforce(member, deployment, &mut random);
                sent.push(member.sent(report.encode_to_vec().into()));
            }
            sent_all += sent.len() as u64;
            ground.publish(messages(&sent)).await?;
        }
        ground.wait_for(sent_all).await?;
        ground.drained().await?;
        let list: Vec<u32> = (0..LISTED).map(|at| at * EVERY + 1).map(small).collect();
        let request = CreateUpdateListRequest {
            name: LIST.to_owned(),
            update_numbers: list.clone(),
            ..Default::default()
        };
        let channel = ground.administrator()?;
        let mut updates = UpdateServiceClient::new(channel.clone());
        updates.create_update_list(request).await?;
        truth.compliance(&fleet, &list);
        Ok(Self {
            ground,
            reports: ReportServiceClient::new(channel),
            fleet,
            list,
            deployment,
            truth,
            wrong: Wrong::default(),
        })
    }

    fn matrix(&self) -> Matrix {
        let mut matrix = Matrix::new();
        for number in 1..=30_000 {
            matrix.register_update(UpdateNo(number), 1);
        }
        for page in self.fleet.chunks(5_000).zip(0_u32..) {
            let rows: Vec<(u32, ClientStates)> = (page.1 * 5_000 + 1..)
                .zip(page.0)
                .filter(|(_, member)| !member.states.is_empty())
                .map(|(client_no, member)| {
                    let cells: Vec<_> = member.states.iter().map(|cell| uncell(*cell)).collect();
                    let mut states = ClientStates::default();
                    states.replace(&cells);
                    (client_no, states)
                })
                .collect();
            matrix.load_all(rows.iter().map(|(no, states)| (*no, 1, states)));
        }
        matrix
    }

    /// Milliseconds of the list's compliance and of "how many require X", each by itself.
    fn bare_questions(&self) -> (f64, f64) {
        let matrix = self.matrix();
        let list: Vec<UpdateNo> = self.list.iter().copied().map(UpdateNo).collect();
        let a_thousand = |question: &dyn Fn()| {
            let begin = Instant::now();
            for _ in 0..1_000 {
                question();
            }
            begin.elapsed().as_secs_f64()
        };
        let of_list = a_thousand(&|| {
            std::hint::black_box(matrix.list_compliance(&list, None));
            std::hint::black_box(matrix.list_counts(&list, None));
        });
        let of_update = a_thousand(&|| {
            std::hint::black_box(matrix.counts(UpdateNo(UPDATE), None));
        });
        (of_list, of_update)
    }

    /// Each question once.
    async fn ask(&mut self, times: &mut Times) -> Result<()> {
        let reports = &mut self.reports;
        let mut note = |name, begin: Instant| {
            let times: &mut Vec<f64> = times.entry(name).or_default();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        };
        let request = pb::GetComplianceRequest {
            update_list: LIST.to_owned(),
            ..Default::default()
        };
        let begin = Instant::now();
        let list = reports.get_compliance(request).await?.into_inner();
        note("q1_list", begin);
        let (truth, wrong) = (&self.truth, &mut self.wrong);
        let overall = [list.clients, list.non_compliant, list.unknown, list.no_data];
        let expected = [
            truth.clients,
            truth.non_compliant,
            truth.unknown,
            truth.silent,
        ];
        wrong.unless(overall == expected, || {
            format!("q1 is wrong: {overall:?}, not {expected:?}")
        });
        wrong.unless(list.updates.len() == self.list.len(), || {
            format!("q1 speaks of {} updates", list.updates.len())
        });
        for update in &list.updates {
            wrong.unless(truth.counts(update, &self.list), || {
                format!("q1 is wrong: {update:?}")
            });
        }
        let request = pb::GetUpdateComplianceRequest {
            key: Some(pb::get_update_compliance_request::Key::UpdateNo(UPDATE)),
            ..Default::default()
        };
        let begin = Instant::now();
        let answer = reports.get_update_compliance(request).await?.into_inner();
        note("q2_update", begin);
        let update = answer.update.unwrap_or_default();
        wrong.unless(truth.counts(&update, &self.list), || {
            format!("q2 is wrong: {update:?}")
        });
        for (name, wanted, expected) in [
            (
                "q3_missing",
                pb::UpdateAnswer::Required,
                &truth.first_missing,
            ),
            ("q8_no_data", pb::UpdateAnswer::NoData, &truth.first_silent),
        ] {
            let request = pb::ListUpdateClientsRequest {
                key: Some(pb::list_update_clients_request::Key::UpdateNo(UPDATE)),
                answer: wanted.into(),
                page_size: PAGE,
                ..Default::default()
            };
            let begin = Instant::now();
            let page = reports.list_update_clients(request).await?.into_inner();
            note(name, begin);
            let ids: Vec<&[u8]> = page.clients.iter().map(|it| &it.client_id[..]).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|id| &id.as_bytes()[..]).collect();
            wrong.unless(ids == expected, || format!("{name} is wrong: {ids:?}"));
        }
        let request = pb::GetClientReportRequest {
            client: "host-1".to_owned(),
            update_list: LIST.to_owned(),
        };
        let begin = Instant::now();
        let client = reports.get_client_report(request).await?.into_inner();
        note("q4_client", begin);
        for update in &client.updates {
            let expected = truth.first_lists.get(&update.update_no).copied();
            let expected = expected.unwrap_or(Detection::NotRequired.id().into());
            wrong.unless(update.compliance == expected, || {
                format!("q4 is wrong about update {}", update.update_no)
            });
        }
        let request = pb::GetEnforcementRequest {
            deployment: self.deployment.to_string(),
            page_size: 1,
            ..Default::default()
        };
        let begin = Instant::now();
        let enforcement = reports.get_enforcement(request).await?.into_inner();
        note("q5_enforcement", begin);
        let counts = enforcement.states.iter().map(|it| (it.state, it.clients));
        wrong.unless(counts.eq(truth.histogram.clone()), || {
            format!("q5 is wrong: {:?}", enforcement.states)
        });
        let request = pb::ListErrorsRequest {
            deployment: self.deployment.to_string(),
            ..Default::default()
        };
        let begin = Instant::now();
        let errors = reports.list_errors(request).await?.into_inner().errors;
        note("q6_errors", begin);
        let failed: Vec<u32> = errors.iter().map(|it| it.clients).collect();
        wrong.unless(failed == [truth.failed], || {
            format!("q6 is wrong: {failed:?}")
        });
        Ok(())
    }

    /// The same questions in SQL.
    async fn ask_sql(&self, times: &mut Times) -> Result<()> {
        let db = self.ground.pool.get().await?;
        let list: Vec<i32> = self
            .list
            .iter()
            .map(|number| number.cast_signed())
            .collect();
        let statement = db.prepare_cached(sql::LIST).await?;
        let begin = Instant::now();
        let row = db.query_one(&statement, &[&list]).await?;
        let mut note = |name, begin: Instant| {
            let times: &mut Vec<f64> = times.entry(name).or_default();
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        };
        note("q1_list", begin);
        let found = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        let expected = (self.truth.non_compliant.into(), self.truth.unknown.into());
        ensure!(found == expected, "the limit of q1 is wrong");
        let statement = db.prepare_cached(sql::UPDATE).await?;
        let begin = Instant::now();
        db.query(&statement, &[&UPDATE.cast_signed()]).await?;
        note("q2_update", begin);
        let statement = db.prepare_cached(sql::MISSING).await?;
        let begin = Instant::now();
        db.query(&statement, &[&UPDATE.cast_signed()]).await?;
        note("q3_missing", begin);
        let statement = db.prepare_cached(sql::SILENT).await?;
        let begin = Instant::now();
        db.query(&statement, &[]).await?;
        note("q8_no_data", begin);
        Ok(())
    }

    /// A client says something of an update that nobody speaks of: milliseconds until its
    /// transaction has been committed, and from then until the report shows it.
    async fn freshness(&mut self, times: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        const COMMITTED: &str = "
            SELECT contiguous_serial FROM report_streams JOIN clients USING (client_no)
            WHERE client_id = $1";
        let relay = self.ground.relay(1)?;
        let db = self.ground.pool.get().await?;
        let committed = db.prepare(COMMITTED).await?;
        let (mut commit, mut visible) = (Vec::new(), Vec::new());
        let member = self.fleet.first_mut().context("there is no client")?;
        for turn in 0..times {
            let (state, is) = if turn % 2 == 0 {
                (Detection::Required, 1)
            } else {
                (Detection::Installed, 0)
            };
            let report = member.delta(&[load_tests::fleet::cell(FRESH, state)]);
            let serial = member.serial;
            let begin = Instant::now();
            relay.deliver(vec![member.sent(report).envelope()]).await?;
            loop {
                let row = db.query_one(&committed, &[&member.id]).await?;
                if row.get::<_, i64>(0).unsigned_abs() >= serial {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            commit.push(begin.elapsed().as_secs_f64() * 1e3);
            let begin = Instant::now();
            loop {
                let request = pb::GetUpdateComplianceRequest {
                    key: Some(pb::get_update_compliance_request::Key::UpdateNo(FRESH)),
                    ..Default::default()
                };
                let answer = self
                    .reports
                    .get_update_compliance(request)
                    .await?
                    .into_inner();
                if answer.update.unwrap_or_default().required == is {
                    break;
                }
                ensure!(begin.elapsed() < Duration::from_secs(30), "never visible");
            }
            visible.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        Ok((commit, visible))
    }
}

impl Truth {
    /// What a client says of the deployment; takes it into account.
    fn enforce(
        &mut self,
        member: &mut Member,
        deployment: Uuid,
        random: &mut Random,
    ) -> state::Report {
        let mut report = member.next(state::ReportKind::Delta);
        let (enforcement, error_code) = match random.below(20) {
            0 => (6, 101),
            1..4 => (1, 0),
            _ => (4, 0),
        };
        *self.histogram.entry(enforcement).or_default() += 1;
        self.failed += u32::from(error_code != 0);
        report.deployments.push(state::DeploymentState {
            deployment_id: deployment.as_bytes().to_vec().into(),
            compliance: if enforcement == 4 { 1 } else { 2 },
            enforcement,
            evaluation: 2,
            error_code,
            serial: report.last_serial,
            ..Default::default()
        });
        report
    }

    /// Whether this is what clients say of an update of the list.
    fn counts(&self, update: &pb::UpdateCompliance, list: &[u32]) -> bool {
        let at = list.binary_search(&update.update_no).ok();
        let expected = at.and_then(|at| self.updates.get(at));
        expected.is_some_and(|[unknown, not_listed, required, installed]| {
            [
                update.unknown,
                update.not_required,
                update.required,
                update.installed,
                update.no_data,
            ] == [*unknown, *not_listed, *required, *installed, self.silent]
        })
    }

    fn compliance(&mut self, fleet: &[Member], list: &[u32]) {
        self.clients = small(fleet.len());
        self.updates = vec![[0; 4]; list.len()];
        for member in fleet {
            if member.states.is_empty() {
                self.silent += 1;
                if self.first_silent.len() < PAGE as usize {
                    self.first_silent.push(member.id);
                }
                continue;
            }
            let (mut required, mut unknown, mut says) = (false, false, Detection::NotRequired);
            for (number, state) in member.states.iter().map(|cell| uncell(*cell)) {
                if number.0 == UPDATE {
                    says = state;
                }
                if let Ok(at) = list.binary_search(&number.0) {
                    self.updates[at][usize::from(state.id())] += 1;
                    required |= state == Detection::Required;
                    unknown |= state == Detection::Unknown;
                }
            }
            if says == Detection::Required && self.first_missing.len() < PAGE as usize {
                self.first_missing.push(member.id);
            }
            self.non_compliant += u32::from(required);
            self.unknown += u32::from(unknown && !required);
        }
        let reported = self.clients - self.silent;
        for [unknown, not_listed, required, installed] in &mut self.updates {
            // Who lists it as not required says the same as who does not list it.
            *not_listed = reported - *unknown - *required - *installed;
        }
        if self.silent > 0 {
            *self.histogram.entry(0).or_default() += self.silent;
        }
        let first = fleet.first().into_iter().flat_map(|member| &member.states);
        let listed = first.map(|cell| uncell(*cell));
        let listed = listed.map(|(number, state)| (number.0, i32::from(state.id())));
        self.first_lists = listed.collect();
    }
}

async fn deploy(ground: &Ground) -> Result<Uuid> {
    const DEPLOY: &str = "
        INSERT INTO deployments (deployment_id, name, collection_no, available_at, deadline_at,
                                 suppress_restart)
        SELECT $1::uuid, 'queries ' || $1::uuid, min(collection_no), now(), now(), true FROM collections";
    let id = Uuid::new_v4();
    ground.pool.get().await?.execute(DEPLOY, &[&id]).await?;
    Ok(id)
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
