//! Proxies on the way to the API server, path prefixes, servers without TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forward::{Clusters, Forward, ForwardOptions};
use runtime::Scope;
use testkit::cluster::{AuthMode, ClusterOptions};
use testkit::process::Closed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Bed, DEADLINE, call, eventually, lose, patience, ready, refusal, settings};

/// Says which way a child process of this test is to go.
const CHILD: &str = "ADIT_TEST_PROXY_CHILD";

/// A proxy of one kind.
#[derive(Clone, Copy)]
enum Kind {
    /// HTTP CONNECT; with these credentials in base64.
    Connect(Option<&'static str>),
    /// SOCKS5; with user and password.
    Socks(Option<(&'static str, &'static str)>),
    /// Answers whatever is asked with these bytes.
    Says(&'static [u8]),
    /// Takes connections and says nothing.
    Mute,
}

/// A proxy that runs, and how many connections it made.
struct Proxy {
    addr: SocketAddr,
    made: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(scope: &Scope, kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let (count, all) = (Arc::clone(&made), scope.clone());
        scope.spawn("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                all.spawn("proxied", async move {
                    let _ = carry(client, kind, &count).await;
                });
            }
        });
        Self { addr, made }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, kind: Kind, made: &AtomicUsize) -> io::Result<()> {
    let to = match kind {
        Kind::Connect(login) => connect(&mut client, login).await?,
        Kind::Socks(login) => socks(&mut client, login).await?,
        Kind::Says(bytes) => {
            let _ = client.read(&mut [0; 1024]).await?;
            client.write_all(bytes).await?;
            client.shutdown().await?;
            client.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        Kind::Mute => return std::future::pending().await,
    };
    let mut server = TcpStream::connect(&*to).await?;
    made.fetch_add(1, Ordering::SeqCst);
    let answer: &[u8] = match kind {
        Kind::Connect(_) => b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n",
        // The bound address as a name, which few proxies send and all clients must read.
        _ => b"\x05\x00\x00\x03\x05proxy\x00\x00",
    };
    client.write_all(answer).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn connect(client: &mut TcpStream, login: Option<&str>) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let known = login.is_none_or(|login| head.contains(&format!("Proxy-Authorization: Basic {login}\r\n")));
    if !known {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
}

async fn socks(client: &mut TcpStream, login: Option<(&str, &str)>) -> io::Result<String> {
    let mut head = [0; 2];
    client.read_exact(&mut head).await?;
    let mut methods = vec![0; head[1].into()];
    client.read_exact(&mut methods).await?;
    let method = if login.is_some() { 2 } else { 0 };
    let method = if methods.contains(&method) { method } else { 0xff };
    client.write_all(&[5, method]).await?;
    if let Some((user, password)) = login {
        client.read_u8().await?;
        let mut said = Vec::new();
        for _ in 0..2 {
            let mut text = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut text).await?;
            said.push(text);
        }
        let known = said == [user.as_bytes(), password.as_bytes()];
        client.write_all(&[1, u8::from(!known)]).await?;
        if !known {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from(client.read_u32().await?).to_string(),
        3 => {
            let mut name = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(format!("{host}:{}", client.read_u16().await?))
}

/// A forward whose cluster is behind a proxy, and perhaps under another name.
fn behind(bed: &Bed, proxy_url: &str, host: Option<&str>, options: ForwardOptions) -> Forward {
    let good = bed.cluster.kubeconfig();
    let text = good.replace("    server:", &format!("    proxy-url: {proxy_url}\n    server:"));
    let text = host.map_or_else(|| text.clone(), |host| text.replace("127.0.0.1", host));
    let path = bed.dir.path().join("proxied");
    std::fs::write(&path, text).unwrap();
    let target = adit_core::target::Target::parse("k8s:///default/service/web:80").unwrap();
    Forward::new(&bed.scope, &Clusters::new(settings(&path)), "web", target, options)
}

#[tokio::test]
async fn everything_goes_through_the_proxy_of_the_kubeconfig() {
    let bed = Bed::web().await;
    let login = Some("bWU6cEBzcw==");
    for (kind, url) in [
        (Kind::Connect(None), "http://ADDR"),
        (Kind::Connect(login), "http://me:p%40ss@ADDR"),
        (Kind::Socks(None), "socks5://ADDR"),
        (Kind::Socks(Some(("me", "p@ss"))), "socks5h://me:p%40ss@ADDR"),
    ] {
        let proxy = Proxy::start(&bed.scope, kind).await;
        // By a name, which the proxy is to look up.
        let url = url.replace("ADDR", &proxy.addr.to_string());
        let forward = behind(&bed, &url, Some("localhost"), ForwardOptions::default());
        ready(&forward).await;
        call(&forward).await;
        assert!(proxy.made() >= 2, "{url}: one connection for the API and one for the pod");
    }
}

#[tokio::test]
async fn what_a_proxy_refuses_is_told_with_its_address() {
    let bed = Bed::web().await;
    for (kind, scheme, words) in [
        (Kind::Connect(Some("eDp5")), "http", "407"),
        (Kind::Says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), "http", "502"),
        (Kind::Says(b"rubbish"), "http", "ended early"),
        (Kind::Says(b""), "socks5", "proxy"),
        (Kind::Says(b"\x05\xff"), "socks5", "another kind of login"),
        (Kind::Socks(Some(("a", "b"))), "socks5", "another kind of login"),
        (Kind::Says(b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"), "socks5", "proxy"),
    ] {
        let proxy = Proxy::start(&bed.scope, kind).await;
        let url = format!("{scheme}://{}", proxy.addr);
        let forward = behind(&bed, &url, None, patience(Duration::from_millis(400)));
        refusal(&forward).await.has(&[&proxy.addr.to_string(), words], &[]);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_says_nothing_is_named() {
    let bed = Bed::web().await;
    let closed = Closed::take().unwrap();
    let forward = behind(&bed, &format!("http://{}", closed.address), None, patience(Duration::from_millis(400)));
    refusal(&forward).await.has(&[&closed.address.to_string(), "refused"], &[]);
    let mute = Proxy::start(&bed.scope, Kind::Mute).await;
    let forward = behind(&bed, &format!("http://{}", mute.addr), None, patience(Duration::from_millis(400)));
    refusal(&forward).await.has(&["not ready within"], &[]);
}

#[tokio::test]
async fn a_proxy_url_that_cannot_be_used_is_an_error_of_the_kubeconfig() {
    let bed = Bed::web().await;
    for url in ["https://p:1", "ftp://p:1", "'http://'", "'not a url'", "'http://p:notaport'"] {
        let forward = behind(&bed, url, None, ForwardOptions::default());
        let said = refusal(&forward).await;
        said.has(&["proxy", "fake"], &[]);
        assert_eq!(said.fault, adit_core::diagnose::Fault::Config, "{}", said.text);
    }
}

#[tokio::test]
async fn the_path_prefix_of_a_server_is_kept() {
    for prefix in ["/k8s/clusters/c-x", "/k8s/clusters/c-x/"] {
        let options = ClusterOptions { path_prefix: Some("/k8s/clusters/c-x".into()), ..ClusterOptions::default() };
        let bed = Bed::web_with(options).await;
        let text = bed.cluster.kubeconfig().replace("/k8s/clusters/c-x", prefix);
        std::fs::write(bed.dir.path().join("config"), text).unwrap();
        call(&bed.ready().await).await;
    }
}

#[tokio::test]
async fn a_server_without_tls_is_spoken_to_as_it_is() {
    let bed = Bed::web_with(ClusterOptions { tls: false, auth: AuthMode::None, ..ClusterOptions::default() }).await;
    let forward = bed.ready().await;
    call(&forward).await;
    lose(&forward, || bed.cluster.faults().cut_connections()).await;
    call(&forward).await;
}

/// Runs in a process of its own, in which the environment names a proxy; does nothing otherwise.
#[tokio::test]
async fn child_that_obeys_its_environment() {
    let Ok(way) = std::env::var(CHILD) else { return };
    let (config, direct) = way.split_once('=').unwrap();
    let scope = Scope::root();
    let target = adit_core::target::Target::parse("k8s:///default/service/web:80").unwrap();
    let clusters = Clusters::new(settings(config.as_ref()));
    let forward = Forward::new(&scope, &clusters, "web", target, patience(Duration::from_secs(5)));
    match (forward.ready().await, direct) {
        (Ok(_), "works") | (Err(_), "fails") => scope.abort(),
        (result, _) => panic!("{way}: {result:?}"),
    }
}

#[tokio::test]
async fn https_proxy_and_no_proxy_are_obeyed() {
    let bed = Bed::web().await;
    let proxy = Proxy::start(&bed.scope, Kind::Connect(None)).await;
    let address = proxy.addr.to_string();
    let config = bed.dir.path().join("config");
    for (name, value, no_proxy, through) in [
        ("HTTPS_PROXY", format!("http://{address}"), "", true),
        ("https_proxy", address.clone(), "", true),
        ("HTTPS_PROXY", format!("http://{address}"), "example.com,10.0.0.0/8", true),
        ("HTTPS_PROXY", format!("http://{address}"), "127.0.0.0/8", false),
        ("HTTPS_PROXY", format!("http://{address}"), "*", false),
        ("HTTP_PROXY", format!("http://{address}"), "", false),
    ] {
        let before = proxy.made();
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        for clear in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
            child.env_remove(clear);
        }
        child
            .args(["--exact", "proxies::child_that_obeys_its_environment"])
            .env(CHILD, format!("{}=works", config.display()))
            .env(name, &value)
            .env("NO_PROXY", no_proxy)
            .kill_on_drop(true);
        let output = crate::support::within("the child ends", child.output()).await.unwrap();
        assert!(output.status.success(), "{name} {no_proxy}: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(proxy.made() > before, through, "{name}={value} NO_PROXY={no_proxy}");
    }
    eventually(DEADLINE, "the children are gone", || bed.cluster.open_connections() == 0).await;
}
