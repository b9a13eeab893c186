//! Ports of a server that lead here.

use std::sync::Mutex;

use runtime::connect::TcpConnect;

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
        let port = RemotePort { name, bind, port, connect, connect_timeout: DEADLINE };
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
