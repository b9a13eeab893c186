//! Running out of descriptors for a while is told when it begins and when it is over, not at each try.
//!
//! In a test binary of its own, because limit and subscriber are the process's.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use runtime::control::{ControlLock, ControlSocket, Handler, PrivateDir};
use runtime::{BoundListener, Scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Yes;

impl Handler for Yes {
    type Body = Full<Bytes>;

    async fn answer(&self, _: Request<Incoming>) -> Response<Self::Body> {
        Response::new(Full::from("yes"))
    }
}

/// What was told, with its fields.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Told {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        if *event.metadata().level() <= Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().expect("nobody panicked").push(text.0);
        }
    }
}

/// Every descriptor there is.
fn take_all() -> Vec<File> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).expect("a soft limit may be lowered");
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn answer(mut client: UnixStream) -> io::Result<String> {
    client.set_read_timeout(Some(DEADLINE))?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn s1_running_out_of_descriptors_is_told_once_and_its_end_with_how_often_it_failed() {
    let told = Told::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(told.clone())).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let directory = PrivateDir::open(&temporary.path().join("adit")).unwrap();
    let lock = ControlLock::take(&directory).unwrap();
    let (scope, listening) = (Scope::root(), Scope::root());
    ControlSocket::bind(&directory, &lock).unwrap().serve(&scope, Yes).unwrap();
    let listener = BoundListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, serving) = (listener.local_addr(), listening.clone());
    listening.spawn("accept", async move { listener.accept_loop(serving, |stream, _| drop(stream)).await.unwrap() });
    assert!(answer(UnixStream::connect(directory.socket()).unwrap()).unwrap().ends_with("yes"), "it serves");
    drop(TcpStream::connect(address).unwrap());

    // Their descriptors are there before the others are taken.
    let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let taken = take_all();
    client.connect(&SockAddr::unix(directory.socket()).unwrap()).unwrap();
    other.connect(&address.into()).unwrap();
    let (client, mut other) = (UnixStream::from(client), TcpStream::from(other));
    let both = async { tokio::join!(scope.idle(), listening.idle()) };
    assert!(tokio::time::timeout(Duration::from_millis(600), both).await.is_err(), "they go on trying");
    drop(taken);
    let answered = answer(client).unwrap();
    assert!(answered.ends_with("yes"), "{answered}");
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(other.read(&mut [0; 1]).unwrap(), 0, "it is accepted, and let go");
    let told = told.0.lock().unwrap().clone();
    for [begins, is_over] in [
        ["cannot accept at the control socket", "the control socket accepts again"],
        ["cannot accept connections", "connections are accepted again"],
    ] {
        let of = |text: &str| told.iter().filter(|one| one.contains(text)).cloned().collect::<Vec<_>>();
        assert_eq!((of(begins).len(), of(is_over).len()), (1, 1), "{told:?}");
        assert!(of(begins)[0].contains("failed=1 ") && of(is_over)[0].contains("failed="), "{told:?}");
    }
}
