//! Bad days: pods that die, API servers that go and come back.

use std::time::Duration;

use testkit::origin::TcpOrigin;
use testkit::process::{Process, Signal};
use testkit::raw::{self, Client};
use testkit::ws::{Message, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::{Bed, Up, beside, gateway, streams, web};
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::support::silent::SilentNames;
use crate::support::{DEADLINE, SOON, adit, curl, eventually, within};

const HOST: &str = "web.localhost";

async fn start() -> (Bed, Up) {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    (bed, up)
}

/// Kills the pod, and another takes its place.
fn replace(bed: &Bed) {
    assert!(bed.cluster.delete("Pod", "default", "web-1"));
    bed.add_pod("web-2");
}

/// The body to its end, however that comes.
async fn rest(client: &mut Client) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(piece) = within("more of the body", client.piece()).await? {
        length += piece.len();
    }
    Ok(length)
}

#[tokio::test]
async fn a_pod_that_dies_under_a_download_cuts_it_and_the_next_request_works() {
    let (bed, up) = start().await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    client.send(&raw::head("GET", &up.host(HOST), "/bytes/500000000", &[], None)).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    assert!(client.piece().await.unwrap().is_some());
    replace(&bed);
    let end = rest(&mut client).await;
    assert!(end.is_err(), "a body that is short is an error: {end:?}");
    assert_eq!(up.get(HOST, "/").await.status, 200);
    // The connection that was kept for the next request.
    streams(&bed, 1).await;
}

#[tokio::test]
async fn a_chunked_answer_that_is_cut_is_not_taken_for_whole() {
    let (bed, up) = start().await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    client.send(&raw::head("GET", &up.host(HOST), "/sse?events=0&ms=20", &[], None)).await.unwrap();
    assert_eq!(client.response_head(false).await.unwrap().status, 200);
    assert!(client.piece().await.unwrap().is_some());
    replace(&bed);
    let end = rest(&mut client).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_pod_that_dies_under_a_websocket_ends_it_and_the_next_one_works() {
    let (bed, up) = start().await;
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    socket.send_text("hello").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("hello".into())));
    replace(&bed);
    let end = within("its end", socket.receive_patiently()).await;
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    let mut socket = WebSocket::connect(up.gateway(), &up.host(HOST), "/ws").await.unwrap();
    socket.send_text("again").await.unwrap();
    assert_eq!(socket.receive().await.unwrap(), Some(Message::Text("again".into())));
}

#[tokio::test]
async fn a_pod_that_dies_between_two_requests_is_not_noticed() {
    let (bed, up) = start().await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    up.event("ready").await;
    replace(&bed);
    for _ in 0..5 {
        assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
    }
    let event = up.event_from(0, "moved", |_| true).await;
    assert_eq!(event["pod"], "web-2", "{event}");
}

