//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use testkit::cluster::{AuthMode, ClusterOptions, ServerVersion};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) version: ServerVersion,
    pub(crate) prefix: Option<String>,
    pub(crate) auth: AuthMode,
    pub(crate) backends: Vec<Backend>,
}

/// Something that runs already and is to be reached through a service or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) service: bool,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) addr: SocketAddr,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut words = arguments.iter().map(String::as_str);
        match words.next() {
            Some("cluster") => {}
            other => return Err(format!("unknown command {:?}: there is only `cluster`", other.unwrap_or(""))),
        }
        let mut options = Self {
            port: 0,
            kubeconfig: None,
            version: ServerVersion::V1_36,
            prefix: None,
            auth: AuthMode::random_token(),
            backends: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word {
                "--port" => options.port = value()?.parse().map_err(|_| "--port needs a number".to_owned())?,
                "--kubeconfig" => options.kubeconfig = Some(value()?.into()),
                "--version" => options.version = version(value()?)?,
                "--prefix" => options.prefix = Some(prefix(value()?)),
                "--auth" => options.auth = auth(value()?)?,
                "--backend" => options.backends.push(Backend::parse(value()?)?),
                _ => return Err(format!("unknown option {word}; see adit-testkit --help")),
            }
        }
        Ok(options)
    }

    pub(crate) fn cluster(&self) -> ClusterOptions {
        ClusterOptions {
            version: self.version,
            path_prefix: self.prefix.clone(),
            auth: self.auth.clone(),
            listen: (self.port != 0).then(|| SocketAddr::from(([127, 0, 0, 1], self.port))),
            ..ClusterOptions::default()
        }
    }
}

impl Backend {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("--backend {text}: expected [NAMESPACE/][svc/|pod/]NAME:PORT=ADDRESS:PORT");
        let (what, addr) = text.split_once('=').ok_or_else(wrong)?;
        let (what, port) = what.rsplit_once(':').ok_or_else(wrong)?;
        let kind = |word: &str| match word {
            "svc" | "service" => Some(true),
            "pod" => Some(false),
            _ => None,
        };
        let parts: Vec<&str> = what.split('/').collect();
        // The namespace may stand before the kind, as in a target of adit, or behind it.
        let (service, namespace, name) = match parts[..] {
            [name] => (true, "default", name),
            [first, name] => kind(first).map_or((true, first, name), |service| (service, "default", name)),
            [first, second, name] => match (kind(first), kind(second)) {
                (Some(service), None) => (service, second, name),
                (None, Some(service)) => (service, first, name),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(wrong());
        }
        if service && name.contains('.') {
            return Err(format!(
                "--backend {text}: `{name}` is no name of a service, which has no dots; for a host that a pod sees \
                 type `host POD {name}:{port} {addr}` while it runs"
            ));
        }
        Ok(Self {
            service,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: port.parse().map_err(|_| wrong())?,
            addr: addr.parse().map_err(|_| wrong())?,
        })
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { service, namespace, name, port, addr } = self;
        let kind = if *service { "svc" } else { "pod" };
        write!(f, "{kind}/{name}:{port} in the namespace {namespace} leads to {addr}")
    }
}

/// The page for `--help`.
pub(crate) fn help() -> String {
    "A Kubernetes cluster without Kubernetes, to try adit and kubectl on.

Usage: adit-testkit cluster [OPTIONS]

Options:
  --port N             listen on 127.0.0.1:N (default: a free port)
  --kubeconfig FILE    write the kubeconfig there (default: a file in the temporary directory)
  --version V          answer upgrades as 1.28, 1.31 or 1.36 does (default: 1.36)
  --prefix PATH        put a path before everything, as Rancher does: /k8s/clusters/c-x
  --auth MODE          token, cert, plugin, basic or none (default: token)
  --backend WHAT=ADDR  lead a service or pod to something that runs: svc/postgres:5432=127.0.0.1:5432;
                       WHAT is [NAMESPACE/][svc/|pod/]NAME:PORT, of the namespace default unless it says another

While it runs, type `help` for what can be made to go wrong."
        .to_owned()
}

fn version(text: &str) -> Result<ServerVersion, String> {
    match text.trim_start_matches('v') {
        "1.28" => Ok(ServerVersion::V1_28),
        "1.31" => Ok(ServerVersion::V1_31),
        "1.36" => Ok(ServerVersion::V1_36),
        _ => Err(format!("--version {text}: there are 1.28, 1.31 and 1.36")),
    }
}

fn prefix(text: &str) -> String {
    format!("/{}", text.trim_matches('/'))
}

fn auth(text: &str) -> Result<AuthMode, String> {
    match text {
        "token" => Ok(AuthMode::random_token()),
        "cert" => Ok(AuthMode::ClientCert),
        "plugin" => Ok(AuthMode::ExecPlugin { lifetime: Duration::from_secs(3600) }),
        "basic" => Ok(AuthMode::Basic { username: "fake".to_owned(), password: "secret".to_owned() }),
        "none" => Ok(AuthMode::None),
        _ => Err(format!("--auth {text}: there are token, cert, plugin, basic and none")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend, Options};

    fn parse(line: &str) -> Result<Options, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn a_backend_names_a_service_or_a_pod() {
        let backend = |text| Backend::parse(text).map(|backend| (backend.service, backend.namespace, backend.name));
        let some = |service, ns: &str, name: &str| Ok((service, ns.to_owned(), name.to_owned()));
        assert_eq!(backend("svc/postgres:5432=127.0.0.1:5432"), some(true, "default", "postgres"));
        assert_eq!(backend("redis:6379=127.0.0.1:6379"), some(true, "default", "redis"));
        assert_eq!(backend("pod/x/web:80=[::1]:8080"), some(false, "x", "web"));
        assert_eq!(backend("x/svc/web:80=[::1]:8080"), some(true, "x", "web"));
        assert_eq!(backend("svc/x/web:80=[::1]:8080"), some(true, "x", "web"));
        assert_eq!(backend("x/web:80=[::1]:8080"), some(true, "x", "web"));
        for wrong in ["a/b/web:80=127.0.0.1:1", "svc/pod/web:80=127.0.0.1:1", "/web:80=127.0.0.1:1"] {
            assert!(backend(wrong).is_err(), "{wrong}");
        }
        for wrong in ["postgres=127.0.0.1:5432", "postgres:5432", "postgres:5432=localhost"] {
            assert!(backend(wrong).is_err(), "{wrong}");
        }
        let host = backend("db.internal:5432=127.0.0.1:5432").unwrap_err();
        assert!(host.contains("type `host POD db.internal:5432 127.0.0.1:5432`"), "{host}");
        let shown = Backend::parse("redis:6379=127.0.0.1:7").unwrap().to_string();
        assert_eq!(shown, "svc/redis:6379 in the namespace default leads to 127.0.0.1:7");
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        let options = parse("cluster --port 7000 --version 1.28 --prefix k8s/clusters/c-x/").unwrap();
        assert_eq!((options.port, options.prefix.as_deref()), (7000, Some("/k8s/clusters/c-x")));
        assert_eq!(parse("cluster --port").unwrap_err(), "--port needs a value");
        assert!(parse("cluster --versoin 1.28").unwrap_err().contains("--versoin"));
        assert!(parse("server").is_err());
    }
}
