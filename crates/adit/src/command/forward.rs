//! `adit forward`: ports of this machine that lead into a cluster, or anywhere else, for as long as it runs.

mod asked;
mod bind;
mod child;
mod cluster;
mod faults;
mod jump;
mod news;
mod serve;
mod show;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::{Global, on_runtime};
use crate::report::Failure;

/// Forward local ports to pods, services, and whatever else can be reached from there.
#[derive(Debug, Args)]
#[command(
    override_usage = "adit forward [OPTIONS] [TYPE/]NAME [LOCAL:]PORT... [-- CMD...]\n       \
                      adit forward [OPTIONS] URL [LOCAL] [-- CMD...]",
    after_help = "\
Examples:
  adit forward svc/web 8080:80              localhost:8080 leads to port 80 of the service
  adit forward deploy/api 8080:http 9090 -n shop
  adit forward -l app=web 8080:80           a ready pod with this label
  adit forward pod/db-0 :5432               any free local port
  adit forward jump://prod/default/deploy/api/db.internal:3306 13306
  adit forward ssh://me@bastion/db.internal:5432 15432
  adit forward svc/db 5432 -- psql -h 127.0.0.1 -U app

Takes the arguments of `kubectl port-forward` and prints the same lines, those about single
connections with -v only. The ports stay open until Ctrl-C: when a pod goes, new connections
go to the next one."
)]
pub(super) struct ForwardArguments {
    /// Where to, and its ports. TYPE: pod, svc, deploy, sts, rs, job. URL: k8s://…, jump://…, ssh://…, tcp://…. PORT: a number or a
    /// name. LOCAL: the same number if it is left out; empty for any free port
    #[arg(value_name = "TARGET PORT")]
    positional: Vec<String>,
    /// A command to run once all ports are ready; adit ends with it and with its exit code
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig file, or several with colons between them [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Addresses to listen on, with commas between them or repeated; localhost is 127.0.0.1 and ::1
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
    /// Labels that choose the pods, instead of TARGET
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// How long to wait for a pod that is ready at the start, such as 30s, 1m30s or a number of seconds
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pod_running_timeout: String,
    /// Each connection to another ready pod, instead of all to one
    #[arg(long)]
    balance: bool,
    /// If a local port is taken, use the nearest free one
    #[arg(long)]
    auto_port: bool,
    /// Ask before touching contexts that match; also kubernetes.protect in adit.yaml
    #[arg(long, value_name = "REGEX")]
    protect: Vec<String>,
    /// Touch protected contexts without asking
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    jump: jump::JumpArguments,
}

pub(super) fn run(global: &Global, arguments: ForwardArguments) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    global.start_logs(Some("warn"), false)?;
    let mut asked = asked::Asked::parse(&arguments)?;
    let clusters = cluster::open(global, &arguments, &mut asked)?;
    let held = bind::Plan::of(&arguments).hold_known(&asked)?;
    on_runtime(None, serve::serve(global, arguments, asked, &clusters, held, started))?
}

/// Reads a command line, for tests.
#[cfg(test)]
fn try_parse(arguments: &[&str]) -> Result<ForwardArguments, clap::Error> {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        forward: ForwardArguments,
    }
    Wrapper::try_parse_from(std::iter::once(&"forward").chain(arguments)).map(|wrapper| wrapper.forward)
}
