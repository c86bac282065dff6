//! Tokens for Centrifugo's clients and for its server API, key sets, and signatures of shared-poll channels.
//!
//! A client shows a token when it connects, and another one when it subscribes to a channel that needs one
//! ([authentication](https://centrifugal.dev/docs/server/authentication),
//! [channel tokens](https://centrifugal.dev/docs/server/channel_token_auth)). [`TokenIssuer`] makes both.
//!
//! # Two ends
//!
//! - `exp` is the end of the **token**: later nobody can connect or subscribe with it. Every token has one, unless
//!   [`never_expires`](ConnectionToken::never_expires) says otherwise.
//! - `expire_at` is the end of the **connection** or the **subscription** that was begun with the token. Without it that is the end of the token.
//!   Before it comes, the client asks the backend for a new token.
//!
//! # Cryptography
//!
//! It is that of `ring`, which the feature `tls` builds anyway, and for ES512 that of `p521`, behind the feature `token-es512`, as
//! `ring` has no P-521. `ring` keeps private keys for as long as the process runs, and does not clear their memory.

mod algorithm;
mod api;
mod claims;
mod connection;
mod der;
#[cfg(feature = "token-es512")]
mod es512;
mod issuer;
mod jwk;
mod key;
mod options;
mod shared_poll;
mod subscription;
#[cfg(test)]
mod vectors;
mod verifier;

pub use crate::token::algorithm::Algorithm;
pub use crate::token::api::ApiToken;
pub use crate::token::connection::{Capability, ConnectionToken};
pub use crate::token::issuer::TokenIssuer;
pub use crate::token::jwk::{Jwk, Jwks};
pub use crate::token::key::{Key, RemoteKey, Signer, SigningKey};
pub use crate::token::options::SubscribeOptions;
pub use crate::token::shared_poll::{SharedPollSignature, SharedPollSigner};
pub use crate::token::subscription::SubscriptionToken;
pub use crate::token::verifier::{Token, TokenError, TokenVerifier};
