//! Redis: `AUTH` when there is a password, then `PING`.

use adit_core::config::forwards::RedisProbe;
use adit_core::secret::Secret;

use super::wire::{Wire, shown};
use super::{Asking, ProbeError, password};

/// An answer is one short line.
const LINE_MAX: usize = 1024;

pub(super) async fn ask(asking: &Asking<'_>, probe: &RedisProbe) -> Result<String, ProbeError> {
    let password = password(&probe.login).await?;
    let mut wire = asking.wire(probe.tls.as_ref(), "Redis").await?;
    if let Some(password) = &password {
        wire.begin("logging in");
        let user = probe.login.user.as_ref().map(|user| user.as_bytes());
        let words: Vec<&[u8]> = [&b"AUTH"[..]].into_iter().chain(user).chain([password.expose().as_bytes()]).collect();
        wire.send(&command(&words)).await?;
        answer(&mut wire, Some(password)).await??;
    }
    wire.begin("waiting for its answer to PING");
    wire.send(&command(&[b"PING"])).await?;
    match answer(&mut wire, password.as_ref()).await? {
        Ok(pong) if pong == "PONG" => Ok("PONG".to_owned()),
        Ok(other) => Err(wire.puzzled(format!("`{other}` to PING")).await),
        // Who has no password does not want to know more.
        Err(ProbeError::Refused { message }) if password.is_none() && message.starts_with("NOAUTH") => {
            Ok("it asks for a password".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// A line of status; inside, what the server refuses.
async fn answer(
    wire: &mut Wire<'_>,
    password: Option<&Secret<String>>,
) -> Result<Result<String, ProbeError>, ProbeError> {
    let kind = wire.byte().await?;
    if !matches!(kind, b'+' | b'-') {
        return Err(wire.puzzled("neither a status nor an error").await);
    }
    let line = wire.line(LINE_MAX).await?;
    let text = shown(&line, &[password]);
    Ok(if kind == b'+' { Ok(text) } else { Err(ProbeError::Refused { message: text }) })
}

/// An array of byte strings.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_hold_any_bytes() {
        assert_eq!(command(&[b"AUTH", b"a\r\n b"]), b"*2\r\n$4\r\nAUTH\r\n$5\r\na\r\n b\r\n");
    }
}
