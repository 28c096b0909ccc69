//! Where data connections go: the arguments and answers of PORT, EPRT, LPRT, PASV, EPSV and LPSV
//! (RFC 959, 1639, 2428).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reply::Reply;

/// How a client speaks of data connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// PORT, PASV and 227.
    Plain,
    /// EPRT, EPSV and 229.
    Extended,
    /// LPRT, LPSV and 228.
    Long,
}

/// What a client has said of its data connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It wants to connect (PASV).
    Passive(Family),
    /// It listens here (PORT).
    Active(Family, SocketAddr),
    /// It will use nothing but EPSV from now on (EPSV ALL).
    OnlyExtended,
}

impl Place {
    /// Reads a command about data connections. Nothing if it is another command; an error if its
    /// argument is wrong.
    #[must_use]
    pub fn parse(verb: &str, argument: &str) -> Option<Result<Place, ()>> {
        let place = match verb {
            "PASV" => Ok(Place::Passive(Family::Plain)),
            "LPSV" => Ok(Place::Passive(Family::Long)),
            "EPSV" => match argument {
                "" | "1" | "2" => Ok(Place::Passive(Family::Extended)),
                all if all.eq_ignore_ascii_case("ALL") => Ok(Place::OnlyExtended),
                _ => Err(()),
            },
            "PORT" => plain(argument).map(|at| Place::Active(Family::Plain, at)).ok_or(()),
            "EPRT" => extended(argument).map(|at| Place::Active(Family::Extended, at)).ok_or(()),
            "LPRT" => long(argument).map(|at| Place::Active(Family::Long, at)).ok_or(()),
            _ => return None,
        };
        Some(place)
    }
}

/// The answer to a passive command: connect to this port of `host`, which is how the client knows
/// the server. Nothing if the family cannot name such an address.
#[must_use]
pub fn passive_reply(family: Family, host: IpAddr, port: u16) -> Option<Reply> {
    let [high, low] = port.to_be_bytes();
    match (family, host) {
        (Family::Plain, IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            let text = format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low}).");
            Some(Reply::new(227, &text))
        }
        (Family::Plain, IpAddr::V6(_)) => None,
        (Family::Extended, _) => {
            Some(Reply::new(229, &format!("Entering Extended Passive Mode (|||{port}|)")))
        }
        (Family::Long, host) => {
            let (version, octets) = match host {
                IpAddr::V4(v4) => (4, v4.octets().to_vec()),
                IpAddr::V6(v6) => (6, v6.octets().to_vec()),
            };
            let list: Vec<String> = octets.iter().map(u8::to_string).collect();
            let text = format!(
                "Entering Long Passive Mode ({version},{},{},2,{high},{low})",
                octets.len(),
                list.join(",")
            );
            Some(Reply::new(228, &text))
        }
    }
}

/// The port that a server names in a 227, 228 or 229. The address in it is of no interest: data
/// connections go where the control connection goes.
#[must_use]
pub fn port_of_reply(reply: &Reply) -> Option<u16> {
    let text = core::str::from_utf8(&reply.bytes).ok()?;
    let text = text.get(4..)?;
    let port = match reply.code {
        229 => {
            let inside = &text[text.find('(')? + 1..];
            let mut all = inside.chars();
            let divider = all.next()?;
            let rest = all.as_str().strip_prefix([divider])?.strip_prefix([divider])?;
            rest[..rest.find(divider)?].parse().ok()?
        }
        227 => {
            let list = numbers(from_first_list(text)?);
            two_bytes(list.get(4..6)?)?
        }
        228 => {
            let list = numbers(from_first_list(text)?);
            let address = usize::from(*list.get(1)?);
            let at = address + 3;
            (*list.get(at - 1)? == 2).then_some(())?;
            two_bytes(list.get(at..at + 2)?)?
        }
        _ => return None,
    };
    (port != 0).then_some(port)
}

/// From the first number that a comma follows.
fn from_first_list(text: &str) -> Option<&str> {
    let comma = text.find(',')?;
    let digits = text[..comma].bytes().rev().take_while(u8::is_ascii_digit).count();
    Some(&text[comma - digits..])
}

fn two_bytes(list: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(list.try_into().ok()?))
}

/// Numbers of one byte with commas between them, as many as there are.
fn numbers(text: &str) -> Vec<u8> {
    let mut list = Vec::new();
    for part in text.split(',').take(24) {
        let part = part.trim();
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        match part[..digits].parse() {
            Ok(number) => list.push(number),
            Err(_) => break,
        }
        if digits < part.len() {
            break;
        }
    }
    list
}

/// Numbers of one byte with commas between them and nothing else.
fn all_numbers(text: &str) -> Option<Vec<u8>> {
    let list: Option<Vec<u8>> =
        text.trim().split(',').map(|part| part.trim().parse().ok()).collect();
    list
}

fn plain(argument: &str) -> Option<SocketAddr> {
    let [a, b, c, d, high, low] = all_numbers(argument)?.try_into().ok()?;
    socket(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))
}

fn extended(argument: &str) -> Option<SocketAddr> {
    let argument = argument.trim();
    let divider = argument.chars().next().filter(char::is_ascii_graphic)?;
    let inside = argument.strip_prefix([divider])?.strip_suffix([divider])?;
    let mut fields = inside.split(divider);
    let (family, host, port) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let host: IpAddr = match family {
        "1" => host.parse::<Ipv4Addr>().ok()?.into(),
        "2" => host.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    socket(host, port.parse().ok()?)
}

fn long(argument: &str) -> Option<SocketAddr> {
    let list = all_numbers(argument)?;
    let (host, rest): (IpAddr, _) = match *list.first()? {
        4 if list.get(1) == Some(&4) => {
            (<[u8; 4]>::try_from(list.get(2..6)?).ok()?.into(), list.get(6..)?)
        }
        6 if list.get(1) == Some(&16) => {
            (<[u8; 16]>::try_from(list.get(2..18)?).ok()?.into(), list.get(18..)?)
        }
        _ => return None,
    };
    let [2, high, low] = *rest else { return None };
    socket(host, u16::from_be_bytes([high, low]))
}

fn socket(host: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0).then(|| SocketAddr::new(host, port))
}
