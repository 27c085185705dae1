use std::net::SocketAddr;

/// What names in `bootstrap.servers` and in metadata stand for (`client.dns.lookup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DnsLookup {
    /// Every address of a name is tried, one after the other (KIP-302, KIP-602).
    #[default]
    UseAllDnsIps,
    /// As the default; and a bootstrap server's name stands for the full names of all hosts behind it (KIP-235), as
    /// Kerberos wants them when one alias leads to a whole cluster.
    CanonicalBootstrapOnly,
}

/// Which addresses of a name are used (librdkafka's `broker.address.family`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AddressFamily {
    /// All of them.
    #[default]
    Any,
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
}

impl AddressFamily {
    pub(super) fn includes(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}
