//! Port-forward over WebSocket channels (`v4.channel.k8s.io`), as kubelet does it: channel `2 i` carries the data of
//! the i-th port, channel `2 i + 1` its errors.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncRead;

use super::StreamTarget;
use super::fate::{Fate, Fates, Pod};
use super::faults::What;
use super::inbox::Inbox;
use super::intake::Messages;
use super::link::{FRAME, Link};
use super::port_forward::{both, dial};
use crate::cluster::Shared;
use crate::task::Group;

/// Serves a connection until the client ends it or all ports have ended.
pub(super) async fn serve<R: AsyncRead + Unpin>(
    mut messages: Messages<R>,
    shared: &Arc<Shared>,
    target: &Arc<StreamTarget>,
    link: &Arc<Link>,
    ports: &[u16],
) -> io::Result<()> {
    let pod = Arc::new(Pod::new(shared, target));
    let fates = Fates::default();
    let mut follow = std::pin::pin!(fates.follow(Arc::clone(&pod)));
    let mut tasks = Group::new();
    let mut inboxes = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let data = u8::try_from(index * 2).map_err(io::Error::other)?;
        link.message(data, &port.to_le_bytes());
        link.message(data + 1, &port.to_le_bytes());
        let inbox = Arc::new(Inbox::default());
        inboxes.push(Arc::clone(&inbox));
        let (shared, link, pod) = (Arc::clone(shared), Arc::clone(link), Arc::clone(&pod));
        let port = Port { shared, link, fate: fates.of(&pod), pod, inbox, data, port: *port };
        tasks.spawn(port.run());
    }
    loop {
        tokio::select! {
            biased;
            message = messages.next() => {
                let Some((channel, bytes)) = message? else { return Ok(()) };
                let inbox = inboxes.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
                if let Some(inbox) = inbox && !inbox.push(bytes) {
                    inbox.room().await;
                }
            }
            ended = tasks.next() => if ended.is_none() { return Ok(()) },
            () = &mut follow => {}
        }
    }
}

/// One forwarded port.
struct Port {
    shared: Arc<Shared>,
    link: Arc<Link>,
    pod: Arc<Pod>,
    fate: Fate,
    inbox: Arc<Inbox>,
    data: u8,
    port: u16,
}

impl Port {
    async fn run(self) {
        let _open = self.shared.faults.streams.counts.open(What::Stream);
        if let Err(text) = self.forward().await {
            self.link.message(self.data + 1, self.pod.forwarding_failed(self.port, &text).as_bytes());
        }
        self.inbox.close();
    }

    async fn forward(&self) -> Result<(), String> {
        if let Some(text) = self.shared.faults.streams.error() {
            return Err(text);
        }
        let socket = Arc::new(dial(&self.shared, &self.pod, self.port).await?);
        let reading = Arc::clone(&socket);
        let down = async {
            let mut buffer = vec![0; FRAME];
            loop {
                reading.readable().await?;
                self.link.room().await?;
                match reading.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(length) => self.link.message(self.data, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let wait = self.shared.options.half_close_wait;
        both(down, self.inbox.drain(&socket), self.fate.clone().ended(), wait)
            .await
            .map_err(|error| self.pod.copy_failed(&socket, self.port, &error))
    }
}
