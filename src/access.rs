//! Who may connect: `allow` and `deny` lists, compiled once, asked for every peer.
//!
//! A rule names an address, a network, a glob on whole components of an IPv4 address, or the user or group of a Unix
//! peer. There are no names (they would need look-ups, which block and can be forged) and no regular expressions (an
//! unescaped dot or bar lets strangers in): both are refused at start with the remedy, all mistakes at once. Nothing that
//! a peer does can make a look-up fail. Networks become sorted ranges, so a long list costs a binary search.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Compiled `allow` and `deny` lists. The default has no rules and admits everyone.
///
/// | rule | stands for |
/// |---|---|
/// | `127.0.0.1`, `::1` | one address |
/// | `10.0.0.0/8`, `fe80::/10` | a network, without host bits |
/// | `127.0.*`, `10.*.0.1` | IPv4 by whole components; a `*` at the end stands for all that are left |
/// | `*` | every IP address, of both versions |
/// | `uid:1000`, `gid:100` | a Unix peer's user or group, by number |
///
/// An IPv6 address that carries an IPv4 one (`::ffff:127.0.0.1`, RFC 4291 section 2.5.5.2) is judged as that IPv4
/// address, in rules and in peers; so `::/0` is every *other* IPv6 address.
///
/// Rules on addresses are for IP peers, rules on credentials for Unix peers; neither has a say about the other.
///
/// ```
/// use lineplex::access::Access;
///
/// let access = Access::new(&["127.0.0.0/8", "::1"], &["127.0.0.2"]).unwrap();
/// assert!(access.admits("127.0.0.1".parse()?));
/// assert!(access.admits("::ffff:127.0.0.1".parse()?));
/// assert!(!access.admits("127.0.0.2".parse()?), "deny goes first");
/// assert!(!access.admits("192.0.2.1".parse()?), "not in allow");
/// assert!(access.admits_unix(None, None), "no rule speaks of users or groups");
///
/// let mistakes = Access::new(&["127\\.0\\..*"], &["10.0.0.1/8"]).unwrap_err();
/// assert_eq!(mistakes.len(), 2);
/// assert_eq!(
///     mistakes[1].to_string(),
///     "deny, entry 1 (`10.0.0.1/8`): the network has host bits set: write `10.0.0.0/8` for the network or `10.0.0.1` \
///      for the one address"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Access {
    allow: Rules,
    deny: Rules,
}

impl Access {
    /// Compiles both lists. Empty ones are as good as none.
    ///
    /// # Errors
    /// Every entry that is not a rule, in the order of the lists, `allow` first.
    pub fn new<S: AsRef<str>>(allow: &[S], deny: &[S]) -> Result<Self, Vec<RuleError>> {
        let mut mistakes = Vec::new();
        let access = Self {
            allow: Rules::compile(AccessList::Allow, allow, &mut mistakes),
            deny: Rules::compile(AccessList::Deny, deny, &mut mistakes),
        };
        if mistakes.is_empty() { Ok(access) } else { Err(mistakes) }
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.allow, &self.deny].iter().all(|rules| rules.has_no_ip() && rules.has_no_unix())
    }

    /// Whether a peer with this address may connect.
    ///
    /// Without a rule on addresses in either list, yes. Otherwise no if a deny rule matches; else yes if an allow rule
    /// matches; else no. So deny rules alone turn everybody away, as they do in Net::Server: to admit all others, allow
    /// `*` beside them.
    #[must_use]
    pub fn admits(&self, ip: IpAddr) -> bool {
        if self.allow.has_no_ip() && self.deny.has_no_ip() {
            return true;
        }
        let ip = ip.to_canonical();
        !self.deny.matches(ip) && self.allow.matches(ip)
    }

    /// Whether a Unix peer with these credentials may connect; `None` for one that the system does not tell.
    ///
    /// Without a rule on users or groups in either list, yes. Otherwise no if either is unknown, even the one
    /// that no rule speaks of; no if a deny rule matches; and if there are allow rules on users or groups, one must match. Deny rules alone turn away those they name and nobody else.
    #[must_use]
    pub fn admits_unix(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        if self.allow.has_no_unix() && self.deny.has_no_unix() {
            return true;
        }
        // The kernel says "unknown" with -1.
        let (Some(uid), Some(gid)) = (uid, gid) else { return false };
        if uid == UNKNOWN_ID || gid == UNKNOWN_ID {
            return false;
        }
        !self.deny.matches_unix(uid, gid) && (self.allow.has_no_unix() || self.allow.matches_unix(uid, gid))
    }
}

