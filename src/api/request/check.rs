//! What is wrong with a request and can be told before it is sent.

use crate::api::message::{DisconnectRequest, HistoryRequest, RefreshRequest, SubscribeRequest, UnsubscribeRequest};
use crate::error::Error;

/// Why a request is not sent.
#[derive(Clone, Debug)]
pub enum Problem {
    /// The server would answer as if it were broken.
    Invalid(&'static str),
    /// Only Centrifugo PRO does what the field says; the open-source server ignores the field.
    ProOnly(&'static str),
}

impl Problem {
    /// The error it is, for a server that is `pro` or is not.
    pub(crate) fn error(&self, pro: bool) -> Result<(), Error> {
        match self {
            Self::Invalid(text) => Err(Error::invalid(*text)),
            Self::ProOnly(_) if pro => Ok(()),
            Self::ProOnly(field) => Err(Error::invalid(format!(
                "`{field}` is for Centrifugo PRO: an open-source server ignores it and acts on all connections of the \
                 user; if the server is PRO, say so with `Config::pro`"
            ))),
        }
    }
}

/// The fields that only PRO looks at. Ignored, they widen what a call does.
macro_rules! pro_fields {
    ($($name:ident $request:ident;)*) => { $(
        pub(crate) fn $name(request: &$request) -> Result<(), Problem> {
            if request.label_filter.is_some() {
                Err(Problem::ProOnly("label_filter"))
            } else if request.all_users {
                Err(Problem::ProOnly("all_users"))
            } else {
                Ok(())
            }
        }
    )* };
}
pro_fields! {
    subscribe SubscribeRequest;
    unsubscribe UnsubscribeRequest;
    disconnect DisconnectRequest;
    refresh RefreshRequest;
}

pub(crate) fn history(request: &HistoryRequest) -> Result<(), Problem> {
    match &request.since {
        Some(since) if request.reverse && since.offset == 0 => Err(Problem::Invalid(
            "`reverse` needs a `since` with an offset above 0, or no `since` at all: before offset 0 there is nothing, \
             and the server answers such a request with error 100",
        )),
        _ => Ok(()),
    }
}
