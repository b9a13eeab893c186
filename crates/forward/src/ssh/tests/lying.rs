//! A server that sends what it should not.

use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, Sig};
use tokio::net::TcpListener;

use super::*;

/// To this port it sends errors of a program that there is none of.
const ERRORS: u32 = 1;
/// To this one it says how that program was killed, at length.
const KILLED: u32 = 2;
/// To this one that it has ended, again and again.
const ENDED: u32 = 3;

struct Liar {
    scope: Scope,
}

impl server::Handler for Liar {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let (handle, id) = (session.handle(), channel.id());
        self.scope.spawn("lies", async move {
            let _open = channel;
            let long = vec![b'x'; 30_000];
            // Less than a window: more would hold up the other streams of a server of russh.
            for _ in 0..60 {
                let sent = match port {
                    ERRORS => handle.extended_data(id, 1, long.clone()).await.is_ok(),
                    KILLED => {
                        let text = String::from_utf8(long.clone()).unwrap();
                        handle.exit_signal_request(id, Sig::KILL, false, text, String::new()).await.is_ok()
                    }
                    ENDED => handle.exit_status_request(id, 0).await.is_ok(),
                    _ => {
                        let _ = handle.data(id, "honest").await;
                        false
                    }
                };
                if !sent {
                    break;
                }
            }
            std::future::pending::<()>().await;
        });
        Ok(())
    }
}

/// A server of that kind, with these limits for its streams.
async fn liar(limits: Limits) -> (Scope, Arc<Bastion>, tempfile::TempDir) {
    let (scope, dir) = (Scope::root(), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let key =
        russh::keys::PrivateKey::random(&mut russh::keys::key::safe_rng(), russh::keys::Algorithm::Ed25519).unwrap();
    let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
    let own = scope.clone();
    scope.spawn("lying server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(running) = server::run_stream(Arc::clone(&config), stream, Liar { scope: own.clone() }).await {
                own.spawn("lying session", async move { drop(running.await) });
            }
        }
    });
    let file = dir.path().join("config");
    std::fs::write(&file, "Host *\n  IdentityAgent none\n  StrictHostKeyChecking no\n  IdentityFile none\n").unwrap();
    let options =
        SshOptions { config: Some(file), known_hosts: Some(dir.path().join("known_hosts")), ..SshOptions::default() };
    let server = SshServer::parse(&format!("me@{addr}")).unwrap().with(options);
    let bastion = SshServers::with_limits(None, limits).bastion(&server);
    (scope, bastion, dir)
}

async fn open(scope: &Scope, bastion: &Arc<Bastion>, port: u32) -> Io {
    let opened = within(bastion.open(scope, "db", u16::try_from(port).unwrap(), DEADLINE)).await;
    match opened {
        Ok(io) => io,
        Err(OpenedVia::Ssh(error)) => panic!("{error}"),
        Err(OpenedVia::Stream(error)) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_forwarded_stream_has_ends_the_stream_and_is_not_kept() {
    let (scope, bastion, _dir) = liar(Limits::default()).await;
    for port in [ERRORS, KILLED] {
        let mut lied = open(&scope, &bastion, port).await;
        let error = end_of(&mut lied).await.unwrap_err();
        assert!(error.to_string().contains("what no forwarded stream has"), "{error}");
        assert!(within(lied.write(b"more")).await.is_err());
        // The connection goes on.
        let mut honest = open(&scope, &bastion, 80).await;
        let mut said = [0; 6];
        within(honest.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"honest");
    }
    scope.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_messages_that_nobody_reads_are_counted() {
    let limits = Limits { pieces: 20, stuck: Duration::from_millis(200), ..Limits::default() };
    let (scope, bastion, _dir) = liar(limits).await;
    let mut honest = open(&scope, &bastion, 80).await;
    let mut said = [0; 6];
    within(honest.read_exact(&mut said)).await.unwrap();
    let mut lied = open(&scope, &bastion, ENDED).await;
    // Nobody reads it until it was ended for that.
    let ended = async {
        loop {
            match lied.write(b"x").await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => return error,
            }
        }
    };
    let error = within(ended).await;
    assert!(error.to_string().contains("nobody read the stream"), "{error}");
    scope.abort();
}
