//! What the HTTP service answers on each path.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;

use super::{After, HELLO, RANGE_LENGTH, Request, pattern};
use crate::task::reset_on_close;
use crate::wire::{Framing, Wire, invalid};
use crate::ws::{Message, WebSocket, accept_key};

/// Bytes of one write of a long body.
const CHUNK: usize = 64 << 10;

/// A page with a WebSocket. It is not loaded before the echo is there, as its picture never comes.
const WS_PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 355\r\n\r\n\
    <!doctype html><title>ws</title><p id=said>nothing</p><img id=hold src=/silent><script>\
    const socket = new WebSocket(location.origin.replace('http', 'ws') + '/ws');\
    socket.onopen = () => socket.send(['from', 'the', 'page'].join(' '));\
    socket.onmessage = event => { said.textContent = 'echo: ' + event.data; hold.remove(); hold.src = 'data:,'; };\
    </script>";

/// Answers one request; an error means the client has left, or the connection is to be dropped.
pub(super) async fn answer(request: &Request, wire: &mut Wire<TcpStream>) -> io::Result<After> {
    let bodiless = request.method == "HEAD";
    let path = request.path.as_str();
    match path {
        "/echo" => return echo(request, wire).await,
        "/sink" => {
            let count = body(request, wire).await?;
            return text(wire, 200, &count.to_string(), bodiless).await;
        }
        "/reject" => {
            wire.io
                .write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await?;
            return Ok(After::Close);
        }
        _ => body(request, wire).await?,
    };
    match path {
        "/reset" => return Err(reset(wire)),
        "/silent" => return watched(wire, std::future::pending()).await,
        "/garbage" => {
            wire.io.write_all(b"\x00\x01\xFFthis is not HTTP\r\n\r\n").await?;
            return Ok(After::Close);
        }
        "/slow" => {
            let pause = Duration::from_millis(request.number("ms").unwrap_or(100));
            let wait = async {
                tokio::time::sleep(pause).await;
                Ok(())
            };
            watched(wire, wait).await?;
            wire.io.write_all(HELLO).await?;
        }
        "/drip" | "/sse" => return live(request, wire).await,
        "/head" => return text(wire, 200, &String::from_utf8_lossy(&request.head), bodiless).await,
        "/range" => return range(request, wire, bodiless).await,
        "/reset-mid-body" | "/close-mid-body" => {
            wire.io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await?;
            wire.io.write_all(&pattern(0, 1000)).await?;
            if path == "/close-mid-body" {
                return Ok(After::Close);
            }
            // A reset discards what is still queued: let the bytes leave first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(reset(wire));
        }
        _ => return plain(request, wire, bodiless).await,
    }
    Ok(After::Keep)
}

/// The answers that are only bytes.
async fn plain(request: &Request, wire: &mut Wire<TcpStream>, bodiless: bool) -> io::Result<After> {
    let bytes: &[u8] = match request.path.as_str() {
        "/" => HELLO,
        "/trailers" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-checksum\r\n\r\nd\r\nHello, world!\r\n0\r\nx-checksum: 13\r\n\r\n"
        }
        "/early" => {
            wire.io.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n").await?;
            HELLO
        }
        "/hop" => {
            b"HTTP/1.1 200 OK\r\nConnection: x-private\r\nX-Private: secret\r\nKeep-Alive: timeout=5\r\nX-Public: seen\r\nContent-Length: 13\r\n\r\nHello, world!"
        }
        "/ws-page" => WS_PAGE,
        "/no-length" => {
            wire.io.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nHello, world!").await?;
            return Ok(After::Close);
        }
        path => return numbered(path, request, wire, bodiless).await,
    };
    let end = if bodiless { head_length(bytes) } else { bytes.len() };
    wire.io.write_all(&bytes[..end]).await?;
    Ok(After::Keep)
}

async fn numbered(path: &str, request: &Request, wire: &mut Wire<TcpStream>, bodiless: bool) -> io::Result<After> {
    if let Some(length) = path.strip_prefix("/bytes/").and_then(|number| number.parse().ok()) {
        return bytes(length, request, wire, bodiless).await;
    }
    match path.strip_prefix("/status/").and_then(|number| number.parse::<u16>().ok()) {
        Some(status @ (204 | 304)) => {
            wire.io.write_all(format!("HTTP/1.1 {status} As Asked\r\nX-Status: {status}\r\n\r\n").as_bytes()).await?;
            Ok(After::Keep)
        }
        Some(status) => text(wire, status, &format!("status {status}"), bodiless).await,
        None => text(wire, 404, "not found", bodiless).await,
    }
}

