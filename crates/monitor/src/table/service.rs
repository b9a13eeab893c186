//! Kinds of services by their ports.

/// What a port is for, in a few words: a label with few values.
#[must_use]
pub const fn service(port: u16) -> &'static str {
    match port {
        22 => "ssh",
        25 | 465 | 587 => "smtp",
        53 | 853 => "dns",
        80 | 8080 => "http",
        443 | 8443 => "https",
        3306 => "mysql",
        5432 => "postgres",
        6379 => "redis",
        6443 => "kubernetes",
        9092 => "kafka",
        27017 => "mongodb",
        0..1024 => "system",
        1024..32768 => "registered",
        _ => "high",
    }
}
