//! Idle agents by the thousand: just enough of the tunnel protocol to be one, so that only the server's cost shows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testkit::noise::Noise;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Agents connecting at the same time.
const CONNECTING: usize = 32;
/// An agent that is not registered after this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

const HEARTBEAT: u8 = 0x00;
/// An agent's interval.
const BEAT: Duration = Duration::from_secs(5);
const AUTH_REQUEST: u8 = 0x01;
const AUTH_RESPONSE: u8 = 0x02;
const REGISTER: u8 = 0x10;
const JOIN: u8 = 0x31;
const ACK: u8 = 0x02;

type Lane = TlsStream<TcpStream>;

/// Agents that are connected and answer heartbeats until this is dropped.
#[derive(Debug)]
pub(crate) struct Agents {
    lanes: JoinSet<()>,
    /// How many are registered.
    pub(crate) opened: usize,
    /// How many failed.
    pub(crate) errors: usize,
    /// What the first failure was.
    pub(crate) first_error: Option<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Agents {
    /// Connects `count` agents with two lanes and one tunnel each.
    pub(crate) async fn open(server: SocketAddr, token: &str, count: usize) -> Self {
        let start = Instant::now();
        let connector = TlsConnector::from(Arc::new(testkit::cert::trust_anything(&[])));
        let turns = Arc::new(Semaphore::new(CONNECTING));
        let mut opening = JoinSet::new();
        for number in 0..count {
            let (turns, connector, token) = (Arc::clone(&turns), connector.clone(), token.to_owned());
            opening.spawn(async move {
                let _turn = turns.acquire().await;
                let agent = timeout(DEADLINE, agent(server, &connector, &token, number));
                agent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            });
        }
        let mut agents =
            Self { lanes: JoinSet::new(), opened: 0, errors: 0, first_error: None, elapsed: Duration::ZERO };
        while let Some(opened) = opening.join_next().await {
            match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(lanes) => {
                    agents.opened += 1;
                    lanes.into_iter().for_each(|lane| {
                        agents.lanes.spawn(keep(lane));
                    });
                }
                Err(error) => {
                    agents.errors += 1;
                    agents.first_error.get_or_insert_with(|| error.to_string());
                }
            }
        }
        agents.elapsed = start.elapsed();
        agents
    }

    /// Lanes that the server has ended.
    pub(crate) fn lost(&mut self) -> usize {
        std::iter::from_fn(|| self.lanes.try_join_next()).count()
    }
}

/// Authenticates, registers a tunnel and joins a second lane.
async fn agent(server: SocketAddr, connector: &TlsConnector, token: &str, number: usize) -> io::Result<Vec<Lane>> {
    let mut lane = connect(server, connector).await?;
    let mut noise = Noise::new(number as u64);
    let request = json!({
        "token": token, "agent_id": format!("idle-{number}"), "instance": format!("{:016x}", noise.draw()),
        "software": "bench", "data_cap": 16_384, "window": 65_536, "lanes": 2,
    });
    send(&mut lane, AUTH_REQUEST, 0, &request).await?;
    let welcome = answer(&mut lane, AUTH_RESPONSE).await?;
    let tunnel = json!({ "tunnels": [{ "id": 1, "kind": "http", "name": format!("idle-{number}"), "healthy": true }] });
    send(&mut lane, REGISTER, 0, &tunnel).await?;
    let registered = answer(&mut lane, REGISTER).await?;
    fault(&registered["tunnels"][0])?;
    let mut lanes = vec![lane];
    if welcome["lanes"].as_u64().unwrap_or(1) > 1 {
        let mut second = connect(server, connector).await?;
        let text = |key: &str| welcome[key].as_str().unwrap_or_default().to_owned();
        let nonce = format!("{:016x}{:016x}", noise.draw(), noise.draw());
        let proof = join_proof(&text("resume_secret"), &text("session"), &nonce);
        send(&mut second, JOIN, 0, &json!({ "session": text("session"), "proof": proof, "nonce": nonce })).await?;
        answer(&mut second, JOIN).await?;
        lanes.push(second);
    }
    Ok(lanes)
}

async fn connect(server: SocketAddr, connector: &TlsConnector) -> io::Result<Lane> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    connector.connect(ServerName::IpAddress(server.ip().into()), stream).await
}

/// Beats and answers heartbeats, as an agent does, until the server ends the lane.
async fn keep(mut lane: Lane) {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        // A frame cut by a beat would be lost, so a beat waits for the frame's end: only its first byte is raced.
        let mut first = [0];
        let sent = tokio::select! {
            got = lane.read(&mut first) => match got {
                Ok(1) => match rest(&mut lane).await {
                    Ok((HEARTBEAT, flags, payload)) if flags & ACK == 0 => {
                        write(&mut lane, HEARTBEAT, ACK, &payload).await
                    }
                    Ok(_) => Ok(()),
                    Err(_) => return,
                },
                _ => return,
            },
            _ = beat.tick() => write(&mut lane, HEARTBEAT, 0, &[7; 8]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn send(lane: &mut Lane, kind: u8, flags: u8, message: &Value) -> io::Result<()> {
    write(lane, kind, flags, message.to_string().as_bytes()).await
}

/// The next frame of this kind that is an answer; heartbeats in between are answered.
async fn answer(lane: &mut Lane, wanted: u8) -> io::Result<Value> {
    loop {
        let (kind, flags, payload) = read(lane).await?;
        if kind == HEARTBEAT && flags & ACK == 0 {
            write(lane, HEARTBEAT, ACK, &payload).await?;
        } else if kind == wanted {
            let message: Value = serde_json::from_slice(&payload)?;
            fault(&message)?;
            return Ok(message);
        } else if kind == 0xFF {
            return Err(io::Error::other(format!("the server ended the lane: {}", String::from_utf8_lossy(&payload))));
        }
    }
}

fn fault(message: &Value) -> io::Result<()> {
    match &message["error"] {
        Value::Null => Ok(()),
        fault => Err(io::Error::other(format!("refused: {fault}"))),
    }
}

async fn write(lane: &mut Lane, kind: u8, flags: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = vec![1, kind, flags, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    lane.write_all(&frame).await?;
    lane.flush().await
}

async fn read(lane: &mut Lane) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut version = [0];
    lane.read_exact(&mut version).await?;
    rest(lane).await
}

/// The frame whose first byte was read.
async fn rest(lane: &mut Lane) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut header = [1; 12];
    lane.read_exact(&mut header[1..]).await?;
    let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?.min(1 << 20)];
    lane.read_exact(&mut payload).await?;
    Ok((header[1], header[2], payload))
}

/// HMAC-SHA256 by the resume secret over the session and the nonce, in hex.
fn join_proof(secret: &str, session: &str, nonce: &str) -> String {
    let text = [b"adit join v1\0", session.as_bytes(), b"\0", nonce.as_bytes()].concat();
    hmac(secret.as_bytes(), &text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    let short = if key.len() > block.len() { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block[..short.len()].copy_from_slice(&short);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5C)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::hmac;

    #[test]
    fn the_proof_is_an_hmac_of_the_standard() {
        let tag: String =
            hmac(b"Jefe", b"what do ya want for nothing?").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(tag, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
