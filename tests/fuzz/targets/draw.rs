//! Choices made from an input, with a liking for the edges.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use arbitrary::Unstructured;
use stp_proto::handle::Handle;

/// An input read as choices. It never runs out: what follows its end is zeros.
pub struct Draw<'a>(Unstructured<'a>);

impl<'a> Draw<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub fn u16(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub fn u32(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// 0 to `count - 1`.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.int_in_range(0..=count - 1).unwrap_or_default()
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A position: at an edge as often as not.
    pub fn position(&mut self) -> u64 {
        let any: u64 = self.0.arbitrary().unwrap_or_default();
        match self.below(6) {
            0 => any % 100,
            1 => u64::MAX - any % 100,
            2 => 1 << (any % 64),
            3 => any % (1 << 32),
            _ => any,
        }
    }

    /// Two positions, the lower one first.
    pub fn span(&mut self) -> (u64, u64) {
        let (a, b) = (self.position(), self.position());
        (a.min(b), a.max(b))
    }

    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.below(max + 1).min(self.0.len());
        self.0.bytes(length).unwrap_or_default().to_vec()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.0.arbitrary().unwrap_or([0; N])
    }

    /// Text without control characters.
    pub fn text(&mut self, max: usize) -> String {
        let bytes = self.bytes(max);
        let text = String::from_utf8_lossy(&bytes);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        text[..text.floor_char_boundary(max)].to_owned()
    }

    /// Never [`Handle::NONE`].
    pub fn handle(&mut self) -> Handle {
        let mut bytes = self.array();
        bytes[15] |= 1;
        Handle(bytes)
    }

    pub fn ip(&mut self) -> IpAddr {
        match self.below(3) {
            0 => IpAddr::from(self.array::<4>()),
            1 => {
                let [a, b, c, d] = self.array();
                IpAddr::V6(std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped())
            }
            _ => IpAddr::from(self.array::<16>()),
        }
    }

    /// With a port, and without what no message carries.
    pub fn address(&mut self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.u16().max(1))
    }

    /// Also with a scope.
    pub fn scoped_address(&mut self) -> SocketAddr {
        if self.bool() {
            return SocketAddr::new(IpAddr::from(self.array::<4>()), self.u16());
        }
        let ip = Ipv6Addr::from(self.array::<16>());
        SocketAddrV6::new(ip, self.u16(), 0, self.u32()).into()
    }

    /// A label of a name.
    pub fn label(&mut self) -> String {
        const ENDS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let middle = self.bytes(61).into_iter().map(|byte| match byte {
            0..=31 => b'-',
            byte => ENDS[usize::from(byte) % ENDS.len()],
        });
        let mut label = vec![self.pick(ENDS)];
        label.extend(middle);
        label.push(self.pick(ENDS));
        String::from_utf8(label).expect("all of it is ASCII")
    }

    /// Labels with dots between them.
    pub fn labels(&mut self, max: usize) -> String {
        let labels: Vec<_> = (0..=self.below(max)).map(|_| self.label()).collect();
        labels.join(".")
    }
}
