//! The configuration while sources are applied to it, and how the value of an option fills a field of it.
//!
//! Sources are applied from the weakest to the strongest: what a stronger one sets replaces the whole value, and a
//! mistake in a weaker one is still found.

use std::collections::BTreeMap;
use std::time::Duration;

use super::base::Base;
use super::node::{At, Mistakes, Node};
use super::process::{NO_DAEMON, ProcessDraft};
use super::table::{self, Opt};
use super::{Facility, KeepAlive, Limits};

/// The configuration while sources are applied.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) limits: Limits,
    pub(super) keepalive: bool,
    pub(super) probes: KeepAlive,
    pub(super) conf_file: Option<Node>,
    pub(super) port: Option<Node>,
    pub(super) host: Option<Node>,
    pub(super) proto: Option<Node>,
    pub(super) ipv: Option<Node>,
    pub(super) listen: Option<Node>,
    pub(super) allow: Rules,
    pub(super) cidr_allow: Rules,
    pub(super) deny: Rules,
    pub(super) cidr_deny: Rules,
    pub(super) check_for_dequeue: Option<Duration>,
    pub(super) log_level: u8,
    pub(super) log_file: Option<String>,
    pub(super) syslog_ident: Option<String>,
    pub(super) syslog_facility: Facility,
    pub(super) syslog_logsock: Option<String>,
    pub(super) journald_logsock: Option<String>,
    pub(super) process: ProcessDraft,
    /// Permission bits of a Unix listener that names none.
    pub(super) unix_mode: Option<u32>,
    /// What relative paths are relative to.
    pub(super) base: Base,
    /// Where each option was last set.
    pub(super) set_at: BTreeMap<&'static str, At>,
}

/// The patterns of one access list, each with its place.
pub(super) type Rules = Vec<(String, At)>;

impl Draft {
    pub(super) fn new() -> Self {
        let limits = Limits::default();
        let probes = limits.keepalive.unwrap_or(KeepAlive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            count: 4,
        });
        Self {
            keepalive: limits.keepalive.is_some(),
            probes,
            limits,
            conf_file: None,
            port: None,
            host: None,
            proto: None,
            ipv: None,
            listen: None,
            allow: Vec::new(),
            cidr_allow: Vec::new(),
            deny: Vec::new(),
            cidr_deny: Vec::new(),
            check_for_dequeue: None,
            log_level: 2,
            log_file: None,
            syslog_ident: None,
            syslog_facility: Facility::default(),
            syslog_logsock: None,
            journald_logsock: None,
            process: ProcessDraft::default(),
            unix_mode: None,
            base: Base::default(),
            set_at: BTreeMap::new(),
        }
    }

    /// Gives `option` the value of `node`.
    pub(super) fn apply(&mut self, option: &'static Opt, node: &Node, mistakes: &mut Mistakes) {
        self.set_at.insert(option.name, node.last().at.clone());
        if !table::is_available(option) {
            mistakes.add(option.name, &node.last().at, NO_DAEMON);
        } else if let Err(what) = option.field.set(self, node) {
            mistakes.add(option.name, &node.last().at, what);
        }
    }

    /// The option's value as the help shows it.
    pub(super) fn show(&mut self, option: &Opt) -> String {
        option.field.show(self)
    }
}