async fn text(wire: &mut Wire<TcpStream>, status: u16, body: &str, bodiless: bool) -> io::Result<After> {
    let mut out =
        format!("HTTP/1.1 {status} As Asked\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
    if !bodiless {
        out.push_str(body);
    }
    wire.io.write_all(out.as_bytes()).await?;
    Ok(After::Keep)
}

async fn bytes(length: u64, request: &Request, wire: &mut Wire<TcpStream>, bodiless: bool) -> io::Result<After> {
    let chunked = request.query.contains("chunked");
    let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n{framing}\r\n\r\n");
    wire.io.write_all(head.as_bytes()).await?;
    if bodiless {
        return Ok(After::Keep);
    }
    // One pattern longer than a chunk, so that it serves every offset.
    let buffer = pattern(0, CHUNK + 251);
    let mut sent = 0;
    while sent < length {
        let most = usize::try_from(length - sent).unwrap_or(CHUNK).min(CHUNK);
        let from = usize::try_from(sent % 251).unwrap_or_default();
        if chunked {
            wire.io.write_all(format!("{most:x}\r\n").as_bytes()).await?;
        }
        wire.io.write_all(&buffer[from..from + most]).await?;
        if chunked {
            wire.io.write_all(b"\r\n").await?;
        }
        sent += most as u64;
    }
    if chunked {
        wire.io.write_all(b"0\r\n\r\n").await?;
    }
    Ok(After::Keep)
}

async fn range(request: &Request, wire: &mut Wire<TcpStream>, bodiless: bool) -> io::Result<After> {
    let Some(asked) = request.header("range") else {
        return ranged(wire, "200 OK", "", 0, RANGE_LENGTH, bodiless).await;
    };
    let last = RANGE_LENGTH - 1;
    let wanted = asked.strip_prefix("bytes=").and_then(|spec| spec.split_once('-')).and_then(|(from, to)| {
        let to_end = to.is_empty();
        match from.parse::<usize>() {
            Ok(from) if to_end => Some((from, last)),
            Ok(from) => Some((from, to.parse::<usize>().ok()?.min(last))),
            // `-N`: the last N bytes.
            Err(_) => Some((RANGE_LENGTH.checked_sub(to.parse().ok()?)?, last)),
        }
    });
    match wanted {
        Some((from, to)) if from <= to => {
            let range = format!("Content-Range: bytes {from}-{to}/{RANGE_LENGTH}\r\n");
            ranged(wire, "206 Partial Content", &range, from, to - from + 1, bodiless).await
        }
        _ => {
            let range = format!("Content-Range: bytes */{RANGE_LENGTH}\r\n");
            ranged(wire, "416 Range Not Satisfiable", &range, 0, 0, bodiless).await
        }
    }
}

async fn ranged(
    wire: &mut Wire<TcpStream>,
    status: &str,
    range: &str,
    from: usize,
    length: usize,
    bodiless: bool,
) -> io::Result<After> {
    let head = format!("HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\n{range}Content-Length: {length}\r\n\r\n");
    wire.io.write_all(head.as_bytes()).await?;
    if !bodiless {
        wire.io.write_all(&pattern(from, length)).await?;
    }
    Ok(After::Keep)
}

/// Streams the body back while it arrives, framed as it came, trailers too.
async fn echo(request: &Request, wire: &mut Wire<TcpStream>) -> io::Result<After> {
    carry_on(request, wire).await?;
    let mut framing = request.framing()?;
    let chunked = matches!(framing, Framing::Chunked(_));
    let head = match framing {
        Framing::Length(length) => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    };
    wire.io.write_all(head.as_bytes()).await?;
    while let Some(piece) = wire.piece(&mut framing).await? {
        if chunked {
            wire.io.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        }
        wire.io.write_all(&piece).await?;
        if chunked {
            wire.io.write_all(b"\r\n").await?;
        }
    }
    if chunked {
        let mut end = "0\r\n".to_owned();
        for (name, value) in std::mem::take(&mut wire.trailers) {
            end.push_str(&format!("{name}: {value}\r\n"));
        }
        end.push_str("\r\n");
        wire.io.write_all(end.as_bytes()).await?;
    }
    Ok(After::Keep)
}

/// Reads the body to its end and counts it.
async fn body(request: &Request, wire: &mut Wire<TcpStream>) -> io::Result<u64> {
    carry_on(request, wire).await?;
    let mut framing = request.framing()?;
    let mut count = 0;
    while let Some(piece) = wire.piece(&mut framing).await? {
        count += piece.len() as u64;
    }
    wire.trailers.clear();
    Ok(count)
}

async fn carry_on(request: &Request, wire: &mut Wire<TcpStream>) -> io::Result<()> {
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        wire.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    Ok(())
}

async fn drip(request: &Request, io: &mut WriteHalf<'_>) -> io::Result<()> {
    io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for number in 0..request.number("pieces").unwrap_or(10) {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(request.number("ms").unwrap_or(10))).await;
        }
        io.write_all(b"64\r\n").await?;
        io.write_all(&pattern(0, 100)).await?;
        io.write_all(b"\r\n").await?;
    }
    io.write_all(b"0\r\n\r\n").await
}

