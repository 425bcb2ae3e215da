//! B0 `calibrate`: what this machine and the parts of the path can do by themselves. Nothing here
//! is judged; the figures say what the others mean.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use load_tests::figures::{Figures, median, rate};
use load_tests::fleet::{Fleet, cells};
use load_tests::ground::{Ground, Place};
use muster_proto::state::state_service_client::StateServiceClient;
use muster_proto::state::state_service_server::{StateService, StateServiceServer};
use muster_proto::state::{
    RelayReportsRequest, RelayReportsResponse, ReportStatesRequest, ReportStatesResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{Size, limits};

/// Unconfirmed messages at most.
const WINDOW: usize = 1_000;
/// Calls under way.
const CALLS: usize = 64;

pub(crate) async fn run(size: Size, place: &Place) -> Result<()> {
    let figures = Figures::new("calibrate", size.case);
    let often = if size.case == "full" { 5 } else { 1 };
    memory(&figures, often);
    figures.plain("loopback_tcp_gb_per_second", loopback(often)?);
    disk(&figures, often)?;

    let ground = Ground::start(place, Vec::new()).await?;
    commits(&figures, &ground, often).await?;
    let fleet = Fleet::new(5_000 * often, size.states, size.seed);
    let took = limits::copy(&ground, &fleet.members, 1).await?;
    let rows = rate(cells(&fleet.members), took);
    figures.plain("copy_narrow_rows_per_second", rows);
    let broker = ground.peer_broker()?;
    for (queue, arguments) in [
        (
            "classic_v1",
            vec![("x-queue-version", AMQPValue::LongInt(1))],
        ),
        (
            "classic_v2",
            vec![("x-queue-version", AMQPValue::LongInt(2))],
        ),
        (
            "quorum",
            vec![("x-queue-type", AMQPValue::LongString("quorum".into()))],
        ),
    ] {
        for (name, bytes, messages) in [
            ("12b", 12, 10_000),
            ("1kb", 1_024, 10_000),
            ("32kb", 32 * 1_024, 2_000),
        ] {
            let took = through(&broker, queue, &arguments, bytes, messages * often).await?;
            figures.plain(
                &format!("amqp_{queue}_{name}_messages_per_second"),
                rate(messages * often, took),
            );
        }
    }
    ground.stop().await?;
    for (name, bytes, calls) in [("empty", 0, 20_000), ("32kb", 32 * 1_024, 4_000)] {
        let (took, alone) = unary(bytes, calls * often).await?;
        let metric = format!("tonic_unary_{name}_calls_per_second");
        figures.plain(&metric, rate(calls * often, took));
        let metric = format!("tonic_unary_{name}_microseconds_alone");
        figures.plain(&metric, micros(alone));
    }
    figures.end()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn gigabytes(bytes: usize, time: Duration) -> f64 {
    rate(bytes, time) / 1e9
}

/// Beyond what the caches hold.
const LARGE: usize = 256 << 20;

fn memory(figures: &Figures, often: usize) {
    let from = vec![1_u8; LARGE];
    let mut to = vec![0_u8; LARGE];
    let begin = Instant::now();
    for _ in 0..4 * often {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    }
    let copied = gigabytes(4 * often * LARGE, begin.elapsed());
    figures.plain("memcpy_gb_per_second", copied);
    let words = vec![0x5555_aaaa_0f0f_1234_u64; LARGE / 8];
    let begin = Instant::now();
    let mut ones = 0_u64;
    for _ in 0..4 * often {
        let counted = black_box(&words).iter().map(|word| word.count_ones());
        ones += counted.map(u64::from).sum::<u64>();
    }
    black_box(ones);
    let counted = gigabytes(4 * often * LARGE, begin.elapsed());
    figures.plain("popcount_gb_per_second", counted);
}

fn loopback(often: usize) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let bytes = often << 29;
    let reader = std::thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 << 10];
        let mut sum = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(sum),
                read => sum += read,
            }
        }
    });
    let begin = Instant::now();
    let mut stream = TcpStream::connect(addr)?;
    let buffer = vec![7; 256 << 10];
    for _ in 0..bytes / buffer.len() {
        stream.write_all(&buffer)?;
    }
    drop(stream);
    let read = reader.join().ok().context("the reader panicked")??;
    Ok(gigabytes(read, begin.elapsed()))
}

