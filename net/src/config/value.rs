//! Values that TOML has no type for: sizes, times, addresses.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A number of bytes: `"8MiB"`, `"64k"`, `"1GB"`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As a length in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Bytes a second: `"100MB/s"`, `"8MiB/s"`, `"800Mbit/s"`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

/// A length of time: `"72h"`, `"3s"`, `"250ms"`, `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// An IP address and port: `"192.0.2.1:4433"`, `"[2001:db8::1]:4433"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a size; write a number with B, KiB, MiB or GiB, such as \"8MiB\""
            )
        };
        let text = text.trim();
        // A letter alone means a power of two here, as in the configuration of nginx.
        let letter = text.ends_with(['k', 'K', 'm', 'M', 'g', 'G']);
        let size = if letter { bytes(&format!("{text}iB")) } else { bytes(text) };
        size.map(Self).ok_or_else(wrong)
    }
}

impl std::str::FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a rate; write \"100MB/s\", \"8MiB/s\" or \"800Mbit/s\"");
        let text = text.trim();
        let size = text.strip_suffix("/s").unwrap_or(text);
        match size.strip_suffix("bit") {
            Some(bits) => bytes(&format!("{bits}B")).map(|bits| Self(bits / 8)).ok_or_else(wrong),
            None => size.parse::<ByteSize>().map(|size| Self(size.0)).map_err(|_| wrong()),
        }
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| {
            format!(
                "{text:?} is not a time; write a number with ms, s, m, h or d, \
                 such as \"72h\" or \"1h30m\""
            )
        })
    }
}

/// A size as `bytesize` reads it; it gives the largest number there is for one that is too large.
fn bytes(text: &str) -> Option<u64> {
    let size = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
    (size < u64::MAX).then_some(size)
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "{text:?} is not an IP address with a port, \
                 such as \"192.0.2.1:4433\" or \"[2001:db8::1]:4433\""
            )
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a size such as \"8MiB\", or a number of bytes")]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Text(text) => text.parse().map_err(D::Error::custom),
            TextOrNumber::Number(bytes) => Ok(Self(bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextOrNumber::deserialize(deserializer)? {
            TextOrNumber::Text(text) => text.parse().map_err(D::Error::custom),
            TextOrNumber::Number(bytes) => Ok(Self(bytes)),
        }
    }
}

/// Any value that is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromText<T>(pub T);

impl<'de, T: std::str::FromStr> Deserialize<'de> for FromText<T>
where
    T::Err: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(FromText).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_limits() {
        for (text, bytes) in [
            ("8MiB", 8 << 20),
            ("8 MiB", 8 << 20),
            ("64k", 64 << 10),
            ("2G", 2 << 30),
            ("1GB", 1_000_000_000),
            ("1.5MiB", 3 << 19),
            ("5", 5),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "MiB", "-1", "8 furlongs", "99999999999GiB", "1.5.2MiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_of_bytes_or_bits() {
        for (text, bytes) in [
            ("100MB/s", 100_000_000),
            ("8MiB/s", 8 << 20),
            ("800Mbit/s", 100_000_000),
            ("1Gbit/s", 125_000_000),
            ("64kbit/s", 8_000),
            ("2.5Gbit/s", 312_500_000),
            ("5", 5),
        ] {
            assert_eq!(text.parse(), Ok(ByteRate(bytes)), "{text}");
        }
        for bad in ["", "/s", "fast", "8 furlongs/s", "99999999999Gbit/s", "1MB/h"] {
            assert!(bad.parse::<ByteRate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units_and_limits() {
        let seconds = |text: &str| text.parse::<Span>().map(|span| span.0.as_secs_f64());
        assert_eq!(seconds("72h"), Ok(259_200.0));
        assert_eq!(seconds("1h30m"), Ok(5_400.0));
        assert_eq!(seconds("250ms"), Ok(0.25));
        assert_eq!(seconds("1h 30min"), Ok(5_400.0));
        for bad in ["", "h", "3", "3 parsecs", "99999999999999999d", "-1s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
