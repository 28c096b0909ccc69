//! Values that are written as text.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// The least that a time may be configured to.
pub(super) const TIME_MIN: Duration = Duration::from_millis(100);

/// A value written as text.
pub(super) struct FromText<T>(pub(super) T);

impl<'de, T: FromStr> Deserialize<'de> for FromText<T>
where
    T::Err: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(FromText).map_err(serde::de::Error::custom)
    }
}
