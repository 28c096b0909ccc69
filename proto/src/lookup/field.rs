//! How a field of a directory message is written: big endian, every length bounded, nothing left
//! over. One trait for all types, one macro that writes a struct's fields in their order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::MessageError;
use crate::name::Name;

/// Most bytes of a short text.
pub const TEXT_MAX: usize = 255;
/// Most bytes of a path.
pub const PATH_MAX: usize = 1_024;
/// Most bytes of an opaque field: a ticket or a sealed list.
pub const BYTES_MAX: usize = 6_000;
/// Most items of a list.
pub const LIST_MAX: usize = 64;

/// Reads fields off a message.
pub struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, name: &'static str) -> Result<&'a [u8], MessageError> {
        let (value, rest) = self.0.split_at_checked(count).ok_or(MessageError::Cut(name))?;
        self.0 = rest;
        Ok(value)
    }

    fn counted(&mut self, name: &'static str, max: usize) -> Result<&'a [u8], MessageError> {
        let length = usize::from(u16::read(self, name)?);
        if length > max {
            return Err(MessageError::BadValue(name));
        }
        self.take(length, name)
    }
}

/// Something that stands in a message.
pub trait Field: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes it off the front; `name` is for the error.
    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError>;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
                let bytes = from.take(size_of::<$type>(), name)?;
                Ok(<$type>::from_be_bytes(bytes.try_into().expect("as many as were taken")))
            }
        }
    )*};
}
integer!(u8, u16, u32, u64);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        match u8::read(from, name)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MessageError::BadValue(name)),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        Ok(from.take(N, name)?.try_into().expect("as many as were taken"))
    }
}

fn put_counted(bytes: &[u8], out: &mut Vec<u8>) {
    // A longer one makes the message too long, which `encode` reports.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    length.put(out);
    out.extend_from_slice(bytes);
}

fn text(bytes: &[u8], name: &'static str) -> Result<String, MessageError> {
    let text = core::str::from_utf8(bytes).map_err(|_| MessageError::BadValue(name))?;
    if text.chars().any(char::is_control) {
        return Err(MessageError::BadValue(name));
    }
    Ok(text.to_owned())
}

/// A short text without control characters.
impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_counted(&self.as_bytes()[..self.floor_char_boundary(TEXT_MAX)], out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        text(from.counted(name, TEXT_MAX)?, name)
    }
}

/// Opaque bytes.
impl Field for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        put_counted(self, out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        Ok(from.counted(name, BYTES_MAX)?.to_vec())
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        Ok(if bool::read(from, name)? { Some(T::read(from, name)?) } else { None })
    }
}

/// A list of at most [`LIST_MAX`] items.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T>(pub Vec<T>);

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> List<T> {
        List(items)
    }
}

impl<T> core::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Field> Field for List<T> {
    fn put(&self, out: &mut Vec<u8>) {
        let items = &self.0[..self.0.len().min(LIST_MAX)];
        u8::try_from(items.len()).expect("LIST_MAX fits").put(out);
        items.iter().for_each(|item| item.put(out));
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        let count = usize::from(u8::read(from, name)?);
        if count > LIST_MAX {
            return Err(MessageError::BadValue(name));
        }
        (0..count).map(|_| T::read(from, name)).collect::<Result<_, _>>().map(List)
    }
}

impl Field for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            IpAddr::V4(v4) => {
                out.push(4);
                v4.octets().put(out);
            }
            IpAddr::V6(v6) => {
                out.push(6);
                v6.octets().put(out);
            }
        }
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        Ok(match u8::read(from, name)? {
            4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::read(from, name)?)),
            6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::read(from, name)?)),
            _ => return Err(MessageError::BadValue(name)),
        })
    }
}

impl Field for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        self.ip().put(out);
        self.port().put(out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        let (ip, port) = (IpAddr::read(from, name)?, u16::read(from, name)?);
        if port == 0 {
            return Err(MessageError::BadValue(name));
        }
        Ok(SocketAddr::new(ip, port))
    }
}

impl Field for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_counted(self.as_str().as_bytes(), out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        String::read(from, name)?.parse().map_err(|_| MessageError::BadValue(name))
    }
}

/// An absolute path in a file service: `/a/b`, no empty, `.` or `..` parts, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FilePath(String);

impl FilePath {
    /// Checks a path.
    #[must_use]
    pub fn new(path: &str) -> Option<FilePath> {
        let parts = path.strip_prefix('/')?;
        let good = path.len() <= PATH_MAX
            && !path.chars().any(char::is_control)
            && parts.split('/').all(|part| !matches!(part, "" | "." | ".."));
        good.then(|| FilePath(path.to_owned()))
    }

    /// The path below the root `tree`, itself a path or `/`.
    #[must_use]
    pub fn below(&self, tree: &str) -> Option<FilePath> {
        FilePath::new(&format!("{}{}", tree.trim_end_matches('/'), self.0))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Field for FilePath {
    fn put(&self, out: &mut Vec<u8>) {
        put_counted(self.0.as_bytes(), out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        let path = text(from.counted(name, PATH_MAX)?, name)?;
        FilePath::new(&path).ok_or(MessageError::BadValue(name))
    }
}

/// Defines a struct whose fields stand in a message in their order.
macro_rules! record {
    ($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $crate::lookup::field::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::lookup::field::Field::put(&self.$field, out);)*
            }

            fn read(
                from: &mut $crate::lookup::field::Reader<'_>,
                _name: &'static str,
            ) -> Result<Self, $crate::lookup::MessageError> {
                Ok($name {
                    $($field: $crate::lookup::field::Field::read(from, stringify!($field))?,)*
                })
            }
        }
    };
}

/// Defines an enum of such structs; the number before each is what stands on the wire.
macro_rules! choice {
    ($(#[$doc:meta])* pub enum $name:ident {
        $($(#[$variant_doc:meta])* $tag:literal => $variant:ident($type:ty),)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant($type),)* }

        impl $crate::lookup::field::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant(body) => {
                        out.push($tag);
                        $crate::lookup::field::Field::put(body, out);
                    })*
                }
            }

            fn read(
                from: &mut $crate::lookup::field::Reader<'_>,
                name: &'static str,
            ) -> Result<Self, $crate::lookup::MessageError> {
                let kind: u8 = $crate::lookup::field::Field::read(from, name)?;
                match kind {
                    $($tag => {
                        let body = $crate::lookup::field::Field::read(from, name)?;
                        Ok($name::$variant(body))
                    })*
                    _ => Err($crate::lookup::MessageError::Unknown(kind)),
                }
            }
        }
    };
}

pub(super) use {choice, record};
