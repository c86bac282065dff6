//! Which endpoint gets a call, over which transport.
//!
//! The [fallback](fallback) chooses the transport by its [breaker](breaker), the [balancer](balancer) the endpoint by its
//! [health](health) and by what it has [shown](pulse).

pub(crate) mod balancer;
pub(crate) mod breaker;
pub(crate) mod fallback;
mod health;
mod pulse;
