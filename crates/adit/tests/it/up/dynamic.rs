//! Hosts that say themselves which service they mean.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use testkit::cert::TestCa;
use testkit::cluster::{PodSpec, ServicePort};
use testkit::origin::HttpOrigin;
use testkit::process::free_port;
use testkit::raw;

use super::support::{Bed, TlsOrigin, Up, gateway};

/// A second context of the same cluster, by a name no host can hold.
const AWKWARD: &str = "Team/eu:1@prod_x";

async fn up_with_context(bed: &Bed, context: &str, keys: &[&str]) -> Up {
    let second = bed.home.path().join("second");
    std::fs::write(&second, bed.cluster.kubeconfig_named(context, "other", "other")).expect("the second file");
    bed.write(&gateway(keys, &[]));
    let paths = [bed.home.path().join("kubeconfig"), second];
    let mut command = bed.command();
    Up::start(command.env("KUBECONFIG", std::env::join_paths(paths).expect("paths"))).await
}

#[tokio::test]
async fn a_pod_is_reached_by_its_number_and_by_its_ports_name() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    for port in ["8080", "http"] {
        let host = format!("web-1-{port}.pod.default.ns.fake.cx.k8s.localhost");
        assert_eq!(up.get(&host, "/").await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_context_with_dots_is_written_as_it_is() {
    let bed = Bed::start().await;
    let up = up_with_context(&bed, "dev.eu-1.example.com", &[]).await;
    assert_eq!(up.get("web-80.svc.default.ns.dev.eu-1.example.com.cx.k8s.localhost", "/").await.status, 200);
}

#[tokio::test]
async fn a_context_no_label_can_hold_is_reached_by_its_escape_and_by_its_alias() {
    let bed = Bed::start().await;
    let up = up_with_context(&bed, AWKWARD, &[&format!("aliases: {{ prod: \"{AWKWARD}\" }}")]).await;
    for label in ["0--54eam--2feu--3a1--40prod--5fx", "prod"] {
        let host = format!("web-80.svc.default.ns.{label}.cx.k8s.localhost");
        let answer = up.get(&host, "/").await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
    // The page of the context has both names, too.
    for label in ["0--54eam", "prod"] {
        let (status, list) = up.json("localhost", &format!("/-/contexts/{label}")).await;
        let is_known = label == "prod";
        assert_eq!((status == 200, list["context"] == AWKWARD), (is_known, is_known), "{label}: {list}");
    }
}

#[tokio::test]
async fn an_alias_wins_over_a_context_of_its_name() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["aliases: { nowhere: fake, fake: no-such-context }"], &[])).await;
    assert_eq!(up.get("web-80.svc.default.ns.nowhere.cx.k8s.localhost", "/").await.status, 200);
    let answer = up.get("web-80.svc.default.ns.fake.cx.k8s.localhost", "/").await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert!(answer.text().contains("no-such-context"), "{}", answer.text());
}

#[tokio::test]
async fn the_label_https_speaks_tls_to_the_service() {
    let bed = Bed::start().await;
    let ca = TestCa::new().unwrap();
    let origin = TlsOrigin::start(&ca.leaf("pod", &["pod"]).unwrap(), &["http/1.1"], bed.origin.addr()).await;
    bed.add_service("secure", 443, origin.address);
    let up = bed.up(&gateway(&[], &[])).await;
    let answer = up.get("secure-443.https.svc.default.ns.fake.cx.k8s.localhost", "/head").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().to_lowercase().contains("x-forwarded-proto: http\r\n"), "{}", answer.text());
    let answer = up.get("secure-443.svc.default.ns.fake.cx.k8s.localhost", "/").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_and_the_cluster_is_not_asked() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["allow: { contexts: [\"fa*\"], namespaces: [default, \"team-*\"] }"], &[])).await;
    for host in ["web-80.svc.kube-system.ns.fake.cx.k8s.localhost", "web-80.svc.default.ns.prod.cx.k8s.localhost"] {
        let answer = up.get(host, "/").await;
        assert_eq!(answer.status, 403, "{host}: {}", answer.text());
        assert!(answer.text().contains("gateway.allow"), "{}", answer.text());
    }
    assert_eq!(bed.cluster.requests().len(), 0);
    assert_eq!(up.get("web-80.svc.default.ns.fake.cx.k8s.localhost", "/").await.status, 200);
    let answer = up.get("web-80.svc.team-x.ns.fake.cx.k8s.localhost", "/").await;
    assert_eq!(answer.status, 404, "allowed, but not there: {}", answer.text());
}

