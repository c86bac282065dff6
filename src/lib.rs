//! x
pub use error::{ApiError, Error, ErrorKind};
pub use message::*;
pub use methods::Method;
pub use payload::Payload;
pub use request::{Message, Request};
mod error;
pub mod message;
mod methods;
mod payload;
mod request;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;
/// c
#[derive(Debug)] pub struct Client;
/// c
#[derive(Debug)] pub struct Config;