/// Which field of the draft an option fills, and how its value is read.
pub(super) enum Field {
    Size(fn(&mut Draft) -> &mut usize),
    Count(fn(&mut Draft) -> &mut usize),
    Count32(fn(&mut Draft) -> &mut u32),
    /// 0 is none.
    MaybeCount(fn(&mut Draft) -> &mut Option<usize>),
    /// 0 is none.
    MaybeCount32(fn(&mut Draft) -> &mut Option<u32>),
    /// 0 is none.
    MaybeSize32(fn(&mut Draft) -> &mut Option<u32>),
    Prefix(fn(&mut Draft) -> &mut u8),
    Seconds(fn(&mut Draft) -> &mut Duration),
    /// 0 is none.
    MaybeSeconds(fn(&mut Draft) -> &mut Option<Duration>),
    Flag(fn(&mut Draft) -> &mut bool),
    Text(fn(&mut Draft) -> &mut Option<String>, &'static str),
    Rules(fn(&mut Draft) -> &mut Rules),
    /// Kept as it is and read when all sources are in.
    Later(fn(&mut Draft) -> &mut Option<Node>, &'static str),
    Other(fn(&mut Draft, &Node) -> Result<(), String>, &'static str),
}

impl Field {
    fn set(&self, draft: &mut Draft, node: &Node) -> Result<(), String> {
        match self {
            Self::Size(field) => *field(draft) = fit(node, node.size()?)?,
            Self::Count(field) => *field(draft) = fit(node, node.count()?)?,
            Self::Count32(field) => *field(draft) = fit(node, node.count()?)?,
            Self::MaybeCount(field) => {
                *field(draft) = Some(fit(node, node.count()?)?).filter(|count| *count != 0);
            }
            Self::MaybeCount32(field) => {
                *field(draft) = Some(fit(node, node.count()?)?).filter(|count| *count != 0);
            }
            Self::MaybeSize32(field) => {
                *field(draft) = Some(fit(node, node.size()?)?).filter(|size| *size != 0);
            }
            Self::Prefix(field) => *field(draft) = fit(node, node.count()?)?,
            Self::Seconds(field) => *field(draft) = Duration::from_secs_f64(node.seconds()?),
            Self::MaybeSeconds(field) => {
                let time = Duration::from_secs_f64(node.seconds()?);
                *field(draft) = Some(time).filter(|time| !time.is_zero());
            }
            Self::Flag(field) => *field(draft) = node.flag()?,
            Self::Text(field, _) => {
                let text = node.text()?;
                if text.is_empty() {
                    return Err("it is empty; leave it out for the default".to_owned());
                }
                *field(draft) = Some(text.to_owned());
            }
            Self::Rules(field) => {
                let items = node.items().iter();
                let rules = items.map(|item| Ok((item.text()?.to_owned(), item.at.clone())));
                *field(draft) = rules.collect::<Result<Rules, String>>()?;
            }
            Self::Later(field, _) => *field(draft) = Some(node.clone()),
            Self::Other(set, _) => set(draft, node)?,
        }
        Ok(())
    }

    fn show(&self, draft: &mut Draft) -> String {
        let maybe = |value: Option<String>| value.unwrap_or_else(|| "off".to_owned());
        match self {
            Self::Size(field) => show_size(*field(draft)),
            Self::Count(field) => field(draft).to_string(),
            Self::Count32(field) => field(draft).to_string(),
            Self::MaybeCount(field) => maybe(field(draft).map(|count| count.to_string())),
            Self::MaybeCount32(field) => maybe(field(draft).map(|count| count.to_string())),
            Self::MaybeSize32(field) => maybe(field(draft).map(|size| show_size(size as usize))),
            Self::Prefix(field) => field(draft).to_string(),
            Self::Seconds(field) => field(draft).as_secs_f64().to_string(),
            Self::MaybeSeconds(field) => maybe(field(draft).map(|time| time.as_secs_f64().to_string())),
            Self::Flag(field) => field(draft).to_string(),
            Self::Rules(_) => "none".to_owned(),
            Self::Text(_, shown) | Self::Later(_, shown) | Self::Other(_, shown) => (*shown).to_owned(),
        }
    }
}

fn fit<T: TryFrom<u64>>(node: &Node, value: u64) -> Result<T, String> {
    T::try_from(value).map_err(|_| format!("{} is too large", node.last()))
}

fn show_size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes % (1024 * 1024) == 0 => format!("{}M", bytes / (1024 * 1024)),
        _ if bytes % 1024 == 0 => format!("{}k", bytes / 1024),
        _ => bytes.to_string(),
    }
}
