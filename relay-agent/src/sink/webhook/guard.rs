//! Keeps webhooks from what is not public: a URL that anybody may configure must not reach the
//! metadata service of a cloud, the agent's own ports or the neighbours behind its firewall.
//!
//! What counts is the address that is connected to, so the guard sits where names are resolved: a
//! name that led to a public address a moment ago may lead elsewhere now. Addresses that stand in
//! the URL itself are never resolved and are looked at when the sink is opened. Redirects and
//! proxies, which would connect to something else, are off.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Networks that are not public, after RFC 6890 and its successors, and what is in them.
const NOT_PUBLIC: [(&str, &str); 29] = [
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "a carrier's"),
    ("127.0.0.0/8", "loopback"),
    // The metadata service of Azure has a public address.
    ("168.63.129.16/32", "a metadata service"),
    // Above the rest of its network, which is link-local.
    ("169.254.169.254/32", "a metadata service"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "this host"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "a local translator's"),
    ("100::/64", "discarded"),
    ("2001::/32", "a tunnel"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "reserved"),
    ("fd00:ec2::254/128", "a metadata service"),
    ("fc00::/7", "unique-local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
];

static PARSED: LazyLock<Vec<(IpNet, &str)>> = LazyLock::new(|| {
    let parse = |(network, what): (&str, &'static str)| {
        (network.parse().expect("the table holds networks"), what)
    };
    NOT_PUBLIC.into_iter().map(parse).collect()
});

/// An address that nothing is sent to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} is {what}; put it into \"allow_networks\" if messages may go there")]
pub(super) struct Refused {
    /// The address, and the name that it was found under.
    subject: String,
    what: &'static str,
}

/// What may be sent to: public addresses, and these networks.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    pub(super) fn new(allowed: &[IpNet]) -> Self {
        Self {
            allowed: allowed.to_vec(),
        }
    }

    /// Looks at a URL that names an address instead of a host.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Refused> {
        // The parser has made one of every way to write it: octal, hexadecimal, one number.
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => self.check(host, address),
            Err(_) => Ok(()),
        }
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let meant = meant(address);
        let is_allowed = |network: &IpNet| network.contains(&meant) || network.contains(&address);
        if self.allowed.iter().any(is_allowed) {
            return Ok(());
        }
        let found = PARSED.iter().find(|(network, _)| network.contains(&meant));
        match found {
            None => Ok(()),
            Some((_, what)) => {
                let subject = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
                    Ok(_) => address.to_string(),
                    Err(_) => format!("{host} is {address}, which"),
                };
                Err(Refused { subject, what })
            }
        }
    }

    /// Those of a name's addresses that may be connected to; an error if it has none.
    fn permitted(
        &self,
        host: &str,
        found: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let mut permitted = Vec::new();
        for address in found {
            match self.check(host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if permitted.is_empty() => Err(error),
            _ => Ok(permitted),
        }
    }
}

/// Those of a name's addresses that a pipeline with these networks may connect to.
pub(crate) fn permitted(allowed: &[IpNet], host: &str, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let permitted = Guard::new(allowed).permitted(host, found.into_iter());
    permitted.unwrap_or_default()
}

/// The address that a packet ends at: of IPv6 addresses that wrap an IPv4 address, that one.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let s = v6.segments();
    let low = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        _ if v6 == Ipv6Addr::UNSPECIFIED || v6 == Ipv6Addr::LOCALHOST => address,
        // Mapped or compatible; translated; NAT64; 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, a, b]
        | [0, 0, 0, 0, 0xffff, 0, a, b]
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b]
        | [0x2002, a, b, ..] => low(a, b).into(),
        _ => address,
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            // The port is the URL's.
            let found = tokio::net::lookup_host((host, 0)).await?;
            let permitted = guard.permitted(host, found)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// Whether a request failed because of a guard, and what that said.