#[tokio::test]
async fn a_name_against_the_grammar_is_a_404_that_says_how_names_are_made() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    for host in [
        "web.svc.default.ns.fake.cx.k8s.localhost",
        "web-80.deploy.default.ns.fake.cx.k8s.localhost",
        "web-99999.svc.default.ns.fake.cx.k8s.localhost",
        "web-80.svc.default.ns.a--ffb.cx.k8s.localhost",
    ] {
        let answer = up.get(host, "/").await;
        assert_eq!(answer.status, 404, "{host}: {}", answer.text());
        let text = answer.text();
        assert!(text.contains("{service}-{port}.svc.{namespace}.ns.{context}.cx."), "{host}: {text}");
    }
    assert_eq!(bed.cluster.requests().len(), 0);
}

#[tokio::test]
async fn a_mistyped_name_is_a_404_that_says_which_part_is_wrong_and_links_what_was_meant() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[&super::support::web()])).await;
    let meant = "web-80.svc.default.ns.fake.cx.k8s.localhost";
    for (host, wrong) in [
        ("web-80.svc.default.ns.fake.cx.k8.localhost", "it ends in `k8.localhost`, not in `k8s.localhost`"),
        ("web-80.svc.default.ns.fake.cx.localhost", "it ends in `localhost`"),
        ("web_80.svc.default.ns.fake.cx.k8s.localhost", "`_` cannot stand in a host name"),
        ("WEB_80.svc.default.ns.fake.cx.k8s.localhost.", "`_` cannot stand in a host name"),
        ("web-80-svc.default.ns.fake.cx.k8s.localhost", "a hyphen stands where a dot belongs"),
        ("web-80.svc..ns.fake.cx.k8s.localhost", "nothing between two of its dots"),
        ("web-80.scv.default.ns.fake.cx.k8s.localhost", "`scv` is neither `svc` nor `pod`"),
        ("web-80.svc.default.fake.cx.k8s.localhost", "`.ns` is missing"),
        ("web-80.svc.default.ns.cx.k8s.localhost", "it names no context"),
        ("web-80.scv.default.ns.fak.cx.k8s.localhost", "`scv` is neither"),
    ] {
        let answer = up.get(host, "/").await;
        let text = answer.text();
        assert_eq!((answer.status, answer.header("x-adit-error")), (404, Some("unknown_host")), "{host}: {text}");
        assert!(text.contains(wrong), "{host}: {text}");
        assert!(text.contains(&format!("hint: Did you mean {meant}?\n")), "{host}: {text}");
    }
    // What could be a stranger's is told nothing of what there is, and not how it ends (S14).
    for host in
        ["web-80.svc.default.ns.fake.cx.k8s", "web_80.svc.default.ns.fake.cx.evil.com", "a.b.ns.fak.cx.evil.com"]
    {
        for accept in ["*/*", "text/html", "application/json"] {
            let answer =
                raw::request(up.gateway(), "GET", &up.host(host), "/", &[("Accept", accept)], b"").await.unwrap();
            let text = answer.text();
            assert_eq!(answer.status, 404, "{host}: {text}");
            assert!(!text.contains("localhost") && !text.contains("Did you mean"), "{host}, {accept}: {text}");
        }
    }
    let host = up.host("web-443.htps.svc.default.ns.fake.cx.k8s.localhost");
    let page = raw::request(up.gateway(), "GET", &host, "/", &[("Accept", "text/html")], b"").await.unwrap().text();
    let link = format!("href=\"http://web-443.https.svc.default.ns.fake.cx.k8s.localhost:{}/\"", up.gateway().port());
    assert!(page.contains(&link) && page.contains("<code>htps</code> is not <code>https</code>"), "{page}");
    // What is no name of ours is as wrong as before.
    for host in ["web_80.localhost", "a..b", "-a.localhost", "web_80.svc.default.ns.<b>.cx.k8s.localhost"] {
        assert_eq!(up.get(host, "/").await.status, 400, "{host}");
    }
    assert_eq!(bed.cluster.requests().len(), 0);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_404_with_the_clusters_reason() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    let host = "wbe-80.svc.default.ns.fake.cx.k8s.localhost";
    let (status, page) = up.json(host, "/").await;
    assert_eq!((status, &page["error"]["code"]), (404, &"unknown_host".into()), "{page}");
    assert_eq!(page["error"]["near"][0], "web-80.svc.default.ns.fake.cx.k8s.localhost", "{page}");
    let text = page.to_string();
    assert!(text.contains("not found") && text.contains("Did you mean `web`?"), "{text}");
    let failed = up.event("failed").await;
    assert_eq!(failed["name"], host);
}

