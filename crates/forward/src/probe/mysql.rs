//! MySQL and MariaDB: the server's greeting.
//!
//! A connection that ends at the greeting is counted by the server as a broken one, and after a hundred of them it blocks
//! the host. So the greeting is answered with a login of nobody, which the server refuses in good order.

use super::wire::{Wire, shown};
use super::{Asking, ProbeError};

const WANTED: &str = "MySQL";
/// A greeting has some eighty bytes, an error a line of text.
const PACKET_MAX: usize = 4096;
/// Who asks: nobody, by a name that tells whose logins these are.
const NOBODY: &[u8] = b"adit-probe";

/// Capabilities: long password flag, protocol 4.1, secure connection, plugin auth.
const CAPABILITIES: u32 = 0x0000_0001 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000;

pub(super) async fn ask(asking: &Asking<'_>) -> Result<String, ProbeError> {
    let mut wire = asking.wire(None, WANTED).await?;
    wire.begin("waiting for its greeting");
    let (_, greeting) = packet(&mut wire).await?;
    let version = match greeting.split_first() {
        Some((0x0a, rest)) => rest.iter().position(|byte| *byte == 0).map(|end| shown(&rest[..end], &[])),
        Some((0xff, rest)) => return Err(refused(rest)),
        _ => None,
    };
    let Some(version) = version else {
        return Err(wire.puzzled("no greeting").await);
    };
    wire.begin("ending in good order");
    wire.send(&login()).await?;
    // Whatever is said to nobody, the server answers.
    match packet(&mut wire).await {
        Ok((sequence, answer)) if answer.first() == Some(&0xfe) => {
            // It wants another kind of password; an empty one is as good.
            wire.send(&[0, 0, 0, sequence.wrapping_add(1)]).await?;
            let _ = packet(&mut wire).await;
        }
        Ok((_, answer)) if answer.first() == Some(&0x00) => wire.send(&[1, 0, 0, 0, 0x01]).await?,
        Ok(_) | Err(_) => {}
    }
    Ok(version)
}

/// A packet with its number.
async fn packet(wire: &mut Wire<'_>) -> Result<(u8, Vec<u8>), ProbeError> {
    let [a, b, c, sequence] = wire.array::<4>().await?;
    let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    if length == 0 || length > PACKET_MAX {
        return Err(wire.puzzled(format!("a packet of {length} bytes")).await);
    }
    Ok((sequence, wire.bytes(length).await?))
}

/// Code and text, perhaps with a state between them.
fn refused(rest: &[u8]) -> ProbeError {
    let (code, text) = rest.split_at_checked(2).unwrap_or((&[0, 0], rest));
    let code = u16::from_le_bytes([code[0], code[1]]);
    let text = match text {
        [b'#', _, _, _, _, _, text @ ..] => text,
        text => text,
    };
    ProbeError::Refused { message: format!("{} (error {code})", shown(text, &[])) }
}

/// The login of nobody, without a password.
fn login() -> Vec<u8> {
    let mut body = CAPABILITIES.to_le_bytes().to_vec();
    body.extend_from_slice(&0x0100_0000_u32.to_le_bytes());
    // utf8mb4, then room that is kept free.
    body.push(45);
    body.extend_from_slice(&[0; 23]);
    body.extend_from_slice(NOBODY);
    // The end of the name, and the length of no password.
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(b"mysql_native_password\0");
    let length = u8::try_from(body.len()).unwrap_or_default();
    [&[length, 0, 0, 1][..], &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_code() {
        let blocked = b"\x69\x04Host '10.0.0.1' is blocked";
        assert_eq!(refused(blocked).to_string(), "Host '10.0.0.1' is blocked (error 1129)");
        let many = b"\x10\x04#08004Too many connections";
        assert_eq!(refused(many).to_string(), "Too many connections (error 1040)");
        assert_eq!(refused(b"").to_string(), " (error 0)");
    }

    #[test]
    fn the_login_of_nobody_fits_one_packet() {
        let login = login();
        assert_eq!(usize::from(login[0]), login.len() - 4);
    }
}
