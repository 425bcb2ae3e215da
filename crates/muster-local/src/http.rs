//! One HTTP request to a process on this machine: enough for `/readyz`, `/metrics` and the
//! management interface of the broker.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// The most that is read of an answer, in bytes.
const LIMIT: u64 = 16 << 20;

/// The status and the body of `http://<address:port>/<path>`. Plain HTTP to a literal address
/// only; `timeout` counts for each of connecting, writing and reading.
///
/// # Errors
/// The address does not parse, nobody answers in time, or the answer is not HTTP.
pub fn get(url: &str, timeout: Duration) -> Result<(u16, String)> {
    send("GET", url, None, "", timeout)
}

/// A request with a JSON body, as `login` (user, password) when given.
///
/// # Errors
/// As [`get`].
pub fn send(
    method: &str,
    url: &str,
    login: Option<(&str, &str)>,
    body: &str,
    timeout: Duration,
) -> Result<(u16, String)> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url} is not http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address: SocketAddr = host
        .parse()
        .with_context(|| format!("{host} is not an address with a port"))?;
    let mut request = format!("{method} /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some((user, password)) = login {
        let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("Authorization: Basic {pair}\r\n"));
    }
    if !body.is_empty() {
        request.push_str("Content-Type: application/json\r\n");
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer)?;
    parse(&answer).with_context(|| format!("{url} did not answer in HTTP"))
}

fn parse(answer: &[u8]) -> Result<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer has no end of its head")?;
    let mut words = head.split_whitespace();
    if !words.next().is_some_and(|it| it.starts_with("HTTP/1.")) {
        bail!("the answer has no status line");
    }
    let status = words
        .next()
        .context("the status line has no status")?
        .parse()?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_status_and_body() {
        let (status, body) = parse(b"HTTP/1.1 503 Busy\r\nA: b\r\n\r\nnot ready").unwrap();
        assert_eq!((status, body.as_str()), (503, "not ready"));
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(get("https://127.0.0.1:1/", Duration::from_secs(1)).is_err());
    }
}
