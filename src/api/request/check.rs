//! Checks of requests before they are sent.

use crate::api::message::{DisconnectRequest, HistoryRequest, RefreshRequest, SubscribeRequest, UnsubscribeRequest};
use crate::error::Error;

/// Why a request is not sent.
#[derive(Clone, Debug)]
pub enum Problem {
    /// The server would return error 100.
    Invalid(&'static str),
    /// Only Centrifugo PRO does what the field says; the open-source server ignores the field.
    ProOnly(&'static str),
}

impl Problem {
    /// The error, on a server that is PRO or is not.
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

/// Fields that only PRO has. Ignored, the call would affect more connections than meant.
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
             and the server returns error 100 for such a request",
        )),
        _ => Ok(()),
    }
}