#[tokio::test]
async fn what_is_not_there_is_404_with_near_matches_and_what_cannot_be_reached_is_502() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    for (host, status, words) in [
        ("web-82.svc.default.ns.fake.cx.k8s.localhost", 404, "near: web-80.svc.default.ns.fake.cx.k8s.localhost"),
        ("web-80.svc.defautl.ns.fake.cx.k8s.localhost", 404, "near: web-80.svc.default.ns.fake.cx.k8s.localhost"),
        ("web-80.svc.default.ns.fak.cx.k8s.localhost", 404, "near: web-80.svc.default.ns.fake.cx.k8s.localhost"),
        ("web-2-8080.pod.default.ns.fake.cx.k8s.localhost", 404, "near: web-1-8080.pod.default.ns.fake.cx"),
        ("web-81.svc.default.ns.fake.cx.k8s.localhost", 502, "refused"),
    ] {
        let answer = up.get(host, "/").await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        assert!(answer.text().contains(words), "{host}: {}", answer.text());
    }
    let answer = up.get("localhost", "/-/contexts/fak").await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert!(answer.text().contains("/-/contexts/fake"), "{}", answer.text());
}

#[tokio::test]
async fn static_routes_win_over_dynamic_hosts() {
    let bed = Bed::start().await;
    let other = HttpOrigin::start().await.unwrap();
    let host = "web-80.svc.default.ns.fake.cx.k8s.localhost";
    let up = bed.up(&gateway(&[], &[&format!("{host}: {{ to: \"http://{}\" }}", other.addr())])).await;
    assert_eq!(up.get(host, "/").await.status, 200);
    assert_eq!((other.requests(), bed.origin.requests()), (1, 0));
}

#[tokio::test]
async fn another_suffix_and_none_at_all() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["dynamic_host: dev.test"], &[])).await;
    assert_eq!(up.get("web-80.svc.default.ns.fake.cx.dev.test", "/").await.status, 200);
    assert_eq!(up.get("web-80.svc.default.ns.fake.cx.k8s.localhost", "/").await.status, 404);
    up.reload(&bed, &gateway(&["dynamic_host: off"], &[])).await;
    assert_eq!(up.get("web-80.svc.default.ns.fake.cx.dev.test", "/").await.status, 404);
}

#[tokio::test]
async fn the_index_tells_what_was_asked_for_and_how_it_is() {
    let bed = Bed::start().await;
    let up =
        bed.up(&format!("forwards:\n  db: {{ to: \"tcp://127.0.0.1:9\", listen: 0 }}\n{}", gateway(&[], &[]))).await;
    let host = "web-80.svc.default.ns.fake.cx.k8s.localhost";
    assert_eq!(up.get(host, "/").await.status, 200);
    let (status, index) = up.json("localhost", "/").await;
    assert_eq!(status, 200);
    let route = index["routes"].as_array().unwrap().iter().find(|route| route["host"] == host).expect("the route");
    assert_eq!(route["state"], "ready", "{route}");
    assert_eq!(index["forwards"][0]["name"], "db", "{index}");
    let page = up.get("localhost", "/").await;
    assert!(page.text().contains(host), "{}", page.text());
    assert_eq!(up.get("localhost", "/other").await.status, 404);
}

#[tokio::test]
async fn names_with_hyphens_and_digits_are_split_at_the_port() {
    let bed = Bed::start().await;
    let ports = [ServicePort::new(80).to(8080)];
    bed.cluster.add_service("default", "my-shop-2", &[("app", "shop")], &ports);
    let pod = PodSpec::new("default", "my-shop-2-0").label("app", "shop").port("", 8080);
    bed.cluster.add_pod(pod.backend(8080, bed.origin.addr()));
    let up = bed.up(&gateway(&[], &[])).await;
    assert_eq!(up.get("my-shop-2-80.svc.default.ns.fake.cx.k8s.localhost", "/").await.status, 200);
    assert_eq!(up.get("my-shop-2-0-8080.pod.default.ns.fake.cx.k8s.localhost", "/").await.status, 200);
}