#[tokio::test]
async fn many_pods_in_a_row_die_between_requests() {
    let (bed, up) = start().await;
    let mut client = Client::connect(up.gateway()).await.unwrap();
    for number in 1..10 {
        assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200, "{number}");
        bed.add_pod(&format!("web-{}", number + 1));
        assert!(bed.cluster.delete("Pod", "default", &format!("web-{number}")));
    }
    assert_eq!(client.get(&up.host(HOST), "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn without_a_pod_requests_wait_for_the_next_one() {
    let (bed, up) = start().await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    up.event("ready").await;
    assert!(bed.cluster.delete("Pod", "default", "web-1"));
    up.event("lost").await;
    let later = async {
        up.process.line(DEADLINE, |line| line.contains("\"lost\"")).await.expect("the loss");
        bed.add_pod("web-2");
    };
    let (status, ()) = tokio::join!(up.status(HOST), later);
    assert_eq!(status, Some(200));
    let back = up.event("back").await;
    assert_eq!(back["pod"], "web-2", "{back}");
}

#[tokio::test]
async fn an_api_server_that_is_gone_at_the_start_is_told_and_used_when_it_comes_back() {
    let bed = Bed::start().await;
    bed.cluster.faults().stop().await;
    let up = bed.up(&gateway(&[], &[&web()])).await;
    let answer = curl(&["--header", &format!("Host: {HOST}"), &format!("http://{}/", up.gateway())]).await;
    // Its port is closed: nobody is waited for who could be slow.
    assert_eq!(answer.status, 502, "{}", answer.text());
    let at = bed.cluster.address().to_string();
    assert!(answer.text().contains("API server") && answer.text().contains(&at), "{}", answer.text());
    let failed = up.event("error").await;
    assert_eq!(failed["name"], HOST, "{failed}");
    assert!(failed["message"].as_str().is_some_and(|message| message.contains(&at)), "{failed}");
    bed.cluster.faults().restart();
    eventually(DEADLINE, "an answer", || async { (up.status(HOST).await == Some(200)).then_some(()) }).await;
}

#[tokio::test]
async fn an_api_server_that_goes_and_comes_back_is_used_again() {
    let (bed, up) = start().await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    up.event("ready").await;
    bed.cluster.faults().stop().await;
    let lost = up.event("lost").await;
    assert_eq!(lost["name"], HOST, "{lost}");
    bed.cluster.faults().restart();
    eventually(DEADLINE, "an answer", || async { (up.status(HOST).await == Some(200)).then_some(()) }).await;
    up.event("back").await;
}

/// Longer than a first request waits for an API server that refuses.
const AWAY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_connection_to_a_port_waits_for_an_api_server_that_is_started_again() {
    let bed = Bed::start().await;
    let origin = TcpOrigin::start().await.expect("a service");
    bed.add_service("tcp", 7, origin.addr());
    bed.cluster.faults().stop().await;
    let up = bed.up("forwards:\n  tcp: { to: \"k8s://fake/default/service/tcp:7\", listen: 0 }\n").await;
    let mut stream = TcpStream::connect(up.port("tcp")).await.expect("the port takes it");
    stream.write_all(b"\x00hello").await.expect("it takes bytes");
    let back = async {
        tokio::time::sleep(AWAY).await;
        bed.cluster.faults().restart();
    };
    let mut got = [0; 6];
    let (read, ()) = tokio::join!(within("the echo", stream.read_exact(&mut got)), back);
    read.expect("an echo");
    assert_eq!(&got, b"\x00hello");
}

#[tokio::test]
async fn a_request_where_it_has_worked_waits_for_an_api_server_that_is_started_again() {
    let (bed, up) = start().await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    up.event("ready").await;
    bed.cluster.faults().stop().await;
    up.event("lost").await;
    let back = async {
        tokio::time::sleep(AWAY).await;
        bed.cluster.faults().restart();
    };
    let host = up.host(HOST);
    let (answer, ()) = tokio::join!(raw::get(up.gateway(), &host, "/"), back);
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn no_way_to_an_api_server_is_a_502_within_seconds_that_names_it_its_context_and_what_to_do() {
    let bed = Bed::start().await;
    let closed = testkit::process::free_port().unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_at = plain.local_addr().unwrap().to_string();
    let _plain = beside(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            // A reset could overtake the answer.
            open.push(stream);
        }
    });
    let cases = [
        ("closed", format!("127.0.0.1:{closed}"), "connection refused", "Check that the cluster runs"),
        ("nameless", "no-such-host.invalid:6443".into(), "its name cannot be resolved", "name servers"),
        ("plain", plain_at, "does not speak TLS", "Check `server` of this cluster"),
        (
            "foreign",
            bed.cluster.address().to_string(),
            "no authority that is trusted has signed it",
            "certificate-authority",
        ),
    ];
    let mut kubeconfig =
        String::from("apiVersion: v1\nkind: Config\nusers:\n- { name: me, user: { token: x } }\nclusters:\n");
    let lines = |line: fn(&str, &str) -> String| cases.iter().map(|(name, at, ..)| line(name, at)).collect::<String>();
    kubeconfig += &lines(|name, at| format!("- {{ name: {name}, cluster: {{ server: \"https://{at}\" }} }}\n"));
    kubeconfig += "contexts:\n";
    kubeconfig += &lines(|name, _| format!("- {{ name: {name}, context: {{ cluster: {name}, user: me }} }}\n"));
    let more = bed.home.path().join("more");
    std::fs::write(&more, kubeconfig).unwrap();
    bed.write(&gateway(&[], &[&web()]));
    let mut command = bed.command();
    let both = std::env::join_paths([bed.home.path().join("kubeconfig"), more]).unwrap();
    let up = Up::start(command.env("KUBECONFIG", both)).await;
    let asked = std::time::Instant::now();
    let ask = async |(name, at, reason, hint): &(&str, String, &str, &str)| {
        let answer = up.get(&format!("web-80.svc.default.ns.{name}.cx.k8s.localhost"), "/").await;
        let text = answer.text();
        assert_eq!(answer.status, 502, "{name}: {text}");
        for part in [at.as_str(), reason, hint] {
            assert!(text.contains(part), "{name}, {part}: {text}");
        }
        assert!(text.contains(&format!("context `{name}`")) || text.contains(&format!("k8s://{name}/")), "{text}");
        assert!(!text.contains("kubectl describe"), "{name}: {text}");
        text
    };
    let (closed, ..) = tokio::join!(ask(&cases[0]), ask(&cases[1]), ask(&cases[2]), ask(&cases[3]));
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert!(closed.contains("`kubectl --context closed cluster-info`"), "{closed}");
    assert_eq!(up.get(HOST, "/").await.status, 200, "the others work");
}

