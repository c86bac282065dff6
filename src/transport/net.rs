//! What both transports need of the network: dialling, names, headers, TLS, and limits.

#[cfg(any(feature = "grpc", feature = "tls"))]
pub(crate) mod dial;
pub(crate) mod headers;
#[cfg(feature = "http")]
pub(crate) mod limit;
pub(crate) mod memory;
pub(crate) mod names;
#[cfg(feature = "tls")]
pub(crate) mod tls;