#[tokio::test]
async fn the_page_of_a_context_lists_its_services_with_the_host_of_each_port() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    let (_, index) = up.json("localhost", "/").await;
    let url = index["dynamic"]["contexts"][0]["services"].as_str().expect("a link").to_owned();
    assert_eq!(url, format!("http://localhost:{}/-/contexts/fake", up.gateway().port()));
    let (status, list) = up.json("localhost", "/-/contexts/fake").await;
    assert_eq!(status, 200, "{list}");
    let web = list["services"].as_array().unwrap().iter().find(|service| service["name"] == "web").expect("web");
    let host = web["ports"][0]["host"].as_str().expect("a host");
    assert_eq!(host, "web-80.svc.default.ns.fake.cx.k8s.localhost");
    assert_eq!(up.get(host, "/").await.status, 200);
    let text = up.get("localhost", "/-/contexts/fake").await.text();
    assert!(text.contains("default/web 80 (http)  http://web-80.svc."), "{text}");
    let localhost = up.host("localhost");
    let html = raw::request(up.gateway(), "GET", &localhost, "/-/contexts/fake", &[("Accept", "text/html")], b"");
    let html = html.await.unwrap().text();
    assert!(html.contains(&format!("<a href=\"http://{}/\">", up.host(host))), "{html}");
}

#[tokio::test]
async fn ports_that_speak_no_http_have_no_link_on_the_page_and_say_how_they_are_reached() {
    let bed = Bed::start().await;
    let ports = [ServicePort::new(5432).named("tcp-postgresql"), ServicePort::new(9187).named("http-metrics")];
    bed.cluster.add_service("default", "postgresql", &[("app", "db")], &ports);
    let up = bed.up(&gateway(&[], &[])).await;
    let target = "k8s://fake/default/service/postgresql:5432";
    let (_, list) = up.json("localhost", "/-/contexts/fake").await;
    let services = list["services"].as_array().unwrap();
    let ports = &services.iter().find(|service| service["name"] == "postgresql").expect("it")["ports"];
    assert_eq!((&ports[0]["url"], &ports[0]["speaks"]), (&serde_json::Value::Null, &"PostgreSQL".into()), "{ports}");
    assert_eq!(ports[0]["target"], target, "{ports}");
    assert!(ports[1]["url"].is_string() && ports[1]["speaks"].is_null(), "{ports}");
    let way = format!("PostgreSQL, not HTTP: a forward with {{ to: \"{target}\", listen: 5432 }}");
    let text = up.get("localhost", "/-/contexts/fake").await.text();
    assert!(text.contains(&way) && !text.contains("http://postgresql-5432."), "{text}");
    let accept = [("Accept", "text/html")];
    let html = raw::request(up.gateway(), "GET", &up.host("localhost"), "/-/contexts/fake", &accept, b"").await;
    let html = html.unwrap().text();
    assert!(html.contains("PostgreSQL, not HTTP") && !html.contains("href=\"http://postgresql-5432."), "{html}");
    assert!(html.contains("href=\"http://postgresql-9187."), "{html}");
}

#[tokio::test]
async fn only_this_machine_is_told_a_contexts_services_and_only_of_what_is_allowed() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["allow: { contexts: [\"fa*\"], namespaces: [other] }"], &[])).await;
    let (status, list) = up.json("localhost", "/-/contexts/fake").await;
    assert_eq!((status, list["services"].as_array().map(Vec::len)), (200, Some(0)), "{list}");
    let asked = bed.cluster.requests().len();
    assert_eq!(up.get("localhost", "/-/contexts/prod").await.status, 403);
    let cross = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")];
    let answer = raw::request(up.gateway(), "GET", &up.host("localhost"), "/-/contexts/fake", &cross, b"").await;
    assert_eq!(answer.unwrap().status, 403, "a picture on a stranger's page");
    assert_eq!(up.get("evil.example", "/-/contexts/fake").await.status, 404);
    assert_eq!(bed.cluster.requests().len(), asked, "the cluster was not asked");
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_an_answer_that_says_why_and_what_to_do() {
    let bed = Bed::start().await;
    let dead = std::fs::read_to_string(bed.home.path().join("kubeconfig")).unwrap();
    let port = dead.split("https://127.0.0.1:").nth(1).and_then(|rest| rest.split(['\n', '"', '/']).next()).unwrap();
    std::fs::write(bed.home.path().join("kubeconfig"), dead.replace(port.trim(), "1")).unwrap();
    let up = bed.up(&gateway(&[], &[])).await;
    let answer = up.get("localhost", "/-/contexts/fake").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("127.0.0.1:1") && answer.text().contains("hint: "), "{}", answer.text());
}