#[tokio::test]
async fn a_route_to_a_service_that_is_not_there_links_what_is_there() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &["gone.localhost: \"k8s://fake/default/service/gone:80\""])).await;
    let answer = up.get("gone.localhost", "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    let link = format!("services of fake: http://localhost:{}/-/contexts/fake", up.gateway().port());
    assert!(answer.text().contains(&link), "{}", answer.text());
}

#[tokio::test]
async fn a_service_that_resets_or_talks_nonsense_is_a_502() {
    let (_bed, up) = start().await;
    for target in ["/reset", "/garbage"] {
        let answer = up.get(HOST, target).await;
        assert_eq!(answer.status, 502, "{target}: {}", answer.text());
    }
    for target in ["/reset-mid-body", "/close-mid-body"] {
        let answer = raw::get(up.gateway(), &up.host(HOST), target).await;
        assert!(answer.is_err(), "{target}: {answer:?}");
    }
    assert_eq!(up.get(HOST, "/").await.status, 200);
}

#[tokio::test]
async fn a_service_that_does_not_answer_in_the_routes_time_is_a_504() {
    let bed = Bed::start().await;
    let up = bed
        .up(&gateway(&[], &[&format!("web.localhost: {{ to: \"{}\", timeout: 300ms }}", super::support::WEB)]))
        .await;
    let answer = up.get(HOST, "/silent").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(up.get(HOST, "/drip?pieces=10&ms=50").await.body.len(), 1000, "a live answer is not cut");
    eventually(DEADLINE, "the request's end in the pod", || async { (bed.origin.in_flight() == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_route_all_of_whose_requests_fail_is_not_called_ready() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &["dead.localhost: \"k8s://fake/default/service/web:81\""])).await;
    assert_eq!(up.get("dead.localhost", "/").await.status, 502);
    let (_, index) = up.json("localhost", "/").await;
    let route = &index["routes"][0];
    assert_eq!(route["state"], "failing", "{route}");
    assert!(route["last_error"]["since"].is_string(), "{route}");
    assert!(route["last_error"]["text"].as_str().unwrap().contains("refused"), "{route}");
}

#[tokio::test]
async fn an_api_server_that_says_nothing_and_takes_nothing_new_is_told_within_seconds() {
    let (bed, up) = start().await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    bed.cluster.faults().stop_silently().await;
    let mut client = TcpStream::connect(up.gateway()).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", up.host(HOST));
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // 4 s until the silence counts, 10 s in which the server may come back; without the first it would be 25 s and more.
    let reading = tokio::time::timeout(Duration::from_secs(20), client.read_to_string(&mut answer));
    reading.await.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("cannot be reached"), "{answer}");
    let (_, index) = up.json("localhost", "/").await;
    let state = index["routes"][0]["state"].as_str().unwrap();
    assert!(state != "ready", "{index}");
    bed.cluster.faults().restart();
    assert_eq!(up.get(HOST, "/").await.status, 200, "back");
}

#[tokio::test]
async fn requests_work_soon_after_an_api_server_that_hung_is_back_and_none_is_lost() {
    let (bed, up) = start().await;
    assert_eq!(up.get(HOST, "/").await.status, 200);
    bed.cluster.faults().stop_silently().await;
    let back = async {
        // The silence is what is tested.
        tokio::time::sleep(Duration::from_secs(5)).await;
        bed.cluster.faults().restart();
        std::time::Instant::now()
    };
    let (early, back) = tokio::join!(up.get(HOST, "/"), back);
    assert_eq!(early.status, 200, "{}", early.text());
    assert_eq!(up.get("web-http.svc.default.ns.fake.cx.k8s.localhost", "/").await.status, 200, "a cold one");
    // Without a second attempt it would be 15 s and more.
    assert!(back.elapsed() < Duration::from_secs(8), "{:?} after its return", back.elapsed());
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test]
async fn a_resolver_that_does_not_answer_does_not_hold_up_the_end() {
    let bed = Bed::start().await;
    bed.write("forwards: { away: { to: \"tcp://silent:80\", listen: 0 } }\n");
    let mut command = adit(bed.home.path());
    let names = SilentNames::new(bed.home.path(), command.arg("up"));
    let process = Process::start(&mut command).unwrap();
    let port = process.line(DEADLINE, |line| line.starts_with("away  127.0.0.1:")).await.unwrap();
    let _client = TcpStream::connect(port.split_whitespace().nth(1).unwrap()).await.unwrap();
    let _hangs = names.asked().await;
    process.signal(Signal::INT).unwrap();
    process.line(DEADLINE, |line| line.starts_with("waiting for 1 stream")).await.unwrap();
    let begun = std::time::Instant::now();
    process.signal(Signal::INT).unwrap();
    assert_eq!(process.exited(DEADLINE).await.unwrap().code(), Some(130), "{}", process.output());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
