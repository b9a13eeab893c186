//! The index and the errors, to browsers, programs and terminals, and to pages of strangers.

use adit_core::timestamp;
use gateway::failures::LastError;
use gateway::http::{Arrival, DynamicForm, ForwardEntry, Found, Listing, RouteEntry, Scheme, Site, State, serve};
use testkit::raw::{self, Client};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Gate;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn listing() -> Listing {
    let route = |host: &str, path: Option<&str>, state| RouteEntry {
        host: host.into(),
        path: path.map(str::to_owned),
        target: "k8s://dev/shop/service/<web>:80".into(),
        state,
        detail: (state == State::Failed).then(|| "no pod is ready".into()),
        last_error: None,
        tls: host.starts_with("tls"),
        https: false,
    };
    Listing {
        routes: vec![
            route("app.localhost", None, State::Ready),
            route("app.localhost", Some("/api"), State::Failed),
            route("*.apps.localhost", None, State::Idle),
            route("tls.localhost", None, State::Starting),
        ],
        forwards: vec![ForwardEntry {
            name: "db".into(),
            target: "k8s://dev/shop/service/db:5432".into(),
            state: State::Idle,
            detail: None,
            last_error: None,
            listen: vec!["127.0.0.1:5432".parse().unwrap()],
        }],
        refused: Some("adit.yaml:3:9: gateway.x: there is no <such> key\nerror: 1 problem".into()),
        dynamic: Some(DynamicForm {
            contexts: vec!["fake".into()],
            missing: None,
            tls: false,
            forms: vec!["{service}-{port}.svc.{namespace}.ns.{context}.cx.k8s.localhost".into()],
            example: Some("web-80.svc.shop.ns.dev.cx.k8s.localhost".into()),
        }),
    }
}

async fn gate() -> Gate {
    let gate = Gate::to(([127, 0, 0, 1], 9).into()).await;
    *gate.routes.listing.lock().unwrap() = listing();
    gate
}

async fn get(gate: &Gate, host: &str, target: &str, accept: &str) -> raw::Response {
    raw::request(gate.addr, "GET", host, target, &[("Accept", accept)], b"").await.unwrap()
}

#[tokio::test]
async fn the_index_lists_what_there_is_with_links() {
    let gate = gate().await;
    for host in ["localhost:8989", "127.0.0.1:8989", "[::1]:8989", "LOCALHOST.:8989"] {
        let answer = get(&gate, host, "/", BROWSER).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")), "{host}");
        let page = answer.text();
        assert!(page.contains("<a href=\"http://app.localhost:8989/api\">app.localhost/api</a>"), "{page}");
        assert!(page.contains("<a href=\"http://tls.localhost:8989/\">"), "{page}");
        assert!(page.contains("<code>*.apps.localhost</code>"), "{page}");
        let refused = "is not in force:<br>adit.yaml:3:9: gateway.x: there is no &lt;such&gt; key<br>error";
        assert!(page.contains(refused), "{page}");
        assert!(
            page.contains("k8s://<wbr>dev/<wbr>shop/<wbr>service/<wbr>&lt;web&gt;:80") && !page.contains("<web>"),
            "{page}"
        );
        assert!(
            page.contains("no pod is ready") && page.contains("127.0.0.1:5432") && page.contains("{service}-{port}")
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!page.contains("src=") && !page.contains("<script"), "{page}");
    }
}