/// Which list a rule is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessList {
    /// `allow`.
    Allow,
    /// `deny`.
    Deny,
}

impl fmt::Display for AccessList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// An entry that is not a rule. Its `Display` is one line: the list, the entry counted from 1, its text, the remedy.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The list it is in.
    pub list: AccessList,
    /// Where in the list, counted from 0.
    pub index: usize,
    /// The entry as it was written.
    pub text: String,
    /// What is wrong with it and what to write instead; lower case, no full stop.
    pub remedy: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A log line stays one line whatever the entry holds; the rest is shown as written, to be recognised.
        let text: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "{}, entry {} (`{text}`): {}", self.list, self.index + 1, self.remedy)
    }
}

impl std::error::Error for RuleError {}

/// One list, by kind of rule.
#[derive(Clone, Debug, Default)]
struct Rules {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// Globs with a `*` before a number: value and mask. Tried one by one.
    masked: Vec<(u32, u32)>,
    uids: Ranges<u32>,
    gids: Ranges<u32>,
}

impl Rules {
    fn compile<S: AsRef<str>>(list: AccessList, texts: &[S], mistakes: &mut Vec<RuleError>) -> Self {
        let mut rules = Self::default();
        for (index, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            match parse(text) {
                Ok(rule) => rules.add(rule),
                Err(remedy) => mistakes.push(RuleError { list, index, text: text.to_owned(), remedy }),
            }
        }
        rules.v4.settle();
        rules.v6.settle();
        rules.uids.settle();
        rules.gids.settle();
        rules.masked.sort_unstable();
        rules.masked.dedup();
        rules
    }

    fn add(&mut self, rule: Rule) {
        match rule {
            Rule::Everyone => {
                self.v4.0.push((0, u32::MAX));
                self.v6.0.push((0, u128::MAX));
            }
            Rule::V4(first, last) => self.v4.0.push((first.into(), last.into())),
            Rule::V6(first, last) => self.v6.0.push((first.into(), last.into())),
            Rule::Masked(value, mask) => self.masked.push((value, mask)),
            Rule::Uid(id) => self.uids.0.push((id, id)),
            Rule::Gid(id) => self.gids.0.push((id, id)),
        }
    }

    fn has_no_ip(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty() && self.masked.is_empty()
    }

    fn has_no_unix(&self) -> bool {
        self.uids.0.is_empty() && self.gids.0.is_empty()
    }

    fn matches(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => {
                let ip = u32::from(ip);
                self.v4.contains(ip) || self.masked.iter().any(|&(value, mask)| ip & mask == value)
            }
            IpAddr::V6(ip) => self.v6.contains(ip.into()),
        }
    }

    fn matches_unix(&self, uid: u32, gid: u32) -> bool {
        self.uids.contains(uid) || self.gids.contains(gid)
    }
}

/// First and last of each; once settled, sorted and apart from each other.
#[derive(Clone, Debug, Default)]
struct Ranges<T>(Vec<(T, T)>);

impl<T: Copy + Ord> Ranges<T> {
    fn settle(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let overlaps = next.0 <= kept.1;
            if overlaps {
                kept.1 = kept.1.max(next.1);
            }
            overlaps
        });
    }

    fn contains(&self, value: T) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= value);
        after > 0 && value <= self.0[after - 1].1
    }
}

/// One entry, understood.
enum Rule {
    Everyone,
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
    Masked(u32, u32),
    Uid(u32),
    Gid(u32),
}

