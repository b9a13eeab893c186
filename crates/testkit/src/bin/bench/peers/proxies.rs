//! nginx and HAProxy in front of the origin, without a tunnel: what one hop costs at the least.

use std::fs;
use std::process::Command;

use testkit::process::Process;

use super::{Missing, Peer, free_addr};
use crate::service::Origin;

/// What HAProxy can hold with two descriptors a stream where 20,000 are the hard limit.
pub(crate) const HAPROXY_STREAMS: usize = 9750;

/// HAProxy as a TCP or an HTTP proxy; the TCP service is carried either way.
pub(super) fn haproxy(origin: &Origin, tcp: bool) -> Result<Peer, Missing> {
    let dir = tempfile::tempdir()?;
    let (web, raw) = (free_addr()?, free_addr()?);
    let mode = if tcp { "mode tcp" } else { "mode http\n  http-reuse always" };
    let config = format!(
        "global\n  nbthread 2\n  maxconn 9800\ndefaults\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         listen web\n  bind {web}\n  {mode}\n  server origin {}\nlisten raw\n  bind {raw}\n  mode tcp\n  server origin {}\n",
        origin.http, origin.tcp
    );
    let file = dir.path().join("haproxy.cfg");
    fs::write(&file, config)?;
    let process = Process::start(Command::new("haproxy").args(["-db", "-f"]).arg(&file))?;
    let name = if tcp { "haproxy-tcp" } else { "haproxy-http" };
    Ok(Peer::of(name, web, tcp.then_some(raw), vec![process], dir))
}

/// nginx as an HTTP proxy with kept-alive connections to the origin.
pub(super) fn nginx(origin: &Origin) -> Result<Peer, Missing> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().display();
    let web = free_addr()?;
    // Workers of a master run by root become another user, who may not enter the directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "{user} worker_processes 2; daemon off; pid {path}/nginx.pid; error_log {path}/error.log; worker_rlimit_nofile 40000;
         events {{ worker_connections 20000; }}
         http {{
           access_log off; client_max_body_size 0; keepalive_requests 1000000000; tcp_nodelay on;
           client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
           upstream origin {{ server {}; keepalive 256; keepalive_requests 1000000000; }}
           server {{
             listen {web} backlog=4096;
             location / {{
               proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_request_buffering off;
               proxy_max_temp_file_size 0;
             }}
           }}
         }}\n",
        origin.http
    );
    let file = dir.path().join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-e").arg(dir.path().join("error.log")).arg("-c").arg(&file);
    let process = Process::start(&mut command)?;
    Ok(Peer::of("nginx-http", web, None, vec![process], dir))
}
