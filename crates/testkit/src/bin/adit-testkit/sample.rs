//! What the cluster holds when it starts, and what answers in its pods.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use testkit::cert::TestCa;
use testkit::cluster::{Cluster, PodSpec, ServicePort};
use testkit::origin::TcpOrigin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::options::Backend;

/// The pods of `web` at the start.
const WEB: [&str; 3] = ["web-7d4b9c-2xk8p", "web-7d4b9c-h6q4z", "web-7d4b9c-r9w2m"];

/// What the first pods of `web` see and nobody outside does, to jump to: it echoes lines.
pub(crate) const HOST: &str = "echo.internal:7";

/// Keeps the built-in services alive.
pub(crate) struct Sample {
    _echo: TcpOrigin,
}

impl Sample {
    pub(crate) async fn add(cluster: &Cluster) -> io::Result<Self> {
        cluster.add_deployment("default", "web", &[("app", "web")]);
        cluster.patch("Deployment", "default", "web", json!({ "spec": { "replicas": WEB.len() } }));
        cluster.add_replicaset("default", "web-7d4b9c", &[("app", "web")]);
        cluster.add_service(
            "default",
            "web",
            &[("app", "web")],
            &[ServicePort::new(80).named("http").to_named("http")],
        );
        let echo = TcpOrigin::start().await?;
        for name in WEB {
            add_web(cluster, name).await?;
            cluster.set_host("default", name, HOST, echo.addr());
        }
        cluster.add_service("default", "echo", &[("app", "echo")], &[ServicePort::new(7)]);
        cluster.add_pod(PodSpec::new("default", "echo-0").label("app", "echo").port("", 7).backend(7, echo.addr()));
        // What the guide's examples name: a page behind TLS of its own, and a port that takes connections.
        let argocd = tls_page("hello from argocd-server\n").await?;
        serve(cluster, "argocd", "argocd-server", 443, argocd);
        serve(cluster, "databases", "postgresql", 5432, echo.addr());
        Ok(Self { _echo: echo })
    }
}

/// Adds a service with one pod.
fn serve(cluster: &Cluster, namespace: &str, name: &str, port: u16, addr: SocketAddr) {
    cluster.add_service(namespace, name, &[("app", name)], &[ServicePort::new(port)]);
    let pod = PodSpec::new(namespace, &format!("{name}-0")).label("app", name).port("", port);
    cluster.add_pod(pod.backend(port, addr));
}

/// Adds a pod of `web` with a page that says its name.
pub(crate) async fn add_web(cluster: &Cluster, name: &str) -> io::Result<()> {
    let addr = page(format!("hello from {name}\n")).await?;
    let pod = PodSpec::new("default", name).label("app", "web").image("example/web:1").port("http", 8080);
    cluster.add_pod(pod.owner("ReplicaSet", "web-7d4b9c").backend(8080, addr));
    cluster.set_log("default", name, "", &format!("{name}: listening on :8080\n"));
    Ok(())
}

/// Adds what runs already.
pub(crate) fn add_backend(cluster: &Cluster, backend: &Backend) {
    let Backend { service, namespace, name, port, addr } = backend;
    let pod = if *service { format!("{name}-0") } else { name.clone() };
    cluster.add_pod(PodSpec::new(namespace, &pod).label("app", name).port("", *port).backend(*port, *addr));
    if *service {
        cluster.add_service(namespace, name, &[("app", name)], &[ServicePort::new(*port)]);
    }
}

/// An HTTP server that says one thing, until the program ends.
async fn page(text: String) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Bytes::from(text.clone())));
        }
    });
    Ok(addr)
}

/// The same behind TLS with a certificate that nobody knows.
async fn tls_page(text: &'static str) -> io::Result<SocketAddr> {
    let ca = TestCa::new()?;
    let config = ca.leaf("argocd-server", &["argocd-server", "argocd-server.argocd.svc"])?.server(&["http/1.1"])?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, Bytes::from(text)).await;
                }
            });
        }
    });
    Ok(addr)
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: S, text: Bytes) {
    let service = service_fn(move |_| {
        let text = text.clone();
        async move { Ok::<_, Infallible>(http::Response::new(Full::new(text))) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