/// What one entry says, or the remedy.
fn parse(text: &str) -> Result<Rule, String> {
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err("empty, or with spaces: write one address or network for each entry".into());
    }
    if let Some(id) = text.strip_prefix("uid:") {
        return parse_id(id).map(Rule::Uid);
    }
    if let Some(id) = text.strip_prefix("gid:") {
        return parse_id(id).map(Rule::Gid);
    }
    if text == "*" {
        return Ok(Rule::Everyone);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        if inner.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("write `{inner}` without the brackets"));
        }
    }
    if text.contains(['\\', '|', '^', '$', '[', ']', '(', ')', '{', '}', '+', '?']) {
        return Err("regular expressions are not offered, rules match whole addresses: write an entry for each address, \
                    a network such as `10.0.0.0/8`, or a glob such as `127.0.*`"
            .into());
    }
    if is_name(text) {
        return Err("names need reverse look-ups, which are not offered: use addresses".into());
    }
    if text.contains('/') {
        return parse_network(text);
    }
    if text.contains('*') {
        return parse_glob(text);
    }
    parse_address(text)
}

/// Whether this was meant as a host name: letters, and nothing that only an address has.
fn is_name(text: &str) -> bool {
    !text.contains([':', '/', '%']) && text.contains(char::is_alphabetic)
}

fn parse_id(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| digits && id != UNKNOWN_ID).ok_or_else(|| {
        format!("users and groups are given by number, 0 to {}, as `id` prints them", UNKNOWN_ID - 1)
    })
}

fn parse_address(text: &str) -> Result<Rule, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(match ip.to_canonical() {
            IpAddr::V4(ip) => Rule::V4(ip, ip),
            IpAddr::V6(ip) => Rule::V6(ip, ip),
        });
    }
    if text.contains('%') {
        return Err("an address is judged without its zone: leave out `%` and what follows".into());
    }
    if let Some((address, _)) =
        text.rsplit_once(':').filter(|(address, _)| address.parse::<Ipv4Addr>().is_ok())
    {
        return Err(format!("a peer's port says nothing about it: write `{address}`"));
    }
    Err("not an address: write four numbers of 0 to 255 without leading zeros (a part of one as a glob, `127.0.*`), or \
         an IPv6 address"
        .into())
}

fn parse_network(text: &str) -> Result<Rule, String> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(
            "not a network: write a whole address before the `/`, such as `10.0.0.0/8` or `fe80::/10`".into(),
        );
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let net = prefix.parse().ok().filter(|_| digits).and_then(|length: u8| IpNet::new(ip, length).ok());
    let Some(net) = net else {
        return Err(format!("the prefix length after the `/` is a number of 0 to {most} for this address"));
    };
    let meant = net.trunc();
    if meant.addr() != ip {
        return Err(format!(
            "the network has host bits set: write `{meant}` for the network or `{ip}` for the one address"
        ));
    }
    Ok(match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Rule::V4(first, last),
        (IpAddr::V6(first), IpAddr::V6(last)) => match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
            (Some(first), Some(last)) => Rule::V4(first, last),
            _ => Rule::V6(first, last),
        },
        // A network is of one version; refused rather than trusted.
        _ => return Err("not a network".into()),
    })
}

/// `*` for whole components of an IPv4 address; at the end, for all that are left.
fn parse_glob(text: &str) -> Result<Rule, String> {
    if text.contains(':') {
        return Err("globs are for IPv4: write a network such as `fe80::/10`".into());
    }
    let wrong = || {
        "a glob has up to four components with dots between, each a number of 0 to 255 or a whole `*`, and fewer than \
         four only with `*` at the end: `127.0.*`, `10.*.0.1`"
            .to_owned()
    };
    let components: Vec<&str> = text.split('.').collect();
    let open = components.last() == Some(&"*");
    if components.len() > 4 || (components.len() < 4 && !open) {
        return Err(wrong());
    }
    let (mut value, mut mask) = ([0u8; 4], [0u8; 4]);
    for (at, component) in components.iter().enumerate().filter(|(_, component)| **component != "*") {
        // Without leading zeros, which some read as octal, and without the sign that parsing would take.
        value[at] = component.parse().ok().filter(|n: &u8| n.to_string() == *component).ok_or_else(wrong)?;
        mask[at] = u8::MAX;
    }
    let (value, mask) = (u32::from_be_bytes(value), u32::from_be_bytes(mask));
    if mask.leading_ones() == mask.count_ones() {
        return Ok(Rule::V4(value.into(), (value | !mask).into()));
    }
    Ok(Rule::Masked(value, mask))
}