async fn events(request: &Request, io: &mut WriteHalf<'_>) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    io.write_all(head.as_bytes()).await?;
    let count = match request.number("events").unwrap_or(10) {
        0 => u64::MAX,
        count => count,
    };
    for number in 0..count {
        let event = format!("id: {number}\ndata: event {number}\n\n");
        io.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(request.number("ms").unwrap_or(10))).await;
    }
    io.write_all(b"0\r\n\r\n").await
}

/// Runs `work` and ends early, as cancelled, when the client leaves meanwhile.
async fn watched<T>(wire: &Wire<TcpStream>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::select! {
        result = work => result,
        gone = left(&wire.io) => Err(gone),
    }
}

/// The answers that take their time, and end early, as cancelled, when the client leaves meanwhile.
async fn live(request: &Request, wire: &mut Wire<TcpStream>) -> io::Result<After> {
    let (from, mut to) = wire.io.split();
    let work =
        async { if request.path == "/drip" { drip(request, &mut to).await } else { events(request, &mut to).await } };
    tokio::select! {
        result = work => result.map(|()| After::Keep),
        gone = left(from.as_ref()) => Err(gone),
    }
}

/// Ends when the client has ended or reset its side; bytes of a next request do not count.
async fn left(stream: &TcpStream) -> io::Error {
    let mut byte = [0];
    match stream.peek(&mut byte).await {
        Ok(0) => io::ErrorKind::UnexpectedEof.into(),
        Ok(_) => std::future::pending().await,
        Err(error) => error,
    }
}

fn reset(wire: &Wire<TcpStream>) -> io::Error {
    reset_on_close(&wire.io);
    io::ErrorKind::ConnectionAborted.into()
}

fn head_length(answer: &[u8]) -> usize {
    crate::wire::find(answer, b"\r\n\r\n", 0).map_or(answer.len(), |end| end + 4)
}

/// `/ws` and `/upgrade`: the rest of the connection is no longer HTTP.
pub(super) async fn upgrade(request: &Request, mut wire: Wire<TcpStream>) -> io::Result<()> {
    let Some(protocol) = request.header("upgrade") else {
        return text(&mut wire, 426, "upgrade required", false).await.map(drop);
    };
    let mut head = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n");
    if request.path == "/upgrade" {
        head.push_str("\r\n");
        wire.io.write_all(head.as_bytes()).await?;
        return echo_bytes(wire).await;
    }
    let key = request.header("sec-websocket-key").ok_or_else(|| invalid("no WebSocket key"))?;
    head.push_str(&format!("Sec-WebSocket-Accept: {}\r\n\r\n", accept_key(key)));
    wire.io.write_all(head.as_bytes()).await?;
    let mut socket = WebSocket::accepted(wire);
    while let Some(message) = socket.receive_patiently().await? {
        match message {
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
            message => socket.send(message).await?,
        }
    }
    Ok(())
}

async fn echo_bytes(mut wire: Wire<TcpStream>) -> io::Result<()> {
    let mut framing = Framing::ToEnd;
    while let Some(piece) = wire.piece(&mut framing).await? {
        wire.io.write_all(&piece).await?;
    }
    wire.io.shutdown().await
}
