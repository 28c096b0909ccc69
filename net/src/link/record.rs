//! Sizes of a record of TLS 1.3.

/// The largest plaintext of one record.
pub const RECORD_MAX: usize = 16_384;
/// Type, version and length, before the ciphertext.
pub(super) const HEADER: usize = 5;
/// The longest record on the wire (RFC 8446, 5.2).
pub(super) const WIRE_MAX: usize = HEADER + RECORD_MAX + 256;
