//! The integration tests, in one binary. The folders are those of `src/`, and `support` has what several tests use.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

/// Methods, requests and results, over both transports.
mod api {
    mod batch;
    mod batch_replies;
    mod broadcast;
    mod errors;
    mod history;
    mod json;
    mod limits;
    mod maps;
    mod publish;
    mod server;
    mod split;
    pub(crate) mod suite;
}
/// Many calls in one request.
mod batching {
    mod calls;
    mod publisher;
}
/// One call, attempt after attempt.
mod call {
    mod outcome_unknown;
    mod retries;
}
/// What a configuration may say, and what becomes of it.
mod config {
    mod options;
    mod validation;
}
/// The end of a client, and the runtimes that it is used in.
mod lifecycle {
    mod close;
    mod runtime;
}
/// Handlers that Centrifugo calls.
mod proxy {
    mod backend;
    mod real;
    mod replay;
    mod serve;
    mod service;
    mod standin;
    mod websocket;
}
/// The stand-in server.
mod standin {
    mod paused_clock;
    mod replay;
    mod server;
}
/// Tokens, key sets, and signatures of shared-poll channels.
mod token {
    mod bearer;
    mod claims;
    mod independent;
    mod keys;
    mod real;
    mod refusals;
    mod secrets;
}
/// Connections, endpoints, and what goes wrong with them.
mod transport {
    mod availability;
    mod connections;
    mod errors;
    mod grpc {
        mod outcomes;
        mod streams;
    }
    mod http {
        mod faults;
    }
    mod routing {
        mod endpoints;
        mod fallback;
    }
    mod pages;
    mod texts;
    mod tls;
}
/// The forms on the wire, protobuf and JSON.
mod wire {
    mod differential;
    mod fixtures;
}

#[cfg(feature = "cli")]
mod cli;
mod corpus;
mod real_process;
mod real_proxies;
mod rooms;
mod soak;
mod support;
