//! The list of servers, sealed with the user's list key (STP 2): AES-256-GCM, a random nonce, the
//! ticket as what is authenticated besides. So a list belongs to its ticket and to nobody else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use stp_proto::lookup::{List, Server, decode_servers, encode_servers};

use crate::password::random;

/// The list cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list of servers does not open with this user's key, or is not the ticket's")]
pub struct NotOurs;

/// Seals a list that goes with `ticket`.
#[must_use]
pub fn seal(key: &[u8; 32], ticket: &[u8], servers: &List<Server>) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_LEN] = random();
    let mut body = encode_servers(servers).ok()?;
    cipher(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(ticket), &mut body)
        .ok()?;
    Some([&nonce[..], &body].concat())
}

/// Opens such a list.
pub fn open(key: &[u8; 32], ticket: &[u8], sealed: &[u8]) -> Result<List<Server>, NotOurs> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(NotOurs)?;
    let mut body = body.to_vec();
    let plain = cipher(key)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(ticket), &mut body)
        .map_err(|_| NotOurs)?;
    decode_servers(plain).map_err(|_| NotOurs)
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_opens_the_list_and_only_with_its_ticket() {
        let server = Server {
            name: "a".into(),
            addresses: vec!["192.0.2.1:4433".parse().expect("an address")].into(),
            key: [3; 32],
            hops: 2,
        };
        let list: List<Server> = vec![server].into();
        let sealed = seal(&[1; 32], b"ticket", &list).expect("a short list");
        assert_eq!(open(&[1; 32], b"ticket", &sealed), Ok(list));
        assert_eq!(open(&[2; 32], b"ticket", &sealed), Err(NotOurs));
        assert_eq!(open(&[1; 32], b"other", &sealed), Err(NotOurs));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(open(&[1; 32], b"ticket", &altered), Err(NotOurs), "byte {at}");
        }
        assert_eq!(open(&[1; 32], b"ticket", b""), Err(NotOurs));
    }
}
