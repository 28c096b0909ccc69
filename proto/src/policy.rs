//! Policies: over which of this machine's interfaces the links of a session may leave, and which of
//! them it likes best (KTH 3.6).
//!
//! [`judge`] says of every interface whether a policy allows it, and why; [`step`] what a session
//! does whose place is not the best one any more. Both are asked again after every change of the
//! network. A session whose policy allows nothing stays suspended (use case 2's alternative); one
//! for which a better interface has come up goes there before its old link ends (use case 3).

use core::fmt;
use core::str::FromStr;

use crate::mutant::mutant;

/// The variable that names the policy of a program to its broker.
pub const VARIABLE: &str = "SESSION_POLICY";

/// What an interface is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A cable.
    Wired,
    /// Wi-Fi.
    Wireless,
    /// A modem for a mobile network.
    Mobile,
    /// A tunnel, a bridge, or nobody knows.
    Other,
}

impl Kind {
    /// In a word, as configurations write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Wired => "wired",
            Kind::Wireless => "wireless",
            Kind::Mobile => "mobile",
            Kind::Other => "other",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let all = [Kind::Wired, Kind::Wireless, Kind::Mobile, Kind::Other];
        all.into_iter()
            .find(|kind| kind.word() == text)
            .ok_or_else(|| format!("{text:?} is none of wired, wireless, mobile, other"))
    }
}

/// What is known of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// What goes over it is paid for.
    pub metered: bool,
    /// What it costs, in whatever unit; the cheaper one is taken.
    pub cost: u32,
    /// Bytes a second, if that is known.
    pub speed: Option<u64>,
    /// It is up and has an address.
    pub up: bool,
}

/// Some interfaces, as a policy names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Select {
    /// Those of this kind.
    Kind(Kind),
    /// Those that are paid for.
    Metered,
    /// Those whose name fits; `*` stands for any letters.
    Name(String),
}

impl Select {
    fn has(&self, interface: &Interface) -> bool {
        match self {
            Select::Kind(kind) => interface.kind == *kind,
            Select::Metered => interface.metered,
            Select::Name(glob) => fits(glob.as_bytes(), interface.name.as_bytes()),
        }
    }
}

/// Whether a name fits; `*` stands for any letters. Steps back to the last `*` only, so it takes no
/// longer than both lengths multiplied.
fn fits(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n, mut again) = (0, 0, None);
    while n < name.len() {
        if glob.get(g) == Some(&b'*') {
            again = Some((g, n));
            g += 1;
        } else if glob.get(g) == Some(&name[n]) {
            (g, n) = (g + 1, n + 1);
        } else if let Some((star, from)) = again {
            again = Some((star, from + 1));
            (g, n) = (star + 1, from + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|letter| *letter == b'*')
}

/// Whether a name that the file writes, with `*` for any letters, is that of an interface.
#[must_use]
pub fn is_called(glob: &str, name: &str) -> bool {
    fits(glob.as_bytes(), name.as_bytes())
}

/// The longest name that Linux gives an interface.
const NAME_MAX: usize = 15;

impl FromStr for Select {
    type Err = String;

    fn from_str(text: &str) -> Result<Select, String> {
        if text == "metered" {
            return Ok(Select::Metered);
        }
        if let Ok(kind) = text.parse() {
            return Ok(Select::Kind(kind));
        }
        let right = |letter: char| letter.is_ascii_graphic() && letter != '/';
        if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(right) {
            return Err(format!(
                "{text:?} is no interface: write a name such as \"eth0\" or \"wl*\", or wired, \
                 wireless, mobile, other, metered"
            ));
        }
        Ok(Select::Name(text.to_owned()))
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Select::Kind(kind) => kind.word(),
            Select::Metered => "metered",
            Select::Name(glob) => glob,
        })
    }
}

/// What its user wants of a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Its links leave over these; if there are none, over all.
    pub only: Vec<Select>,
    /// Its links never leave over these.
    pub never: Vec<Select>,
    /// It likes these best, the first one most.
    pub prefer: Vec<Select>,
    /// An interface that is known to be slower, in bytes a second, is left alone.
    pub speed_min: Option<u64>,
}

/// Why an interface is used, or is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// It is down, or has no address.
    Down,
    /// `only` does not name it.
    NotOnly,
    /// `never` names it so.
    Never(Select),
    /// It is slower than `speed_min`.
    Slow(u64),
    /// `prefer` names it so.
    Preferred(Select),
    /// Nothing speaks against it.
    Allowed,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Down => f.write_str("down"),
            Rule::NotOnly => f.write_str("not one of \"only\""),
            Rule::Never(select) => write!(f, "never over \"{select}\""),
            Rule::Slow(speed) => write!(f, "{} Mbit/s, less than speed_min", speed / 125_000),
            Rule::Preferred(select) => write!(f, "preferred as \"{select}\""),
            Rule::Allowed => f.write_str("allowed"),
        }
    }
}