/// `(uid_t) -1`, which names nobody.
const UNKNOWN_ID: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [&str; 0] = [];

    #[track_caller]
    fn access(allow: &[&str], deny: &[&str]) -> Access {
        Access::new(allow, deny).unwrap()
    }

    #[track_caller]
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn remedy(text: &str) -> String {
        Access::new(&[text], &[]).map(|_| ()).expect_err(text).remove(0).remedy
    }

    #[test]
    fn without_rules_everyone_passes() {
        let access = Access::new(&NONE, &NONE).unwrap();
        assert!(access.is_empty() && Access::default().is_empty());
        assert!(access.admits(ip("192.0.2.1")) && access.admits(ip("::1")));
        assert!(access.admits_unix(Some(0), Some(0)) && access.admits_unix(None, None));
    }

    #[test]
    fn deny_rules_alone_turn_everybody_away() {
        let only = access(&[], &["192.0.2.1"]);
        assert!(!only.admits(ip("192.0.2.1")) && !only.admits(ip("127.0.0.1")) && !only.admits(ip("::1")));
        let others = access(&["*"], &["192.0.2.1"]);
        assert!(
            !others.admits(ip("192.0.2.1")) && others.admits(ip("127.0.0.1")) && others.admits(ip("::1"))
        );
    }

    #[test]
    fn deny_goes_before_allow_and_who_is_in_neither_is_rejected() {
        let both = access(&["127.0.0.1"], &["127.0.0.1"]);
        assert!(!both.admits(ip("127.0.0.1")));
        let nets = access(&["127.0.0.0/8"], &["127.0.0.2/32"]);
        assert!(nets.admits(ip("127.0.0.1")) && !nets.admits(ip("127.0.0.2")) && !nets.admits(ip("::1")));
    }

    #[test]
    fn globs_match_whole_addresses_only() {
        let glob = access(&["127.0.*", "10.*.0.1"], &[]);
        assert!(
            glob.admits(ip("127.0.0.9")) && glob.admits(ip("127.0.255.0")) && glob.admits(ip("10.9.0.1"))
        );
        for stranger in ["127.1.0.9", "12.7.0.9", "10.9.0.2", "11.9.0.1", "::7f00:9"] {
            assert!(!glob.admits(ip(stranger)), "{stranger}");
        }
        assert!(!access(&["127.0.0.9"], &[]).admits(ip("127.0.0.99")));
    }

    #[test]
    fn mapped_addresses_are_judged_as_ipv4_in_rules_and_in_peers() {
        assert!(access(&["127.0.*"], &[]).admits(ip("::ffff:127.0.0.1")));
        assert!(access(&["::ffff:127.0.0.1"], &[]).admits(ip("127.0.0.1")));
        let net = access(&["::ffff:10.0.0.0/104"], &[]);
        assert!(net.admits(ip("10.255.255.255")) && !net.admits(ip("11.0.0.0")));
        let six = access(&["::/0"], &[]);
        assert!(six.admits(ip("2001:db8::1")) && !six.admits(ip("::ffff:127.0.0.1")));
        assert!(
            !access(&["*"], &["10.0.0.0/8"]).admits(ip("::ffff:10.0.0.1")),
            "deny cannot be passed by mapping"
        );
    }

    #[test]
    fn rules_on_addresses_and_on_credentials_do_not_mix() {
        let unix = access(&["uid:1000"], &[]);
        assert!(unix.admits(ip("192.0.2.1")) && !unix.is_empty());
        let net = access(&["127.0.0.1"], &["*"]);
        assert!(net.admits_unix(None, None));
    }

    #[test]
    fn unix_peers_are_judged_by_user_and_group() {
        let access_of = |allow: &[&str], deny: &[&str], uid, gid| access(allow, deny).admits_unix(uid, gid);
        let someone = (Some(1000), Some(100));
        assert!(access_of(&["uid:1000"], &[], someone.0, someone.1));
        assert!(access_of(&["uid:1", "gid:100"], &[], someone.0, someone.1), "one is enough");
        assert!(!access_of(&["uid:1"], &[], someone.0, someone.1));
        assert!(!access_of(&["uid:1000"], &["gid:100"], someone.0, someone.1), "deny goes first");
        assert!(access_of(&[], &["uid:1"], someone.0, someone.1), "deny alone leaves the others");
        for unknown in [(None, None), (Some(1000), None), (None, Some(100)), (Some(u32::MAX), Some(u32::MAX))]
        {
            assert!(!access_of(&["uid:1000"], &[], unknown.0, unknown.1));
            assert!(!access_of(&[], &["uid:1"], unknown.0, unknown.1));
        }
    }

    #[test]
    fn regular_expressions_are_refused_with_the_remedy() {
        for text in
            ["127\\.0\\..*", "127.0.0.9|0.2", "^127", "127$", "[0-9]", "(a)", "1+", "1?", "1{2}", "^.*$"]
        {
            assert!(remedy(text).starts_with("regular expressions"), "{text}");
        }
        assert!(remedy("[::1]").contains("`::1` without"));
    }

    #[test]
    fn other_mistakes_are_refused_with_their_own_remedy() {
        for (text, part) in [
            ("", "empty"),
            (" 127.0.0.1", "spaces"),
            ("127.0.0.1 127.0.0.2", "one address"),
            ("localhost", "reverse look-ups"),
            ("*.example.org", "reverse look-ups"),
            ("10.0.0.1/8", "write `10.0.0.0/8`"),
            ("fe80::1/10", "write `fe80::/10`"),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.0/+8", "regular"),
            ("10.0.0.0/-1", "0 to 32"),
            ("10.0.0.0/255.0.0.0", "prefix length"),
            ("10.0.0.0/8/8", "0 to 32"),
            ("10/8", "whole address"),
            ("example.org/24", "whole address"),
            ("fe80::*", "network such as"),
            ("1*7.0.0.1", "whole `*`"),
            ("127.*.1", "with `*` at the end"),
            ("127.0.0.0.*", "up to four"),
            ("127..*", "0 to 255"),
            ("127.00.*", "0 to 255"),
            ("256.*", "0 to 255"),
            ("127.0", "not an address"),
            ("127.0.0.01", "not an address"),
            ("fe80::1%2", "zone"),
            ("127.0.0.1:80", "write `127.0.0.1`"),
            ("uid:", "by number"),
            ("uid:root", "by number"),
            ("gid:-1", "by number"),
            ("gid:4294967295", "by number"),
        ] {
            assert!(remedy(text).contains(part), "{text}: {}", remedy(text));
        }
    }

    #[test]
    fn all_mistakes_come_at_once_with_their_place() {
        let mistakes = Access::new(&["::1", "localhost"], &["1|2", "10.0.0.0/8", "x\ny"]).unwrap_err();
        let places: Vec<_> = mistakes.iter().map(|mistake| (mistake.list, mistake.index)).collect();
        assert_eq!(places, [(AccessList::Allow, 1), (AccessList::Deny, 0), (AccessList::Deny, 2)]);
        assert!(mistakes[0].to_string().starts_with("allow, entry 2 (`localhost`): names need"));
        assert_eq!(mistakes[2].text, "x\ny");
        assert!(!mistakes[2].to_string().contains('\n'));
    }

    /// A rule as text, with what it stands for told another way: the address's bits that must be equal.
    fn v4_rule() -> impl Strategy<Value = (String, u32, u32)> {
        let near = |value: u32| value & 0x0303_0303;
        prop_oneof![
            any::<u32>()
                .prop_map(move |value| { (Ipv4Addr::from(near(value)).to_string(), near(value), u32::MAX) }),
            (any::<u32>(), 0..=32u32).prop_map(move |(value, length)| {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                let value = near(value) & mask;
                (format!("{}/{length}", Ipv4Addr::from(value)), value, mask)
            }),
            (any::<u32>(), 1..16u8, 1..=4usize).prop_map(move |(value, stars, count)| {
                let bytes = near(value).to_be_bytes();
                let star = |at: usize| at + 1 >= count && count < 4 || stars >> at & 1 == 1;
                let text: Vec<String> = (0..count)
                    .map(|at| if star(at) { "*".to_owned() } else { bytes[at].to_string() })
                    .collect();
                let mask = u32::from_be_bytes(std::array::from_fn(|at| if star(at) { 0 } else { 255 }));
                (text.join("."), near(value) & mask, mask)
            }),
        ]
    }

    fn v6_rule() -> impl Strategy<Value = (String, u128, u128)> {
        (any::<u128>(), 0..=128u32).prop_map(|(value, length)| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            let value = ((0x2001_0db8 << 96) | (value & 7 << 93) | (value & 7)) & mask;
            (format!("{}/{length}", Ipv6Addr::from(value)), value, mask)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn ipv4_rules_give_what_trying_each_gives(
            allow in prop::collection::vec(v4_rule(), 0..30),
            deny in prop::collection::vec(v4_rule(), 0..6),
            peers in prop::collection::vec(any::<u32>(), 40),
        ) {
            let text = |rules: &[(String, u32, u32)]| rules.iter().map(|rule| rule.0.clone()).collect::<Vec<_>>();
            let access = Access::new(&text(&allow), &text(&deny)).unwrap();
            // `*` alone is the only one of these that speaks of IPv6.
            let edges = allow.iter().chain(&deny).flat_map(|&(_, value, mask)| {
                [value, value.wrapping_sub(1), value | !mask, (value | !mask).wrapping_add(1)]
            });
            for peer in peers.into_iter().flat_map(|peer| [peer, peer & 0x0303_0303]).chain(edges) {
                let any = |rules: &[(String, u32, u32)]| rules.iter().any(|&(_, value, mask)| peer & mask == value);
                let model = allow.is_empty() && deny.is_empty() || !any(&deny) && any(&allow);
                let peer = Ipv4Addr::from(peer);
                prop_assert_eq!(access.admits(peer.into()), model, "{}", peer);
                prop_assert_eq!(access.admits(peer.to_ipv6_mapped().into()), model, "mapped {}", peer);
            }
        }

        #[test]
        fn ipv6_rules_give_what_trying_each_gives(
            allow in prop::collection::vec(v6_rule(), 1..30),
            deny in prop::collection::vec(v6_rule(), 0..6),
            peers in prop::collection::vec(any::<u128>(), 20),
        ) {
            let text = |rules: &[(String, u128, u128)]| rules.iter().map(|rule| rule.0.clone()).collect::<Vec<_>>();
            let access = Access::new(&text(&allow), &text(&deny)).unwrap();
            let edges = allow.iter().chain(&deny).flat_map(|&(_, value, mask)| {
                [value, value.wrapping_sub(1), value | !mask, (value | !mask).wrapping_add(1)]
            });
            for peer in peers.into_iter().chain(edges) {
                let any = |rules: &[(String, u128, u128)]| rules.iter().any(|&(_, value, mask)| peer & mask == value);
                let peer_ip = Ipv6Addr::from(peer);
                if peer_ip.to_ipv4_mapped().is_none() {
                    prop_assert_eq!(access.admits(peer_ip.into()), !any(&deny) && any(&allow), "{}", peer_ip);
                }
            }
        }

        #[test]
        fn any_text_is_a_rule_or_a_mistake(text in prop_oneof!["[0-9.*/:a-f]{0,20}", any::<String>()]) {
            if let Err(mistakes) = Access::new(&[&text], &[]) {
                prop_assert_eq!(mistakes.len(), 1);
                prop_assert!(!mistakes[0].remedy.is_empty());
            }
        }
    }
}
