//! Numbers with a text form of their own.

use std::{borrow::Cow, fmt, net::IpAddr};

use linux_raw_sys::errno;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::Endpoint;

/// A socket cookie; hexadecimal in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub u64);

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl Serialize for Cookie {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Cookie {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// An errno; its name in JSON (`ETIMEDOUT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// The name of an errno the network stack uses.
    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            errno::EPERM => "EPERM",
            errno::EINTR => "EINTR",
            errno::EIO => "EIO",
            errno::EAGAIN => "EAGAIN",
            errno::ENOMEM => "ENOMEM",
            errno::EACCES => "EACCES",
            errno::EINVAL => "EINVAL",
            errno::EPIPE => "EPIPE",
            errno::EPROTO => "EPROTO",
            errno::EMSGSIZE => "EMSGSIZE",
            errno::ENOPROTOOPT => "ENOPROTOOPT",
            errno::EOPNOTSUPP => "EOPNOTSUPP",
            errno::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            errno::ENETDOWN => "ENETDOWN",
            errno::ENETUNREACH => "ENETUNREACH",
            errno::ECONNABORTED => "ECONNABORTED",
            errno::ECONNRESET => "ECONNRESET",
            errno::ENOBUFS => "ENOBUFS",
            errno::ETIMEDOUT => "ETIMEDOUT",
            errno::ECONNREFUSED => "ECONNREFUSED",
            errno::EHOSTDOWN => "EHOSTDOWN",
            errno::EHOSTUNREACH => "EHOSTUNREACH",
            _ => return None,
        })
    }

    /// What strerror(3) says of an error that ends a connection.
    pub fn meaning(self) -> Option<&'static str> {
        Some(match self.0 {
            errno::EPERM => "operation not permitted",
            errno::EPIPE => "broken pipe",
            errno::EACCES => "permission denied",
            errno::ENETDOWN => "network is down",
            errno::ENETUNREACH => "network is unreachable",
            errno::ECONNABORTED => "software caused connection abort",
            errno::ECONNRESET => "connection reset by peer",
            errno::ETIMEDOUT => "connection timed out",
            errno::ECONNREFUSED => "connection refused",
            errno::EHOSTDOWN => "host is down",
            errno::EHOSTUNREACH => "no route to host",
            errno::EPROTO => "protocol error",
            _ => return None,
        })
    }
}

/// `E` and the number for an errno without a name here.
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "E{}", self.0),
        }
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(self),
        }
    }
}

impl JsonSchema for Errno {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// `10.0.0.1:22`, `[::1]:22`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}", self.port),
            IpAddr::V6(address) => write!(f, "[{address}]:{}", self.port),
        }
    }
}
