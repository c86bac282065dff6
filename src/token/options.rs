//! How somebody is subscribed by a token.

use serde::{Serialize, Serializer};

use crate::api::payload::Payload;
use crate::token::claims::Claims;

/// How a connection token subscribes to a channel: one entry of the claim `subs`.
///
/// What is not set is as the channel's namespace has it.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SubscribeOptions {
    pub(crate) info: Payload,
    pub(crate) data: Payload,
    pub(crate) overrides: Overrides,
}

/// The claim `override`: what is not as the namespace has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence: Option<Flag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) join_leave: Option<Flag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) force_push_join_leave: Option<Flag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) force_positioning: Option<Flag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) force_recovery: Option<Flag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Flag {
    pub(crate) value: bool,
}

impl SubscribeOptions {
    /// The options of the channel's namespace.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add_to(&self, claims: &mut Claims) {
        claims.add_payload("info", &self.info);
        claims.add_payload("data", &self.data);
        if self.overrides != Overrides::default() {
            claims.add("override", &self.overrides);
        }
    }
}

impl Serialize for SubscribeOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut claims = Claims::default();
        self.add_to(&mut claims);
        claims.serialize(serializer)
    }
}

/// The setters of the options, of `$self` under `$options`.
macro_rules! subscribe_setters {
    ([$($generics:tt)*] $kind:ty, $this:ident => $options:expr) => {
        /// # The subscription
        impl $($generics)* $kind {
            /// Sets what others learn of the subscriber in this channel, with presence and with join and leave messages: the claim
            /// `info`, or `b64info` if it is not JSON.
            pub fn info(mut self, info: impl Into<$crate::api::payload::Payload>) -> Self {
                let $this = &mut self;
                $options.info = info.into();
                self
            }

            /// Sets what the subscriber gets with the subscription: `data`, or `b64data` if it is not JSON.
            pub fn data(mut self, data: impl Into<$crate::api::payload::Payload>) -> Self {
                let $this = &mut self;
                $options.data = data.into();
                self
            }

            /// Sets whether the subscriber takes part in presence, whatever the namespace says.
            pub fn presence(mut self, on: bool) -> Self {
                let $this = &mut self;
                $options.overrides.presence = Some($crate::token::options::Flag { value: on });
                self
            }

            /// Sets whether the subscriber causes join and leave messages, whatever the namespace says.
            pub fn join_leave(mut self, on: bool) -> Self {
                let $this = &mut self;
                $options.overrides.join_leave = Some($crate::token::options::Flag { value: on });
                self
            }

            /// Sets whether the subscriber gets join and leave messages, whatever the namespace says.
            pub fn force_push_join_leave(mut self, on: bool) -> Self {
                let $this = &mut self;
                $options.overrides.force_push_join_leave = Some($crate::token::options::Flag { value: on });
                self
            }

            /// Sets whether the server watches the subscriber's position in the stream, whatever the namespace says.
            pub fn force_positioning(mut self, on: bool) -> Self {
                let $this = &mut self;
                $options.overrides.force_positioning = Some($crate::token::options::Flag { value: on });
                self
            }

            /// Sets whether the subscriber recovers missed publications, whatever the namespace says.
            pub fn force_recovery(mut self, on: bool) -> Self {
                let $this = &mut self;
                $options.overrides.force_recovery = Some($crate::token::options::Flag { value: on });
                self
            }
        }
    };
}
pub(crate) use subscribe_setters;

subscribe_setters!([] SubscribeOptions, this => this);
