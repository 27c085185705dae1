use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A broker's host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// A host name or an IP address, without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

/// A piece of `bootstrap.servers` that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address {address:?} in bootstrap.servers; expected host:port")]
pub struct AddressError {
    /// The piece as it was given.
    pub address: String,
}

impl Address {
    /// An address from its parts.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Parses `host:port,host:port`, at least one.
    pub(crate) fn parse_list(list: &str) -> Result<Vec<Self>, AddressError> {
        let addresses: Vec<Self> = list
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(AddressError { address: list.to_owned() });
        }
        Ok(addresses)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError { address: text.to_owned() };
        // Java accepts a listener's name before the address, as in PLAINTEXT://host:port.
        let plain = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = plain.rsplit_once(':').ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
            None if host.contains(':') => return Err(invalid()),
            None => host,
        };
        let port: u16 = port.parse().map_err(|_| invalid())?;
        if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
            return Err(invalid());
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_servers_are_parsed_as_java_does() {
        let parsed = Address::parse_list(" a:1 , [::1]:9092,PLAINTEXT://b.c:3,").unwrap();
        assert_eq!(parsed, [Address::new("a", 1), Address::new("::1", 9092), Address::new("b.c", 3)]);
        assert_eq!(parsed[1].to_string(), "[::1]:9092");
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for bad in ["", ",", "host", "host:", ":9092", "host:0", "host:70000", "::1:9092", "[::1:9", "a b:1"]
        {
            let error = Address::parse_list(bad).unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
