//! What an app sends in TLS: records of any bytes, and records that were sealed but hold anything.

use stp_proto::replay::https::Exchange;
use stp_tls::reader::{Place, Reader};
use stp_tls::record::{HEADER, Kind, PLAIN_MAX, Sealer};
use stp_tls::secret::{Direction, Keys, Secret, Suite};

use super::{Draw, bounded};

/// A record and its plaintext are held, and the places where records begin.
const MEMORY_MAX: usize = 8 * (PLAIN_MAX + 256);

fn direction(suite: Suite) -> Direction {
    let secret = Secret::new(suite, &vec![7; suite.secret_length()]).expect("its length");
    Direction { secret, number: 0 }
}

fn reader(suite: Suite) -> Reader {
    Reader::new(Place { at: 0, skip: 0, direction: direction(suite) }, 0)
}

/// What of this stream is opened.
fn opened(reader: &mut Reader, stream: &[u8]) -> Vec<u8> {
    let (mut data, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let Ok((taken, _)) = reader.take(rest, &mut data) else { break };
        assert!(taken > 0, "it goes on");
        rest = &rest[taken..];
    }
    data
}

pub fn run(data: &[u8]) {
    let read = bounded(MEMORY_MAX, || opened(&mut reader(Suite::Aes128), data));
    assert!(read.is_empty(), "nobody but the app seals");
    let _ = Keys::from_bytes(data).map(|keys| assert_eq!(*keys.to_bytes(), *data));
    let _ = serde_json::from_slice::<Exchange>(data);
    let mut draw = Draw::new(data);
    let suite = draw.pick(&[Suite::Aes128, Suite::Aes256, Suite::ChaCha20]);
    let (mut sealer, mut stream, mut said) =
        (Sealer::new(direction(suite)), Vec::new(), Vec::new());
    // Good records, then one that may hold anything.
    while draw.bool() && !draw.is_empty() {
        let words = draw.bytes(40);
        stream.extend(sealer.message(Kind::Data, &words));
        said.extend_from_slice(&words);
        if draw.below(8) == 0 {
            stream.extend(sealer.message(Kind::Handshake, &[24, 0, 0, 1, draw.u8() & 1]));
            sealer.change();
        }
    }
    let mut reader = reader(suite);
    assert_eq!(opened(&mut reader, &stream), said);
    let covers = draw.below(said.len() + 1);
    let place = reader.place(covers as u64);
    let again = usize::try_from(place.at).expect("it is short");
    let mut other = Reader::new(place, covers as u64);
    assert_eq!(opened(&mut other, &stream[again..]), said[covers..]);
    let kind = draw.pick(&[Kind::Alert, Kind::Handshake, Kind::Data]);
    let mut last = vec![0; HEADER];
    last.extend(draw.bytes(60));
    sealer.seal(kind, &mut last);
    if draw.bool() {
        let at = draw.below(last.len());
        last[at] ^= 1 << draw.below(8);
    }
    bounded(MEMORY_MAX, || opened(&mut reader, &last));
}
