//! Bytes that wait for room on the other side.

/// A small queue of bytes.
#[derive(Debug, Default)]
pub struct Waiting {
    bytes: Vec<u8>,
    gone: usize,
}

impl Waiting {
    /// What waits.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Adds to what waits.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// So many bytes are through. An empty queue keeps no memory.
    pub fn advance(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Everything that waits.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let Self { mut bytes, gone } = std::mem::take(self);
        bytes.drain(..gone);
        bytes
    }
}

impl From<Vec<u8>> for Waiting {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, gone: 0 }
    }
}
