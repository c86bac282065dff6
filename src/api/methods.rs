//! The table: every method of the server API, once.
//!
//! A line has what a person decides: the method's names, the required fields of its request, the `check` of
//! `request/check.rs` that the request must pass, and when the method may be repeated:
//! - `always`: it reads, or ends in the same state;
//! - `with` a field: a key or a version by which the server recognises the repeat;
//! - `keyed` with a field: the same, and the client sets it if the caller did not;
//! - `never`: a repeat may do twice, or undo, what users would notice.
//!
//! The schema is in `proto/api.proto` only; a test compares the two, both ways. `Batch` is not here: it holds the others, see
//! `batch.rs`.

macro_rules! for_each_method { ($expand:ident) => { $expand! {
    /// # Publishing
    impl {
        /// Publishes data into one channel.
        ///
        /// The result is the publication's position in the channel's history, or zeroes where the channel has no history. A
        /// repeated idempotency key and a stale version are successes too, with the position of the first publication or
        /// of the newest one.
        ///
        /// Without an idempotency key the client makes one, so that an attempt whose outcome is unknown can be repeated: the
        /// server keeps keys for 5 minutes. [`Retry::idempotency_keys`](crate::Retry::idempotency_keys) and
        /// [`with_retry(None)`](crate::Client::with_retry) turn that off.
        Publish => publish(PublishRequest { channel: String, data: Payload }) -> PublishResult, repeat keyed idempotency_key;

        /// Publishes the same data into many channels.
        ///
        /// The call succeeds even if every channel is refused: see
        /// [`BroadcastResult::all_ok`](crate::BroadcastResult::all_ok) and
        /// [`BroadcastResult::failed`](crate::BroadcastResult::failed). Unlike with `publish`, the server does not check
        /// that a channel's namespace is of the stream kind.
        ///
        /// Without an idempotency key the client makes one, as for [`publish`](crate::Client::publish), unless a channel is
        /// named twice.
        ///
        /// There may be any number of channels: a request over the limit of this client, or refused for its length, is
        /// split into several with the same idempotency key. If one of them fails after another succeeded, each of its
        /// channels has an error, of code 100 unless the server returned one.
        Broadcast => broadcast(BroadcastRequest { channels: Strings, data: Payload }) -> BroadcastResult, repeat keyed idempotency_key;
    }

    /// # Subscriptions and connections
    impl {
        /// Subscribes the connections of a user to a channel.
        ///
        /// It also succeeds for a user without connections. A user who is subscribed already gets the push again. An
        /// `expire_at` in the past is error 100.
        Subscribe => subscribe(SubscribeRequest { channel: String, user: String }) -> SubscribeResult, repeat never, check subscribe;

        /// Unsubscribes the connections of a user from a channel.
        ///
        /// An empty channel does not mean every channel: the server then sends a push without a channel.
        Unsubscribe => unsubscribe(UnsubscribeRequest { channel: String, user: String }) -> UnsubscribeResult, repeat always, check unsubscribe;

        /// Closes the connections of a user, or one of them: see `client`.
        ///
        /// Without `disconnect` the code is 3503, "force disconnect"; with it, code and reason are used as given. An empty
        /// user means the anonymous connections.
        Disconnect => disconnect(DisconnectRequest { user: String }) -> DisconnectResult, repeat with session, check disconnect;

        /// Refreshes the connections of a user, with a new expiry or a new connection info.
        ///
        /// Without `expire_at` the connections' expiry is removed; with one in the past they are closed.
        Refresh => refresh(RefreshRequest { user: String }) -> RefreshResult, repeat always, check refresh;

        /// Returns the connections of users. Centrifugo PRO only.
        Connections => connections(ConnectionsRequest {}) -> ConnectionsResult, repeat always;
    }

    /// # Presence and history
    impl {
        /// Returns who is subscribed to a channel, by client id.
        ///
        /// Over HTTP the server returns status 500 ([`ErrorKind::Protocol`](crate::ErrorKind::Protocol)) when a connection's
        /// info is not JSON; over gRPC it returns the bytes.
        Presence => presence(PresenceRequest { channel: String }) -> PresenceResult, repeat always;

        /// Returns how many clients and users are subscribed to a channel.
        PresenceStats => presence_stats(PresenceStatsRequest { channel: String }) -> PresenceStatsResult, repeat always;

        /// Returns the publications in a channel's history, and its current position.
        ///
        /// Without a `limit` the server returns the position and no publications;
        /// [`HistoryRequest::NO_LIMIT`](crate::HistoryRequest::NO_LIMIT) returns all of them. Offset and epoch are always
        /// the newest, not those of the last publication returned. A gap is not an error: compare the first offset with
        /// `since.offset + 1`. `reverse` from offset 0 is refused before it is sent, because the server returns error 100.
        ///
        /// Over gRPC data is returned byte for byte; over HTTP the server compacts it and escapes `<`, `>` and `&`, so
        /// compare JSON values, not bytes. If any of it is not JSON, the server returns status 500 over HTTP
        /// ([`ErrorKind::Protocol`](crate::ErrorKind::Protocol)). A long history may be over the limit for responses:
        /// see [`Config::max_reply_size`](crate::Config::max_reply_size).
        History => history(HistoryRequest { channel: String }) -> HistoryResult, repeat always, check history;

        /// Removes the publications in a channel's history. Its offset and its epoch stay.
        HistoryRemove => history_remove(HistoryRemoveRequest { channel: String }) -> HistoryRemoveResult, repeat never;
    }

    /// # The server
    impl {
        /// Returns the nodes of the server, with their counters. The counters lag up to 3 s behind.
        Info => info(InfoRequest {}) -> InfoResult, repeat always;

        /// Returns the channels that have a subscriber, by name; not those that were only published to.
        ///
        /// In the `pattern`, `*` also matches `:` and `.`; a malformed one is error 100.
        Channels => channels(ChannelsRequest {}) -> ChannelsResult, repeat always;

        /// Calls an RPC method that an extension of the server has registered.
        ///
        /// The open-source server has none and returns error 104.
        Rpc => rpc(RpcRequest { method: String }) -> RpcResult, repeat never;
    }

    /// # Maps
    impl {
        /// Sets a key of a map channel.
        ///
        /// A publish that the server suppressed is a success, with [`suppressed`](field@crate::message::MapPublishResult::suppressed)
        /// set.
        MapPublish => map_publish(MapPublishRequest { channel: String, key: String }) -> MapPublishResult, repeat with idempotency_key;

        /// Removes a key of a map channel.
        MapRemove => map_remove(MapRemoveRequest { channel: String, key: String }) -> MapRemoveResult, repeat with idempotency_key;

        /// Reads the entries of a map channel, page by page.
        ///
        /// Without a `limit` the server returns the position and no entries; a negative one returns all.
        MapReadState => map_read_state(MapReadStateRequest { channel: String }) -> MapReadStateResult, repeat always;

        /// Reads the changes of a map channel since a position.
        ///
        /// Unlike [`history`](crate::Client::history), a gap is error 112.
        MapReadStream => map_read_stream(MapReadStreamRequest { channel: String }) -> MapReadStreamResult, repeat always;

        /// Returns how many keys a map channel has.
        MapStats => map_stats(MapStatsRequest { channel: String }) -> MapStatsResult, repeat always;

        /// Removes every key of a map channel. A new epoch begins.
        MapClear => map_clear(MapClearRequest { channel: String }) -> MapClearResult, repeat never;

        /// Publishes a new version of a key of a shared poll channel.
        ///
        /// A stale version is accepted and ignored.
        SharedPollPublish => shared_poll_publish(SharedPollPublishRequest { channel: String, key: String, version: u64 })
            -> SharedPollPublishResult, repeat with version;
    }

    /// # Users and tokens
    ///
    /// [Centrifugo PRO](https://centrifugal.dev/docs/pro/overview) only: with an open-source server they fail with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    impl {
        /// Sets a user's status. Centrifugo PRO only.
        UpdateUserStatus => update_user_status(UpdateUserStatusRequest { users: Strings, state: String })
            -> UpdateUserStatusResult, repeat always;

        /// Returns the status of users. Centrifugo PRO only.
        GetUserStatus => get_user_status(GetUserStatusRequest { users: Strings }) -> GetUserStatusResult, repeat always;

        /// Deletes the status of users. Centrifugo PRO only.
        DeleteUserStatus => delete_user_status(DeleteUserStatusRequest { users: Strings })
            -> DeleteUserStatusResult, repeat always;

        /// Blocks a user. Centrifugo PRO only.
        BlockUser => block_user(BlockUserRequest { user: String }) -> BlockUserResult, repeat always;

        /// Unblocks a user. Centrifugo PRO only.
        UnblockUser => unblock_user(UnblockUserRequest { user: String }) -> UnblockUserResult, repeat always;

        /// Revokes a token by its id. Centrifugo PRO only.
        RevokeToken => revoke_token(RevokeTokenRequest { uid: String }) -> RevokeTokenResult, repeat always;

        /// Makes the tokens of a user invalid. Centrifugo PRO only.
        InvalidateUserTokens => invalidate_user_tokens(InvalidateUserTokensRequest { user: String })
            -> InvalidateUserTokensResult, repeat always;
    }

    /// # Push notifications
    ///
    /// [Centrifugo PRO](https://centrifugal.dev/docs/pro/overview) only: with an open-source server they fail with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    impl {
        /// Registers a device. Centrifugo PRO only.
        DeviceRegister => device_register(DeviceRegisterRequest { provider: String, token: String, platform: String })
            -> DeviceRegisterResult, repeat never;

        /// Changes devices. Centrifugo PRO only.
        DeviceUpdate => device_update(DeviceUpdateRequest {}) -> DeviceUpdateResult, repeat always;

        /// Removes devices. Centrifugo PRO only.
        DeviceRemove => device_remove(DeviceRemoveRequest {}) -> DeviceRemoveResult, repeat always;

        /// Lists devices. Centrifugo PRO only.
        DeviceList => device_list(DeviceListRequest {}) -> DeviceListResult, repeat always;

        /// Lists the topics of devices. Centrifugo PRO only.
        DeviceTopicList => device_topic_list(DeviceTopicListRequest {}) -> DeviceTopicListResult, repeat always;

        /// Changes the topics of a device. Centrifugo PRO only.
        DeviceTopicUpdate => device_topic_update(DeviceTopicUpdateRequest { device_id: String, op: String, topics: Strings })
            -> DeviceTopicUpdateResult, repeat never;

        /// Lists the topics of users. Centrifugo PRO only.
        UserTopicList => user_topic_list(UserTopicListRequest {}) -> UserTopicListResult, repeat always;

        /// Changes the topics of a user. Centrifugo PRO only.
        UserTopicUpdate => user_topic_update(UserTopicUpdateRequest { user: String, op: String, topics: Strings })
            -> UserTopicUpdateResult, repeat never;

        /// Sends a push notification. Centrifugo PRO only.
        SendPushNotification => send_push_notification(
            SendPushNotificationRequest { recipient: PushRecipient, notification: PushNotification }
        ) -> SendPushNotificationResult, repeat never;

        /// Updates the status of a push notification. Centrifugo PRO only.
        UpdatePushStatus => update_push_status(UpdatePushStatusRequest { analytics_uid: String, status: String })
            -> UpdatePushStatusResult, repeat never;

        /// Cancels a push notification that is not sent yet. Centrifugo PRO only.
        CancelPush => cancel_push(CancelPushRequest { uid: String }) -> CancelPushResult, repeat always;
    }
} } }
pub(crate) use for_each_method;