fn disk(figures: &Figures, often: usize) -> Result<()> {
    // Beside the program: /tmp may be memory.
    let own = std::env::current_exe()?;
    let path = own.with_extension(format!("calibrate-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let block = [7; 8_192];
    let mut times = Vec::new();
    for _ in 0..100 * often {
        file.write_all(&block)?;
        let begin = Instant::now();
        file.sync_data()?;
        times.push(micros(begin.elapsed()));
    }
    std::fs::remove_file(&path)?;
    spread(figures, "fdatasync", times);
    Ok(())
}

fn spread(figures: &Figures, what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let late = times.get(times.len() * 99 / 100).copied();
    figures.plain(&format!("{what}_microseconds_p50"), median(times));
    figures.plain(
        &format!("{what}_microseconds_p99"),
        late.unwrap_or(f64::NAN),
    );
}

/// A transaction that writes as little as makes its commit wait for the disk.
async fn commits(figures: &Figures, ground: &Ground, often: usize) -> Result<()> {
    let mut db = ground.pool.get().await?;
    let mut times = Vec::new();
    for _ in 0..200 * often {
        let tx = db.transaction().await?;
        tx.batch_execute("SELECT pg_logical_emit_message(true, 'calibrate', '')")
            .await?;
        let begin = Instant::now();
        tx.commit().await?;
        times.push(micros(begin.elapsed()));
    }
    spread(figures, "commit", times);
    Ok(())
}

/// Publishes with confirms and consumes at the same time, over a connection each.
#[allow(clippy::disallowed_methods)] // what is spawned is waited for
async fn through(
    broker: &muster_rabbitmq::Config,
    queue: &str,
    arguments: &[(&str, AMQPValue)],
    bytes: usize,
    messages: usize,
) -> Result<Duration> {
    let (sending, receiving) = (
        muster_rabbitmq::open(broker, "calibrate").await?,
        muster_rabbitmq::open(broker, "calibrate").await?,
    );
    let (out, back) = (
        sending.create_channel().await?,
        receiving.create_channel().await?,
    );
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    out.queue_declare(queue.into(), QueueDeclareOptions::durable(), table)
        .await?;
    out.confirm_select(ConfirmSelectOptions::default()).await?;
    back.basic_qos(512, BasicQosOptions::default()).await?;
    let consumer = back.basic_consume(
        queue.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = consumer.await?;
    let begin = Instant::now();
    let consumed = tokio::spawn(async move {
        for at in 1..=messages {
            let message = consumer.next().await.context("the consumer ended")??;
            if at % 64 == 0 || at == messages {
                let options = BasicAckOptions { multiple: true };
                back.basic_ack(message.delivery_tag, options).await?;
            }
        }
        Ok::<(), anyhow::Error>(())
    });
    let body = vec![7; bytes];
    let mut confirms = FuturesUnordered::new();
    for _ in 0..messages {
        if confirms.len() == WINDOW {
            confirms.next().await.transpose()?;
        }
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = out.basic_publish("".into(), queue.into(), options, &body, properties);
        confirms.push(sent.await?);
    }
    while let Some(confirm) = confirms.next().await {
        confirm?;
    }
    consumed.await??;
    let took = begin.elapsed();
    // The consumer goes before its queue: a consumer that the broker cancels fails its connection.
    receiving.close(200, "OK".into()).await?;
    out.queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    sending.close(200, "OK".into()).await?;
    Ok(took)
}

/// Answers and does nothing else.
struct Nothing;

#[tonic::async_trait]
impl StateService for Nothing {
    async fn report_states(
        &self,
        request: Request<ReportStatesRequest>,
    ) -> Result<Response<ReportStatesResponse>, Status> {
        black_box(request.into_inner());
        Ok(Response::new(ReportStatesResponse::default()))
    }

    async fn relay_reports(
        &self,
        _: Request<RelayReportsRequest>,
    ) -> Result<Response<RelayReportsResponse>, Status> {
        Ok(Response::new(RelayReportsResponse {}))
    }
}

/// Calls over one connection without TLS: many at a time, and one after the other.
#[allow(clippy::disallowed_methods)] // what is spawned is ended
async fn unary(bytes: usize, calls: usize) -> Result<(Duration, Duration)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tonic::transport::Server::builder()
        .add_service(StateServiceServer::new(Nothing))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let client = StateServiceClient::connect(url).await?;
    let request = || ReportStatesRequest {
        reports: match bytes {
            0 => Vec::new(),
            bytes => vec![Bytes::from(vec![7; bytes])],
        },
    };
    let call = |_| {
        let (mut client, request) = (client.clone(), request());
        async move { client.report_states(request).await }
    };
    call(0).await?;
    let begin = Instant::now();
    let mut many = futures::stream::iter(0..calls)
        .map(call)
        .buffer_unordered(CALLS);
    while let Some(answer) = many.next().await {
        answer?;
    }
    let took = begin.elapsed();
    let few = u32::try_from(calls / 20)?;
    let begin = Instant::now();
    for at in 0..few {
        call(at as usize).await?;
    }
    let alone = begin.elapsed() / few;
    server.abort();
    Ok((took, alone))
}
