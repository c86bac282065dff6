//! The integration tests, in one binary.

mod connections;
mod errors;
mod tls;
