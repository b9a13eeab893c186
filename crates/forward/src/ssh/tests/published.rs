//! Ports of a server that lead here.

use std::sync::Mutex;

use runtime::connect::TcpConnect;
use testkit::process::free_port;
use tokio::net::{TcpListener, TcpStream};

use super::super::remote::{RemoteEvent, RemotePort, RemotePorts};
use super::*;

struct Published {
    ports: Arc<RemotePorts>,
    events: Arc<Mutex<Vec<RemoteEvent>>>,
}

impl Published {
    /// One port, that leads to one of ours.
    fn start(bed: &Bed, server: SshServer, port: u16, to: u16) -> Self {
        let events: Arc<Mutex<Vec<RemoteEvent>>> = Arc::default();
        let kept = Arc::clone(&events);
        let told = Arc::new(move |event| kept.lock().unwrap().push(event));
        let connect = Arc::new(TcpConnect::new("127.0.0.1", to, DEADLINE));
        let (name, bind) = ("web".to_owned(), "localhost".to_owned());
        let port = RemotePort { name, bind, port, before: None, connect, connect_timeout: DEADLINE };
        let ports = RemotePorts::new(Arc::clone(&bed.servers), server, vec![port], told);
        bed.scope.spawn("remote ports", Arc::clone(&ports).run(bed.scope.clone()));
        Self { ports, events }
    }

    fn said(&self, wanted: impl Fn(&RemoteEvent) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| wanted(event)).count()
    }

    fn lost(&self, why: &str) -> usize {
        self.said(|event| matches!(event, RemoteEvent::Lost { reason, .. } if reason.contains(why)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_not_tried_again_with_each_version_of_the_file() {
    let bed = Bed::new(Limits::default()).await;
    std::fs::write(bed.sshd.path("authorized"), "").unwrap();
    let published = Published::start(&bed, bed.server(), 0, bed.origin.addr().port());
    until(|| published.lost("refused the login") == 1).await;
    let again = until(|| {
        published.ports.look_again();
        bed.sshd.connections() > 1
    });
    assert!(tokio::time::timeout(Duration::from_millis(500), again).await.is_err(), "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_much_left_of_its_visitors_is_replaced_and_they_stay() {
    let bed = Bed::new(Limits { left: 4, ..Limits::default() }).await;
    let (target, number) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), free_port().unwrap());
    let published = Published::start(&bed, bed.server(), number, target.local_addr().unwrap().port());
    let listening = || published.said(|event| matches!(event, RemoteEvent::Listening { .. }));
    until(|| listening() == 1).await;
    let visit = async || {
        let visitor = within(TcpStream::connect(("127.0.0.1", number))).await.unwrap();
        (visitor, within(target.accept()).await.unwrap().0)
    };
    let (mut held, mut service) = visit().await;
    let mut visits = 0;
    // The service cuts them off. While the port goes over it may lead nowhere.
    while listening() < 2 && visits < 40 {
        visits += 1;
        let second = Duration::from_secs(1);
        let Ok(mut visitor) = TcpStream::connect(("127.0.0.1", number)).await else { continue };
        let Ok(Ok((service, _))) = tokio::time::timeout(second, target.accept()).await else { continue };
        service.set_zero_linger().unwrap();
        drop(service);
        let _ = within(visitor.read(&mut [0])).await;
    }
    until(|| listening() == 2).await;
    assert_eq!((bed.sshd.logins(), published.lost("carried many visitors")), (2, 1));
    within(service.write_all(b"!")).await.unwrap();
    assert_eq!(within(held.read_u8()).await.unwrap(), b'!');
    let (mut visitor, mut service) = visit().await;
    within(service.write_all(b"?")).await.unwrap();
    assert_eq!(within(visitor.read_u8()).await.unwrap(), b'?');
}
