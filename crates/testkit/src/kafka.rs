//! A Kafka broker that knows its versions, logins and cluster, and nothing of topics.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::task::{self, Task};

/// No request of a client is longer.
const REQUEST_MAX: u32 = 64 * 1024;
const ROUNDS: u32 = 4096;

/// How a broker behaves.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Who may log in: mechanism, user, password; nobody has to without it.
    pub login: Option<(&'static str, &'static str, &'static str)>,
    /// Whether TLS is spoken.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How many brokers the cluster has.
    pub brokers: i32,
    /// It takes part in SCRAM without knowing the password.
    pub lies: bool,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { login: None, tls: None, brokers: 3, lies: false }
    }
}

/// The running broker.
#[derive(Debug)]
pub struct KafkaBroker {
    addr: SocketAddr,
    told: Arc<AtomicU64>,
    _task: Task,
}

impl KafkaBroker {
    /// Starts it on a free port.
    pub async fn start(options: KafkaOptions) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let told = Arc::<AtomicU64>::default();
        let (counter, options) = (Arc::clone(&told), Arc::new(options));
        let task = task::spawn(task::serve(listener, move |stream, _| {
            let (told, options) = (Arc::clone(&counter), Arc::clone(&options));
            async move {
                // How it ends is seen by the client.
                let _ = match &options.tls {
                    None => serve(stream, &options, &told).await,
                    Some(config) => match TlsAcceptor::from(Arc::clone(config)).accept(stream).await {
                        Ok(stream) => serve(stream, &options, &told).await,
                        Err(error) => Err(error),
                    },
                };
            }
        }));
        Ok(Self { addr, told, _task: task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How often it told the cluster's metadata.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

async fn serve<S>(mut stream: S, options: &KafkaOptions, told: &AtomicU64) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut login = Login { options, mechanism: None, scram: None, done: options.login.is_none() };
    loop {
        let length = stream.read_u32().await?;
        if length > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut request = vec![0; usize::try_from(length).unwrap_or_default()];
        stream.read_exact(&mut request).await?;
        let mut request = &request[..];
        let (key, version, correlation) = (request.get_i16(), request.get_i16(), request.get_i32());
        let client = usize::try_from(request.get_i16()).unwrap_or_default();
        request.advance(client);
        let body = match (key, version) {
            (18, 0) => versions(),
            (3, 1) if login.done => {
                told.fetch_add(1, Ordering::Relaxed);
                metadata(options.brokers)
            }
            (17, 1) => login.handshake(request),
            (36, 0) => login.authenticate(request),
            // As a broker does with what it does not take.
            _ => return Ok(()),
        };
        stream.write_u32(u32::try_from(body.len() + 4).unwrap_or_default()).await?;
        stream.write_i32(correlation).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}

fn versions() -> Vec<u8> {
    let known: [(i16, i16, i16); 4] = [(3, 0, 12), (17, 0, 1), (18, 0, 4), (36, 0, 2)];
    let mut out = vec![0, 0];
    out.put_i32(4);
    for (key, from, to) in known {
        out.put_i16(key);
        out.put_i16(from);
        out.put_i16(to);
    }
    out
}

fn metadata(brokers: i32) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i32(brokers);
    for id in 0..brokers {
        out.put_i32(id);
        put_text(&mut out, &format!("kafka-{id}.kafka.svc"));
        out.put_i32(9092);
        out.put_i16(-1);
    }
    out.put_i32(0);
    out.put_i32(0);
    out
}

/// One client's login.
struct Login<'a> {
    options: &'a KafkaOptions,
    mechanism: Option<String>,
    /// What was said so far, and by whom.
    scram: Option<(String, String)>,
    done: bool,
}

impl Login<'_> {
    fn handshake(&mut self, mut request: &[u8]) -> Vec<u8> {
        let length = usize::try_from(request.get_i16()).unwrap_or_default();
        let wanted = String::from_utf8_lossy(&request[..length.min(request.len())]).into_owned();
        let known = self.options.login.map_or("PLAIN", |(mechanism, ..)| mechanism);
        let mut out = Vec::new();
        out.put_i16(if wanted == known { 0 } else { 33 });
        out.put_i32(1);
        put_text(&mut out, known);
        self.mechanism = (wanted == known).then_some(wanted);
        out
    }

    fn authenticate(&mut self, mut request: &[u8]) -> Vec<u8> {
        let length = usize::try_from(request.get_i32()).unwrap_or_default();
        let token = String::from_utf8_lossy(&request[..length.min(request.len())]).into_owned();
        let mut out = Vec::new();
        match self.step(&token) {
            Some(answer) => {
                out.put_i16(0);
                out.put_i16(-1);
                out.put_i32(i32::try_from(answer.len()).unwrap_or_default());
                out.put_slice(answer.as_bytes());
            }
            None => {
                out.put_i16(58);
                // A careless broker repeats what it was given.
                put_text(&mut out, &format!("Authentication failed: {}", token.replace('\0', " ")));
                out.put_i32(0);
            }
        }
        out
    }

    fn step(&mut self, token: &str) -> Option<String> {
        let (_, user, password) = self.options.login?;
        match self.mechanism.as_deref()? {
            "PLAIN" => {
                self.done = token == format!("\0{user}\0{password}");
                self.done.then(String::new)
            }
            mechanism => {
                let password = if self.options.lies { "guessed" } else { password };
                match self.scram.take() {
                    None => {
                        let bare = token.strip_prefix("n,,")?;
                        let nonce = bare.strip_prefix(&format!("n={user},r="))?;
                        let challenge = format!("r={nonce}fromserver,s=c2FsdHNhbHQ=,i={ROUNDS}");
                        self.scram = Some((bare.to_owned(), challenge.clone()));
                        Some(challenge)
                    }
                    Some((bare, challenge)) => {
                        let (without_proof, proof) = token.rsplit_once(",p=")?;
                        let signed = format!("{bare},{challenge},{without_proof}");
                        let (expected, signature) = scram(mechanism == "SCRAM-SHA-512", password, &signed);
                        self.done = self.options.lies || STANDARD.encode(&expected) == proof;
                        self.done.then(|| format!("v={}", STANDARD.encode(&signature)))
                    }
                }
            }
        }
    }
}

/// The client's proof and the server's signature.
fn scram(long: bool, password: &str, signed: &str) -> (Vec<u8>, Vec<u8>) {
    let (mac, hash, derive) = if long {
        (hmac::HMAC_SHA512, &digest::SHA512, pbkdf2::PBKDF2_HMAC_SHA512)
    } else {
        (hmac::HMAC_SHA256, &digest::SHA256, pbkdf2::PBKDF2_HMAC_SHA256)
    };
    let mut salted = vec![0; hash.output_len()];
    let rounds = NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(derive, rounds, b"saltsalt", password.as_bytes(), &mut salted);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(mac, key), text).as_ref().to_vec();
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(hash, &client_key);
    let signature = sign(stored.as_ref(), signed.as_bytes());
    let proof = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    (proof, sign(&sign(&salted, b"Server Key"), signed.as_bytes()))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_i16(i16::try_from(text.len()).unwrap_or_default());
    out.put_slice(text.as_bytes());
}
