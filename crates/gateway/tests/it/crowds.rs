//! Many at once, and connections used again.

use std::sync::atomic::Ordering;

use testkit::origin::HttpOrigin;
use testkit::raw::{self, Client};

use crate::support::Gate;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_requests_at_once_are_all_answered() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let (scope, done) = (gate.scope.child(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    for _ in 0..500 {
        let (addr, done) = (gate.addr, std::sync::Arc::clone(&done));
        scope.spawn("client", async move {
            let answer = raw::get(addr, "app.localhost", "/").await.unwrap();
            assert_eq!(answer.text(), "Hello, world!");
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    scope.idle().await;
    assert_eq!(done.load(Ordering::Relaxed), 500);
    assert_eq!(gate.site.counters.requests.load(Ordering::Relaxed), 500);
}

#[tokio::test]
async fn one_connection_to_the_service_carries_request_after_request() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    for _ in 0..5 {
        let mut client = Client::connect(gate.addr).await.unwrap();
        for target in ["/", "/bytes/100?chunked", "/bytes/100000"] {
            assert_eq!(client.get("app.localhost", target).await.unwrap().status, 200);
        }
    }
    assert_eq!((origin.connections(), origin.requests()), (1, 15));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let origin = HttpOrigin::start().await.unwrap();
    let gate = Gate::to(origin.addr()).await;
    let mut client = Client::connect(gate.addr).await.unwrap();
    let request = |path: &str| raw::head("GET", "app.localhost", path, &[], None);
    let all = [request("/slow?ms=50"), request("/status/201"), request("/bytes/3")].concat();
    client.send(&all).await.unwrap();
    for status in [200, 201, 200] {
        assert_eq!(client.response(false).await.unwrap().status, status);
    }
}