#[tokio::test]
async fn the_bare_dynamic_host_explains_the_names_and_links_the_contexts() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    let answer = up.get("k8s.localhost", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for text in ["{service}-{port}.svc.{namespace}.ns.{context}.cx.", "services of fake: http://localhost:"] {
        assert!(answer.text().contains(text), "{text}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_port_alone_as_by_default_answers_on_both_loopbacks() {
    let bed = Bed::start().await;
    let port = free_port().expect("a port");
    let up = bed.up(&format!("gateway: {{ listen: {port} }}")).await;
    let host = format!("web-80.svc.default.ns.fake.cx.k8s.localhost:{port}");
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        let answer = raw::get(address, &host, "/").await.expect("an answer");
        assert_eq!((answer.status, answer.text().contains("Hello, world!")), (200, true), "{address}");
        let index = raw::get(address, &address.to_string(), "/").await.expect("an answer");
        assert!(index.text().contains("services of fake"), "{address}: {}", index.text());
    }
    assert_eq!(up.count("gateway"), 2);
}

#[tokio::test]
async fn a_context_that_is_not_there_is_a_404_with_those_that_could_be_meant() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    let (status, page) = up.json("web-80.svc.default.ns.fkae.cx.k8s.localhost", "/").await;
    assert_eq!(status, 404, "{page}");
    assert_eq!(page["error"]["near"][0], "web-80.svc.default.ns.fake.cx.k8s.localhost", "{page}");
    // What resembles none is told some that there are; a stranger's page is told neither.
    let (status, page) = up.json("web-80.svc.default.ns.prod-eu.cx.k8s.localhost", "/").await;
    assert_eq!((status, &page["error"]["near"][0]), (404, &"web-80.svc.default.ns.fake.cx.k8s.localhost".into()));
    assert_eq!(bed.cluster.requests().len(), 0);
}

#[tokio::test]
async fn a_name_of_the_clusters_own_dns_and_one_without_a_port_are_told_what_to_type() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    for (host, words) in [
        ("web.default.svc.cluster.local", "web-PORT.svc.default.ns.CONTEXT.cx.k8s.localhost"),
        ("web.svc.default.ns.fake.cx.k8s.localhost", "web-PORT.svc.default.ns.fake.cx.k8s.localhost"),
    ] {
        let answer = up.get(host, "/").await;
        assert_eq!(answer.status, 404, "{host}");
        assert!(answer.text().contains(words), "{host}: {}", answer.text());
    }
}

#[tokio::test]
async fn what_was_mistyped_is_not_listed_and_its_error_page_leads_to_the_services() {
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&[], &[])).await;
    let host = "wbe-80.svc.default.ns.fake.cx.k8s.localhost";
    let answer = up.get(host, "/").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("services of fake: http://localhost:"), "{}", answer.text());
    let index = up.get("localhost", "/").await.text();
    assert!(!index.contains("wbe-80"), "{index}");
}

#[tokio::test]
async fn an_index_that_came_by_tls_links_by_tls_where_that_goes() {
    let bed = Bed::start().await;
    let keys = ["tls: local"];
    let up = bed.up(&gateway(&keys, &[&super::support::web()])).await;
    let config = testkit::cert::trust_anything(&["http/1.1"]);
    let mut client = raw::Client::connect_tls(up.gateway(), "localhost", config).await.unwrap();
    let page = client.get(&up.host("localhost"), "/").await.unwrap().text();
    assert!(page.contains(&format!("https://web.localhost:{}", up.gateway().port())), "{page}");
    assert!(page.contains(&format!("https://localhost:{}/-/contexts/fake", up.gateway().port())), "{page}");
}