/// What a policy says of the interfaces that there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// Those that may be used, the best one first.
    pub allowed: Vec<(String, Rule)>,
    /// Those that may not.
    pub forbidden: Vec<(String, Rule)>,
}

impl Verdict {
    /// Why an interface may be used, or may not.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        let all = self.allowed.iter().chain(&self.forbidden);
        all.into_iter().find(|(other, _)| other == name).map(|(_, rule)| rule)
    }

    /// Whether an interface may be used.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.allowed.iter().any(|(other, _)| other == name)
    }

    /// Why nothing may be used.
    #[must_use]
    pub fn why_not(&self) -> String {
        let each = self.forbidden.iter().map(|(name, rule)| format!("{name}: {rule}"));
        let each: Vec<String> = each.collect();
        if each.is_empty() { "there is no interface".to_owned() } else { each.join("; ") }
    }
}

/// What a policy says of the interfaces that there are.
#[must_use]
pub fn judge(policy: &Policy, interfaces: &[Interface]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut allowed = Vec::new();
    for interface in interfaces {
        match against(policy, interface) {
            Some(rule) => verdict.forbidden.push((interface.name.clone(), rule)),
            None => {
                let place = policy.prefer.iter().position(|select| select.has(interface));
                let rule = place
                    .map_or(Rule::Allowed, |place| Rule::Preferred(policy.prefer[place].clone()));
                let place = place.unwrap_or(policy.prefer.len());
                let order = (place, interface.cost, interface.metered, &interface.name);
                allowed.push((order, rule));
            }
        }
    }
    allowed.sort_by_key(|(order, _)| *order);
    verdict.allowed = allowed.into_iter().map(|(order, rule)| (order.3.clone(), rule)).collect();
    verdict
}

/// What speaks against an interface.
fn against(policy: &Policy, interface: &Interface) -> Option<Rule> {
    if !interface.up {
        return Some(Rule::Down);
    }
    if let Some(select) = policy.never.iter().find(|select| select.has(interface)) {
        return mutant!(NeverIgnored, Some(Rule::Never(select.clone())), None);
    }
    let is_in = |all: &[Select]| all.iter().any(|select| select.has(interface));
    if !policy.only.is_empty() && !is_in(&policy.only) {
        return Some(Rule::NotOnly);
    }
    let speed =
        interface.speed.filter(|speed| policy.speed_min.is_some_and(|least| *speed < least));
    speed.map(Rule::Slow)
}

/// Where a session with a policy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// Its link leaves over this interface.
    Over(&'a str),
    /// It has no link, and looks for one; or its link's interface is gone.
    Nowhere,
    /// Its policy has suspended it.
    Held,
    /// Its link does not leave this machine.
    Here,
}

/// What a session does after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It stays as it is.
    Stay,
    /// It gets another link, and lets go of the old one then.
    Move,
    /// It is suspended, which ends its link, and resumed at once: what it has may not be used.
    Leave,
    /// It is suspended until something is allowed.
    Suspend,
    /// It is resumed.
    Resume,
}

