//! How well a session is to be kept while it has no link: the classes of TPT, asked for in
//! CONNECT and granted in CONNECT_OK (R74).

use core::fmt;
use core::str::FromStr;

/// The classes, worst first: under pressure the first one goes first.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Class {
    /// TPT's 11: kept as long as possible; given up when its server is full.
    #[default]
    Temporary,
    /// TPT's 10: kept for as long as was agreed, at least.
    Suspended,
    /// TPT's 00: never given up for the sake of others.
    Critical,
}

impl Class {
    /// All classes, worst first.
    pub const ALL: [Class; 3] = [Class::Temporary, Class::Suspended, Class::Critical];

    /// As TPT numbers it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Class::Critical => 0b00,
            Class::Suspended => 0b10,
            Class::Temporary => 0b11,
        }
    }

    /// The class of this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.number() == number)
    }

    /// Its name in configurations and in the status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Suspended => "suspended",
            Class::Temporary => "temporary",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Class, String> {
        Class::ALL
            .into_iter()
            .find(|class| class.word() == text)
            .ok_or_else(|| format!("{text:?} is none of critical, suspended, temporary"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_the_numbers_of_tpt_and_an_order() {
        let numbers = Class::ALL.map(Class::number);
        assert_eq!(numbers, [3, 2, 0]);
        assert_eq!(numbers.map(Class::from_number), Class::ALL.map(Some));
        assert_eq!(Class::from_number(1), None);
        assert!(Class::Temporary < Class::Suspended && Class::Suspended < Class::Critical);
        for class in Class::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!("lasting".parse::<Class>().is_err());
    }
}