#[tokio::test]
async fn the_index_is_told_to_programs_as_json() {
    let gate = gate().await;
    for (target, accept) in [("/", "application/json"), ("/?format=json", BROWSER), ("/.json", "*/*")] {
        let answer = get(&gate, "localhost:8989", target, accept).await;
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(value["routes"][0]["url"], "http://app.localhost:8989/", "{target}");
        assert_eq!(value["routes"][1]["state"], "failed");
        assert_eq!(value["routes"][2]["url"], serde_json::Value::Null);
        assert_eq!(value["forwards"][0]["listen"][0], "127.0.0.1:5432");
        assert!(value["refused"].as_str().unwrap().starts_with("adit.yaml:3:9: "), "{value}");
        assert_eq!(value["dynamic"]["example"], "web-80.svc.shop.ns.dev.cx.k8s.localhost");
    }
    get(&gate, "nobody.localhost", "/", "*/*").await;
    let answer = get(&gate, "localhost:8989", "/.json", "*/*").await;
    let counters = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["counters"].take();
    assert_eq!((&counters["requests"], &counters["errors"]), (&5.into(), &serde_json::json!({ "unknown_host": 1 })));
    let text = get(&gate, "localhost:8989", "/", "*/*").await.text();
    assert!(text.contains("http://app.localhost:8989/  ->  k8s://dev/shop/service/<web>:80  (ready)"), "{text}");
    assert_eq!(get(&gate, "localhost", "/else", "*/*").await.status, 404);
    let posted = raw::request(gate.addr, "POST", "localhost", "/", &[], b"x=1").await.unwrap();
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    let head = raw::request(gate.addr, "HEAD", "localhost", "/", &[], b"").await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn without_a_kubeconfig_the_index_says_that_no_host_of_a_service_leads_anywhere() {
    let gate = gate().await;
    for accept in [BROWSER, "application/json", "*/*"] {
        assert!(!get(&gate, "localhost", "/", accept).await.text().contains("no kubeconfig"), "{accept}");
    }
    if let Some(dynamic) = &mut gate.routes.listing.lock().unwrap().dynamic {
        dynamic.missing = Some("there is no kubeconfig (looked at /none)".into());
    }
    for accept in [BROWSER, "application/json", "*/*"] {
        let text = get(&gate, "localhost", "/", accept).await.text();
        assert!(text.contains("there is no kubeconfig (looked at /none)"), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_answered_with_near_ones_and_the_index_below() {
    let gate = gate().await;
    let answer = get(&gate, "ap.localhost:8989", "/", BROWSER).await;
    let page = answer.text();
    assert_eq!((answer.status, answer.header("x-adit-error")), (404, Some("unknown_host")));
    assert!(page.contains("Did you mean app.localhost?") && page.contains("<h2>Routes</h2>"), "{page}");
    let value: serde_json::Value =
        serde_json::from_slice(&get(&gate, "ap.localhost", "/", "application/json").await.body).unwrap();
    assert_eq!(value["error"]["code"], "unknown_host");
    assert_eq!(value["error"]["near"][0], "app.localhost");
    assert_eq!(value["error"]["known"]["routes"][0]["host"], "app.localhost");
    // On a terminal it is what was asked for, and where the rest is.
    assert_eq!(
        get(&gate, "ap.localhost:8989", "/", "*/*").await.text(),
        "404 No route has the host ap.localhost.\nhint: Did you mean app.localhost?\nnear: app.localhost\n\
         all there is: http://localhost:8989/\n"
    );
    assert_eq!(gate.errors("unknown_host"), 3);
}

#[tokio::test]
async fn links_have_the_gateways_port_when_the_host_was_written_by_hand_without_one() {
    let gate = gate().await;
    let index = format!("all there is: http://localhost:{}/\n", gate.addr.port());
    let text = get(&gate, "ap.localhost", "/", "*/*").await.text();
    assert!(text.ends_with(&index), "{text}");
    // A proxy has a port of its own, and a name of the web leads to the usual one.
    let headers = [("X-Forwarded-For", "127.0.0.1")];
    let proxied = raw::request(gate.addr, "GET", "ap.localhost", "/", &headers, b"").await.unwrap().text();
    assert!(proxied.ends_with("all there is: http://localhost/\n"), "{proxied}");
    let named = get(&gate, "ap.our.test", "/", "*/*").await.text();
    assert!(named.ends_with("all there is: http://localhost/\n"), "{named}");
}

#[tokio::test]
async fn below_an_error_are_not_hundreds_of_routes_but_where_they_are() {
    let gate = gate().await;
    {
        let mut listing = gate.routes.listing.lock().unwrap();
        let one = listing.routes[0].clone();
        listing.routes = (0..100).map(|n| RouteEntry { host: format!("r{n}.localhost"), ..one.clone() }).collect();
    }
    let page = get(&gate, "ap.localhost:8989", "/", BROWSER).await.text();
    assert!(page.contains("<a href=\"http://localhost:8989/\">Index</a>") && !page.contains("r99."), "{page}");
    let json = get(&gate, "ap.localhost:8989", "/", "application/json").await;
    let value: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!((&value["error"]["index"], &value["error"]["known"]), (&"http://localhost:8989/".into(), &().into()));
}

#[tokio::test]
async fn a_strangers_name_that_points_here_is_told_nothing_of_what_there_is() {
    let gate = gate().await;
    for accept in [BROWSER, "application/json", "*/*"] {
        let answer = get(&gate, "rebound.example.com:8989", "/", accept).await;
        assert_eq!(answer.status, 404);
        let text = answer.text();
        assert!(!text.contains("app.localhost") && !text.contains("k8s://"), "{text}");
    }
    // The lookup knows which other names are not a stranger's.
    assert!(get(&gate, "ap.our.test", "/", "*/*").await.text().contains("near: app.localhost"));
}

#[tokio::test]
async fn a_host_where_a_service_may_have_pages_is_told_near_ones_and_not_the_index() {
    let gate = gate().await;
    for accept in [BROWSER, "application/json", "*/*"] {
        let text = get(&gate, "gone.served.localhost:8989", "/", accept).await.text();
        assert!(text.contains("app.localhost") && !text.contains("k8s://"), "{text}");
    }
}

#[tokio::test]
async fn what_the_lookup_refuses_is_told_with_its_reason() {
    let gate = gate().await;
    let (reason, hint) = ("the context prod is not in gateway.allow".to_owned(), Some("add it there".to_owned()));
    gate.found("no.localhost", Found::Refused { reason: reason.clone(), hint: hint.clone() });
    gate.found("off.localhost", Found::Failed { reason: "no pod is ready".into(), hint: None });
    gate.found(
        "odd.localhost",
        Found::Unknown { near: Vec::new(), reason: Some("it has no context".into()), hint: Some("write it".into()) },
    );
    let answer = get(&gate, "no.localhost", "/", "*/*").await;
    assert_eq!((answer.status, answer.header("x-adit-error")), (403, Some("not_allowed")));
    assert_eq!(answer.text(), "403 The context prod is not in gateway.allow.\nhint: Add it there.\n");
    let answer = get(&gate, "off.localhost", "/", "*/*").await;
    assert_eq!((answer.status, answer.text().as_str()), (502, "502 No pod is ready.\n"));
    let page = get(&gate, "off.localhost:8989", "/", BROWSER).await.text();
    assert!(page.contains("<a href=\"http://localhost:8989/\">Index</a>"), "{page}");
    let page = get(&gate, "no.localhost:8989", "/", BROWSER).await.text();
    assert!(!page.contains("Index"), "{page}");
    let answer = get(&gate, "odd.localhost", "/", "*/*").await;
    assert!(
        answer.text().starts_with("404 The host odd.localhost leads nowhere: it has no context.\nhint: Write it.\n")
    );
}

#[tokio::test]
async fn over_tls_a_request_for_another_name_than_the_handshakes_is_sent_elsewhere() {
    let gate = gate().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let site = std::sync::Arc::new(Site::new(std::sync::Arc::clone(&gate.routes) as _));
    let scope = gate.scope.clone();
    gate.scope.spawn("accept", async move {
        let (tcp, peer) = listener.accept().await.unwrap();
        let arrival = Arrival { peer, local: addr, scheme: Scheme::Https, sni: Some("one.localhost".into()) };
        serve(tcp, arrival, site, scope).await;
    });
    let mut client = Client::new(TcpStream::connect(addr).await.unwrap());
    let answer = client.get("app.localhost", "/").await.unwrap();
    assert_eq!((answer.status, answer.header("x-adit-error")), (421, Some("misdirected_request")));
    assert_eq!(client.get("one.localhost", "/").await.unwrap().status, 404);
}

#[tokio::test]
async fn the_services_of_a_context_are_not_told_to_what_another_site_opens_and_its_user_gets_a_link() {
    let gate = gate().await;
    let ask = async |site: &str| {
        let headers = [("Accept", BROWSER), ("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "navigate")];
        raw::request(gate.addr, "GET", "localhost:8989", "/-/contexts/fake", &headers, b"").await.unwrap()
    };
    for site in ["cross-site", "same-site"] {
        let answer = ask(site).await;
        assert_eq!((answer.status, answer.header("x-adit-error")), (403, Some("not_allowed")), "{site}");
        assert!(answer.text().contains("<a href=\"http://localhost:8989/-/contexts/fake\">"), "{}", answer.text());
    }
    for site in ["none", "same-origin"] {
        assert_eq!(ask(site).await.status, 404, "{site}: asked for, and nobody knows of contexts here");
    }
}

#[tokio::test]
async fn what_went_wrong_last_stands_beside_the_state_in_every_form() {
    let gate = gate().await;
    let (at, since) = (timestamp::from_unix(1_764_234_060), timestamp::from_unix(1_764_234_000));
    {
        let mut listing = gate.routes.listing.lock().unwrap();
        let routes = &mut listing.routes;
        routes[0].state = State::Failing;
        routes[0].last_error = Some(LastError { at, text: "<nobody> answers".into(), since: Some(since) });
        routes[1].last_error = Some(LastError { at, text: "No pod is ready.".into(), since: Some(at) });
        routes[2].last_error = Some(LastError { at, text: "it was slow".into(), since: None });
    }
    let (at, since) = ("2025-11-27T09:01:00Z", "2025-11-27T09:00:00Z");
    let page = get(&gate, "localhost", "/", BROWSER).await.text();
    assert!(
        page.contains(&format!("failing</span><div class=\"note\">since {since}, last at {at}: &lt;nobody&gt;")),
        "{page}"
    );
    let text = get(&gate, "localhost", "/", "text/plain").await.text();
    assert!(text.contains(&format!("(failing; since {since}, last at {at}: <nobody> answers)")), "{text}");
    assert!(text.contains(&format!("(idle; last error at {at}: it was slow)")), "{text}");
    let all: serde_json::Value = serde_json::from_str(&get(&gate, "localhost", "/.json", "*/*").await.text()).unwrap();
    assert_eq!(all["routes"][0]["state"], "failing");
    assert_eq!(
        all["routes"][0]["last_error"],
        serde_json::json!({
            "at": "2025-11-27T09:01:00.000Z", "since": "2025-11-27T09:00:00.000Z", "text": "<nobody> answers"
        })
    );
    assert_eq!(all["routes"][3]["last_error"], serde_json::Value::Null);
    // The same thing is said once.
    assert!(text.contains(&format!("(failed; since {at}: No pod is ready.)")), "{text}");
    assert!(!page.contains("no pod is ready"), "{page}");
}
