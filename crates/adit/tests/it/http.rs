//! HTTP tunnels, from the visitor to the local service and back.

use testkit::origin::HttpOrigin;

use crate::support::{Publish, Server};

#[tokio::test]
async fn a_request_travels_to_the_local_service_and_back() {
    let server = Server::start().await;
    let origin = HttpOrigin::start().await.unwrap();
    let agent = Publish::to(&server).http("app1", origin.addr()).start().await;
    assert_eq!(agent.url(), format!("http://{}", server.host("app1")));
    let answer = server.get("app1", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
}