pub(super) fn refusal(error: &reqwest::Error) -> Option<&Refused> {
    let mut cause: &(dyn Error + 'static) = error;
    loop {
        if let Some(refused) = cause.downcast_ref() {
            return Some(refused);
        }
        cause = cause.source()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(allowed: &[&str], url: &str) -> Result<(), &'static str> {
        let allowed: Vec<IpNet> = allowed.iter().map(|one| one.parse().unwrap()).collect();
        let url = Url::parse(url).unwrap();
        Guard::new(&allowed)
            .check_url(&url)
            .map_err(|refused| refused.what)
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        for (host, what) in [
            ("0.0.0.0", "this host"),
            ("10.1.2.3", "private"),
            ("100.64.0.1", "a carrier's"),
            ("100.100.100.200", "a carrier's"),
            ("127.0.0.1", "loopback"),
            ("127.8.9.10", "loopback"),
            ("2130706433", "loopback"),
            ("0x7f.1", "loopback"),
            ("0177.0.0.1", "loopback"),
            ("127.1", "loopback"),
            ("168.63.129.16", "a metadata service"),
            ("169.254.169.254", "a metadata service"),
            ("169.254.170.2", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "reserved"),
            ("192.168.1.1", "private"),
            ("198.18.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("[::]", "this host"),
            ("[::1]", "loopback"),
            ("[::ffff:127.0.0.1]", "loopback"),
            ("[::ffff:169.254.169.254]", "a metadata service"),
            ("[::ffff:0:10.0.0.1]", "private"),
            ("[::10.0.0.1]", "private"),
            ("[64:ff9b::10.0.0.1]", "private"),
            ("[64:ff9b:1::1]", "a local translator's"),
            ("[2002:7f00:1::]", "loopback"),
            ("[2001:0:1::1]", "a tunnel"),
            ("[fd00:ec2::254]", "a metadata service"),
            ("[fd12::1]", "unique-local"),
            ("[fe80::1]", "link-local"),
            ("[fec0::1]", "site-local"),
            ("[ff02::1]", "multicast"),
        ] {
            assert_eq!(
                judged(&[], &format!("http://{host}/x")),
                Err(what),
                "{host}"
            );
        }
    }

    #[test]
    fn public_addresses_and_names_are_fine() {
        for host in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "169.253.0.1",
            "[2606:4700::1111]",
            "[::ffff:1.1.1.1]",
            "[64:ff9b::1.1.1.1]",
            "[2002:101:101::]",
            // Whatever a name leads to is looked at when it is resolved.
            "localhost",
        ] {
            assert_eq!(judged(&[], &format!("https://{host}/")), Ok(()), "{host}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed_and_nothing_beside_it() {
        let allowed = ["127.0.0.0/8", "fd12::/16"];
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[fd12::1]"] {
            assert_eq!(
                judged(&allowed, &format!("http://{host}/")),
                Ok(()),
                "{host}"
            );
        }
        assert_eq!(judged(&allowed, "http://10.0.0.1/"), Err("private"));
        assert_eq!(judged(&allowed, "http://[::1]/"), Err("loopback"));
        assert_eq!(judged(&allowed, "http://[fd13::1]/"), Err("unique-local"));
    }

    #[test]
    fn of_a_name_with_both_kinds_only_the_public_addresses_are_used() {
        let guard = Guard::new(&[]);
        let addresses = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|one| one.parse().unwrap()).collect()
        };
        let mixed = addresses(&["127.0.0.1:0", "1.1.1.1:0"]);
        let permitted = guard.permitted("h", mixed.into_iter()).unwrap();
        assert_eq!(permitted, addresses(&["1.1.1.1:0"]));
        let private = addresses(&["10.0.0.1:0", "[::1]:0"]);
        let refused = guard
            .permitted("h.example", private.into_iter())
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "h.example is ::1, which is loopback; put it into \"allow_networks\" if messages may go there"
        );
    }
}
