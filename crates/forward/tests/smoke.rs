//! The first light.
use std::time::{Duration, Instant};
use adit_core::target::Target;
use forward::{Clusters, Forward, ForwardOptions, KubeSettings};
use runtime::{Connect, Scope};
use testkit::cluster::{Cluster, ClusterOptions, PodSpec, ServicePort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn first_light() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut s, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut r, mut w) = s.split();
                let _ = tokio::io::copy(&mut r, &mut w).await;
            });
        }
    });
    cluster.add_pod(PodSpec::new("default", "web-1").label("app", "web").port("http", 8080).backend(8080, backend));
    cluster.add_service("default", "web", &[("app", "web")], &[ServicePort::new(80).named("http").to_named("http")]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    cluster.write_kubeconfig(&path);
    let scope = Scope::root();
    let begin = Instant::now();
    let clusters = Clusters::new(KubeSettings { kubeconfig: Some(path.display().to_string()), ..Default::default() });
    let forward = Forward::new(&scope, &clusters, "web", Target::parse("k8s:///default/service/web:80").unwrap(), ForwardOptions::default());
    let report = tokio::time::timeout(Duration::from_secs(10), forward.ready()).await.unwrap().unwrap();
    println!("ready in {:?}: {report:?}", begin.elapsed());
    for _ in 0..5 {
        let begin = Instant::now();
        let mut io = forward.connect().await.unwrap();
        io.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        tokio::time::timeout(Duration::from_secs(5), io.read_exact(&mut got)).await.unwrap().unwrap();
        println!("echo in {:?}", begin.elapsed());
        assert_eq!(&got, b"hello");
    }
}
