//! The tables `[[policy]]` and `[[interface]]`: over what the links of sessions may leave.

use serde::Deserialize;
use stp_net::config::{ByteRate, ConfigError, Loaded, Span};
use stp_proto::class::Class;
use stp_proto::name::is_label;
use stp_proto::policy::{Kind, Policy, Select};

use super::text::FromText;
use super::upkeep;
use crate::upkeep::Upkeep;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePolicy {
    name: String,
    #[serde(default)]
    only: Vec<FromText<Select>>,
    #[serde(default)]
    never: Vec<FromText<Select>>,
    #[serde(default)]
    prefer: Vec<FromText<Select>>,
    speed_min: Option<ByteRate>,
    class: Option<FromText<Class>>,
    hold: Option<Span>,
    idle: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileInterface {
    name: String,
    kind: Option<FromText<Kind>>,
    metered: Option<bool>,
    #[serde(default)]
    cost: u32,
    speed: Option<ByteRate>,
}

/// What the file says of interfaces, where the kernel does not know or is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Their name; `*` stands for any letters.
    pub name: String,
    /// What they are made of.
    pub kind: Option<Kind>,
    /// Whether what goes over them is paid for.
    pub metered: Option<bool>,
    /// What they cost.
    pub cost: u32,
    /// How fast they are, in bytes a second.
    pub speed: Option<u64>,
}

/// A policy, what it is called, and how it has sessions kept.
pub type Named = (String, (Policy, Upkeep));

/// The policies, by name.
pub(super) fn policies<F>(
    loaded: &Loaded<F>,
    given: &[FilePolicy],
) -> Result<Vec<Named>, ConfigError> {
    let mut all: Vec<Named> = Vec::new();
    for (i, policy) in given.iter().enumerate() {
        let wrong = |key: &str, what: String| loaded.error(&format!("policy[{i}].{key}"), what);
        let name = &policy.name;
        if !is_label(name) {
            return Err(wrong("name", format!("{name:?} is no name such as \"frugal\"")));
        }
        if all.iter().any(|(other, _)| other == name) {
            return Err(wrong("name", format!("the policy \"{name}\" is there twice")));
        }
        let upkeep = upkeep::read(policy.class.as_ref(), policy.hold, policy.idle);
        let upkeep = upkeep.map_err(|(key, what)| wrong(key, what))?;
        let selects = |all: &[FromText<Select>]| all.iter().map(|one| one.0.clone()).collect();
        let made = Policy {
            only: selects(&policy.only),
            never: selects(&policy.never),
            prefer: selects(&policy.prefer),
            speed_min: policy.speed_min.map(|speed| speed.0),
        };
        all.push((name.clone(), (made, upkeep)));
    }
    Ok(all)
}

/// What the file says of interfaces.
pub(super) fn interfaces<F>(
    loaded: &Loaded<F>,
    given: &[FileInterface],
) -> Result<Vec<Told>, ConfigError> {
    let told = |(i, interface): (usize, &FileInterface)| {
        let name = interface.name.clone();
        match name.parse::<Select>() {
            Ok(Select::Name(_)) => {}
            Ok(_) | Err(_) => {
                let what = format!("{name:?} is no name of an interface such as \"eth0\", \"wl*\"");
                return Err(loaded.error(&format!("interface[{i}].name"), what));
            }
        }
        let kind = interface.kind.as_ref().map(|kind| kind.0);
        let (metered, cost) = (interface.metered, interface.cost);
        Ok(Told { name, kind, metered, cost, speed: interface.speed.map(|speed| speed.0) })
    };
    given.iter().enumerate().map(told).collect()
}

/// That there is a policy of this name.
pub(super) fn known<F>(
    loaded: &Loaded<F>,
    policies: &[Named],
    (key, name): (&str, &str),
) -> Result<(), ConfigError> {
    if !policies.iter().any(|(known, _)| known == name) {
        return Err(loaded.error(key, format!("no [[policy]] is called \"{name}\"")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        policy: Vec<FilePolicy>,
        #[serde(default)]
        interface: Vec<FileInterface>,
    }

    type Read = (Vec<Named>, Vec<Told>);

    fn read(text: &str) -> Result<Read, String> {
        let loaded = stp_net::config::parse::<File>(std::path::Path::new("b.toml"), text);
        let loaded = loaded.map_err(|error| error.to_string())?;
        let policies = policies(&loaded, &loaded.config.policy);
        let told = interfaces(&loaded, &loaded.config.interface);
        Ok((policies.map_err(|e| e.to_string())?, told.map_err(|e| e.to_string())?))
    }

    #[test]
    fn policies_and_interfaces_are_read() {
        let (policies, told) = read(
            "[[policy]]\nname = \"desk\"\nonly = [\"wired\", \"wl*\"]\nnever = [\"metered\"]\n\
             speed_min = \"100Mbit/s\"\nhold = \"8h\"\nclass = \"critical\"\n\
             [[interface]]\nname = \"usb*\"\n\
             kind = \"mobile\"\ncost = 5\nspeed = \"20Mbit/s\"\n",
        )
        .expect("it is right");
        let (name, (policy, upkeep)) = &policies[0];
        assert_eq!(name, "desk");
        assert_eq!(policy.only, [Select::Kind(Kind::Wired), Select::Name("wl*".to_owned())]);
        assert_eq!(policy.never, [Select::Metered]);
        assert_eq!(policy.speed_min, Some(12_500_000));
        assert_eq!(upkeep.hold, Some(std::time::Duration::from_secs(8 * 3_600)));
        assert_eq!(upkeep.class, Some(Class::Critical));
        assert_eq!((told[0].kind, told[0].metered, told[0].cost), (Some(Kind::Mobile), None, 5));
        assert_eq!(told[0].speed, Some(2_500_000));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, said) in [
            ("[[policy]]\nname = \"a b\"\n", "b.toml:2: policy[0].name"),
            ("[[policy]]\nname = \"a\"\n[[policy]]\nname = \"a\"\n", "b.toml:4: policy[1].name"),
            ("[[policy]]\nname = \"a\"\nhold = \"1ms\"\n", "too short"),
            ("[[policy]]\nname = \"a\"\nidle = \"9ms\"\n", "b.toml:3: policy[0].idle"),
            ("[[policy]]\nname = \"a\"\nclass = \"b\"\n", "is none of critical"),
            ("[[policy]]\nname = \"a\"\nonly = [\"eth 0\"]\n", "is no interface"),
            ("[[interface]]\nname = \"wired\"\n", "is no name of an interface"),
            ("[[interface]]\nname = \"eth0\"\nkind = \"wet\"\n", "is none of wired"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
