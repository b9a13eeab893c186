//! A broker that knows versions, logins and its cluster.

use std::sync::Arc;

use testkit::cert::TestCa;
use testkit::kafka::{KafkaBroker, KafkaOptions};
use testkit::servers::LibrdKafka;

use super::{bad, good};

#[tokio::test]
async fn the_brokers_of_librdkafka_tell_their_cluster() {
    let cluster = LibrdKafka::start(3).await;
    assert_eq!(good("type: kafka", cluster.addr()).await, "3 brokers");
    let said = bad("type: kafka, user: app, password: hunter2", cluster.addr()).await;
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn an_open_broker_tells_its_cluster() {
    let broker = KafkaBroker::start(KafkaOptions::default()).await.unwrap();
    assert_eq!(good("type: kafka", broker.addr()).await, "3 brokers");
    assert_eq!(broker.told(), 1);
    let empty = KafkaBroker::start(KafkaOptions { brokers: 0, ..KafkaOptions::default() }).await.unwrap();
    assert_eq!(bad("type: kafka", empty.addr()).await, "the cluster has no broker");
}

#[tokio::test]
async fn each_login_works_and_no_refusal_repeats_the_password() {
    for (mechanism, word) in
        [("PLAIN", "plain"), ("SCRAM-SHA-256", "scram-sha-256"), ("SCRAM-SHA-512", "scram-sha-512")]
    {
        let login = Some((mechanism, "app", "hunter2"));
        let broker = KafkaBroker::start(KafkaOptions { login, ..KafkaOptions::default() }).await.unwrap();
        let with = |password: &str| format!("type: kafka, user: app, password: {password}, mechanism: {word}");
        assert_eq!(good(&with("hunter2"), broker.addr()).await, "3 brokers", "{mechanism}");
        let said = bad(&with("hunter3"), broker.addr()).await;
        assert!(said.starts_with("the login was refused: Authentication failed"), "{said}");
        assert!(said.ends_with("(error 58)") && !said.contains("hunter3"), "{said}");
        let said = bad("type: kafka", broker.addr()).await;
        assert_eq!(said, "the connection was closed while asking for the cluster");
    }
}

#[tokio::test]
async fn another_mechanism_is_told_with_those_it_knows() {
    let login = Some(("SCRAM-SHA-512", "app", "hunter2"));
    let broker = KafkaBroker::start(KafkaOptions { login, ..KafkaOptions::default() }).await.unwrap();
    let said = bad("type: kafka, user: app, password: hunter2", broker.addr()).await;
    assert_eq!(said, "it knows no login by PLAIN (it knows SCRAM-SHA-512)");
}

#[tokio::test]
async fn a_broker_that_does_not_know_the_password_proves_nothing() {
    let login = Some(("SCRAM-SHA-256", "app", "hunter2"));
    let broker = KafkaBroker::start(KafkaOptions { login, lies: true, ..KafkaOptions::default() }).await.unwrap();
    let said = bad("type: kafka, user: app, password: hunter2, mechanism: scram-sha-256", broker.addr()).await;
    assert_eq!(said, "the broker did not prove that it knows the password");
}

#[tokio::test]
async fn it_is_spoken_over_tls() {
    let ca = TestCa::new().unwrap();
    let tls = Some(Arc::new(ca.leaf("kafka", &["kafka.internal"]).unwrap().server(&[]).unwrap()));
    let login = Some(("PLAIN", "app", "hunter2"));
    let broker = KafkaBroker::start(KafkaOptions { tls, login, ..KafkaOptions::default() }).await.unwrap();
    let with = |tls: &str| format!("type: kafka, user: app, password: hunter2, {tls}");
    let trusted = with(&format!("server_name: kafka.internal, ca: {}", ca.path().display()));
    assert_eq!(good(&trusted, broker.addr()).await, "3 brokers");
    assert_eq!(good(&with("tls: yes, verify: no"), broker.addr()).await, "3 brokers");
    let said = bad(&with(&format!("ca: {}", ca.path().display())), broker.addr()).await;
    assert!(said.starts_with("tls failed") && said.contains("certificate"), "{said}");
    let said = bad("type: kafka", broker.addr()).await;
    assert_eq!(said, "it answers TLS, not Kafka");
}
