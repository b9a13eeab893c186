//! Runs the cluster until Ctrl-C.

use std::io::BufRead;
use std::path::PathBuf;

use testkit::cluster::Cluster;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::commands::{self, Outcome};
use crate::options::Options;
use crate::sample::{self, Sample};
use crate::say;

/// Lines typed ahead; the reader then waits.
const LINES: usize = 16;

pub(crate) async fn run(options: &Options) -> Result<(), String> {
    let cluster = Cluster::start(options.cluster()).await;
    let _sample = Sample::add(&cluster).await.map_err(|error| format!("no sample services: {error}"))?;
    for backend in &options.backends {
        sample::add_backend(&cluster, backend);
        say(&backend.to_string());
    }
    let file = Kubeconfig::new(options, &cluster);
    cluster.write_kubeconfig(&file.path);
    let shown = file.path.display();
    say(&format!(
        "The cluster listens on {} (as {}). Try:

  export KUBECONFIG={shown}
  kubectl get pods,svc -o wide
  adit forward svc/web 8080:80        # or: kubectl port-forward svc/web 8080:80
  curl http://127.0.0.1:8080/
  adit up                             # every service under a name of its own: open http://localhost:8989/
  curl http://web-80.svc.default.ns.fake.cx.k8s.localhost:8989/
  adit forward jump://fake/default/deployment/web/{} 8007     # a host that only the pods see

Type `help` for what can be made to go wrong; Ctrl-C ends it.",
        cluster.url(),
        options.version.git_version(),
        sample::HOST,
    ));
    let mut lines = typed();
    let on = |kind| signal(kind).map_err(|error| format!("no signals: {error}"));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    loop {
        // 1. a signal; 2. a typed line.
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            Some(line) = lines.recv() => match commands::act(&cluster, &line).await {
                Outcome::Say(text) => say(&text),
                Outcome::Quit => break,
            }
        }
    }
    cluster.shutdown().await;
    Ok(())
}

/// The file, removed at the end unless it was asked for by name.
struct Kubeconfig {
    path: PathBuf,
    ours: bool,
}

impl Kubeconfig {
    fn new(options: &Options, cluster: &Cluster) -> Self {
        match &options.kubeconfig {
            Some(path) => Self { path: path.clone(), ours: false },
            None => {
                let name = format!("adit-testkit-{}.kubeconfig", cluster.address().port());
                Self { path: std::env::temp_dir().join(name), ours: true }
            }
        }
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        if self.ours {
            // A file that is gone already is what was wanted.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Lines of stdin. At its end nothing more is typed, and the cluster goes on.
fn typed() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