/// What a session does after a change.
#[must_use]
pub fn step(verdict: &Verdict, place: Place<'_>) -> Step {
    let best = verdict.allowed.first().map(|(name, _)| name.as_str());
    match (place, best) {
        (Place::Here, _) | (Place::Held, None) => Step::Stay,
        (Place::Held, Some(_)) => mutant!(HeldForever, Step::Resume, Step::Stay),
        (Place::Nowhere | Place::Over(_), None) => Step::Suspend,
        (Place::Nowhere, Some(_)) => Step::Stay,
        (Place::Over(name), Some(best)) if name == best => Step::Stay,
        (Place::Over(name), Some(_)) if verdict.allows(name) => {
            mutant!(WorseIsKept, Step::Move, Step::Stay)
        }
        (Place::Over(name), Some(_)) if verdict.rule(name) == Some(&Rule::Down) => Step::Move,
        (Place::Over(_), Some(_)) => Step::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, kind: Kind) -> Interface {
        Interface { name: name.to_owned(), kind, metered: false, cost: 0, speed: None, up: true }
    }

    /// A cable of 1 Gbit/s, Wi-Fi, a modem that is paid for, a tunnel, and a cable that is out.
    fn all() -> Vec<Interface> {
        let down = Interface { up: false, ..interface("eth1", Kind::Wired) };
        vec![
            Interface { speed: Some(125_000_000), ..interface("eth0", Kind::Wired) },
            interface("wlan0", Kind::Wireless),
            Interface { metered: true, cost: 5, ..interface("wwan0", Kind::Mobile) },
            interface("tun0", Kind::Other),
            down,
        ]
    }

    fn selects(texts: &str) -> Vec<Select> {
        texts.split_whitespace().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn a_policy_allows_and_orders_interfaces() {
        // only; never; prefer; least speed in Mbit/s; what is allowed, best first.
        for (only, never, prefer, mbits, allowed) in [
            ("", "", "", 0, "eth0 tun0 wlan0 wwan0"),
            ("wired", "", "", 0, "eth0"),
            ("wired wireless", "", "", 0, "eth0 wlan0"),
            ("", "metered", "", 0, "eth0 tun0 wlan0"),
            ("metered", "", "", 0, "wwan0"),
            ("metered", "mobile", "", 0, ""),
            ("eth1", "", "", 0, ""),
            ("", "", "wireless wired", 0, "wlan0 eth0 tun0 wwan0"),
            ("", "other", "wwan*", 0, "wwan0 eth0 wlan0"),
            ("*0", "w*", "", 0, "eth0 tun0"),
            ("", "", "", 1_000, "eth0 tun0 wlan0 wwan0"),
            ("", "", "", 1_001, "tun0 wlan0 wwan0"),
        ] {
            let [only, never, prefer] = [only, never, prefer].map(selects);
            let speed_min = (mbits > 0).then_some(mbits * 125_000);
            let policy = Policy { only, never, prefer, speed_min };
            let verdict = judge(&policy, &all());
            let names: Vec<_> = verdict.allowed.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names.join(" "), allowed, "{policy:?}");
            assert_eq!(verdict.allowed.len() + verdict.forbidden.len(), all().len());
            assert!(!verdict.allows("eth1"), "it is down");
        }
    }

    #[test]
    fn a_verdict_says_why() {
        let policy = Policy {
            only: selects("eth* wwan*"),
            never: selects("metered"),
            prefer: selects("wired"),
            speed_min: Some(250_000_000),
        };
        let verdict = judge(&policy, &all());
        assert_eq!(
            verdict.why_not(),
            "eth0: 1000 Mbit/s, less than speed_min; wlan0: not one of \"only\"; \
             wwan0: never over \"metered\"; tun0: not one of \"only\"; eth1: down"
        );
        let rule = |policy: &Policy| judge(policy, &all()).rule("eth0").map(ToString::to_string);
        let any = Policy { speed_min: None, ..policy };
        assert_eq!(rule(&any).as_deref(), Some("preferred as \"wired\""));
        assert_eq!(rule(&Policy::default()).as_deref(), Some("allowed"));
        assert_eq!(judge(&any, &[]).why_not(), "there is no interface");
    }

    #[test]
    fn a_session_goes_where_its_policy_wants_it() {
        let of = |never: &str, prefer: &str| {
            let [never, prefer] = [never, prefer].map(selects);
            judge(&Policy { never, prefer, ..Policy::default() }, &all())
        };
        let nothing = of("*", "");
        let wired = of("metered", "wired");
        for (verdict, place, wanted) in [
            (&wired, Place::Over("eth0"), Step::Stay),
            // Use case 3: a better one has come.
            (&wired, Place::Over("wlan0"), Step::Move),
            // Its own is down: a new link, and nothing to leave.
            (&wired, Place::Over("eth1"), Step::Move),
            (&wired, Place::Over("wwan0"), Step::Leave),
            (&wired, Place::Over("gone0"), Step::Leave),
            // Use case 2.
            (&wired, Place::Nowhere, Step::Stay),
            (&wired, Place::Held, Step::Resume),
            (&wired, Place::Here, Step::Stay),
            // Its alternative.
            (&nothing, Place::Over("eth0"), Step::Suspend),
            (&nothing, Place::Nowhere, Step::Suspend),
            (&nothing, Place::Held, Step::Stay),
            (&nothing, Place::Here, Step::Stay),
        ] {
            assert_eq!(step(verdict, place), wanted, "{place:?}");
        }
    }

    #[test]
    fn names_fit_what_is_written() {
        for (glob, name, fit) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth0", true),
            ("*", "", true),
            ("e*h*0", "ethh10", true),
            ("e*h*0", "ethh11", false),
            ("*a*b", "aab", true),
            ("", "a", false),
        ] {
            assert_eq!(is_called(glob, name), fit, "{glob} {name}");
        }
        for bad in ["", "eth 0", "a/b", "averyveryverylong"] {
            assert!(bad.parse::<Select>().expect_err(bad).contains("no interface"), "{bad}");
        }
        for text in ["wired", "wireless", "mobile", "other", "metered", "wl*"] {
            assert_eq!(text.parse::<Select>().expect(text).to_string(), text);
        }
    }

    #[cfg(feature = "model")]
    #[test]
    fn every_mistake_is_caught() {
        use crate::mutant::Mutant;
        for mutant in Mutant::POLICIES {
            Mutant::set(Some(*mutant));
            let orders = std::panic::catch_unwind(a_policy_allows_and_orders_interfaces);
            let steps = std::panic::catch_unwind(a_session_goes_where_its_policy_wants_it);
            Mutant::set(None);
            assert!(orders.is_err() || steps.is_err(), "{}", mutant.mistake());
        }
    }
}
