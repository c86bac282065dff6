//! The table: every method of the server API, once.
//!
//! A line says what a person decides: the method's names, what its request needs, and when a repeat of it is harmless:
//! `always` (a read, or the same state in the end), `with` a field set (a key or a version by which the server knows the
//! repeat), `keyed` by such a field, which the client sets itself if nobody else did, `never` (it may undo or do twice what
//! somebody would notice); and which `check` of `request.rs` it must pass.
//! What the schema says stands in `proto/api.proto` only; a test compares the two, both ways. `Batch` is the one method
//! that is not here: it carries the others, see `batch.rs`.

macro_rules! for_each_method { ($expand:ident) => { $expand! {
    /// # Publishing
    impl {
        /// Publishes data into one channel.
        ///
        /// The result is the position in the channel's history, or zeroes where the channel keeps none. A repeated
        /// idempotency key and a stale version are successes too: the answer is the position of the first
        /// publication, or of the newest one.
        Publish => publish(PublishRequest { channel: String, data: Payload }) -> PublishResult, repeat keyed idempotency_key;

        /// Publishes the same data into many channels.
        ///
        /// The call succeeds even if every channel is refused: look at
        /// [`BroadcastResult::iter`](crate::BroadcastResult::iter) or
        /// [`BroadcastResult::failed`](crate::BroadcastResult::failed). Unlike `publish`, the server does not check
        /// here that a channel's namespace is of the stream kind.
        ///
        /// Any number of channels may be named: if the request is over the limit of this client, or refused for its
        /// length, it goes in several, each to some of the channels and with the same idempotency key. If one of them
        /// fails after another was answered, its channels have an error each, of code 100 unless the server gave one.
        Broadcast => broadcast(BroadcastRequest { channels: Strings, data: Payload }) -> BroadcastResult, repeat keyed idempotency_key;
    }

    /// # Subscriptions and connections
    impl {
        /// Subscribes the connections of a user to a channel.
        ///
        /// It succeeds when the user has no connection, too. For a user who is subscribed already it sends the push
        /// again. An `expire_at` in the past gives error 100.
        Subscribe => subscribe(SubscribeRequest { channel: String, user: String }) -> SubscribeResult, repeat never, check subscribe;

        /// Unsubscribes the connections of a user from a channel.
        ///
        /// An empty channel does not mean every channel: the server then only sends a push that names none.
        Unsubscribe => unsubscribe(UnsubscribeRequest { channel: String, user: String }) -> UnsubscribeResult, repeat always, check unsubscribe;

        /// Closes the connections of a user; `client` narrows that to one of them.
        ///
        /// Without a `disconnect` object the code is 3503, "force disconnect". A given object is used as it is, so
        /// give both its code and its reason. An empty user means the anonymous connections.
        Disconnect => disconnect(DisconnectRequest { user: String }) -> DisconnectResult, repeat with session, check disconnect;

        /// Renews the connections of a user, with a new expiry or a new connection info.
        ///
        /// Without `expire_at` the connections' expiry is removed; with one in the past they are closed.
        Refresh => refresh(RefreshRequest { user: String }) -> RefreshResult, repeat always, check refresh;

        /// The connections of users. Centrifugo PRO only.
        Connections => connections(ConnectionsRequest {}) -> ConnectionsResult, repeat always;
    }

    /// # Presence and history
    impl {
        /// Who is subscribed to a channel now, by client id.
        ///
        /// Over HTTP the server answers 500 ([`ErrorKind::Protocol`](crate::ErrorKind::Protocol)) when a connection's
        /// info is not JSON; over gRPC the bytes arrive.
        Presence => presence(PresenceRequest { channel: String }) -> PresenceResult, repeat always;

        /// How many clients and users are subscribed to a channel now.
        PresenceStats => presence_stats(PresenceStatsRequest { channel: String }) -> PresenceStatsResult, repeat always;

        /// The publications a channel keeps, and its current position.
        ///
        /// Without a `limit` the server returns the position and no publications;
        /// [`HistoryRequest::NO_LIMIT`](crate::HistoryRequest::NO_LIMIT) returns all of them. Position and epoch are
        /// always the newest, not those of the last publication returned. A gap is not an error: compare the first
        /// offset with `since.offset + 1`. `reverse` from offset 0 is refused here, because the server answers it
        /// with error 100, as if it were broken.
        ///
        /// Data comes back over gRPC byte for byte; over HTTP the server compacts it and escapes `<`, `>` and `&`, so
        /// compare JSON values, not bytes. If any of it is not JSON, the server answers 500 over HTTP
        /// ([`ErrorKind::Protocol`](crate::ErrorKind::Protocol)). A long history may be over the limit for replies:
        /// see `Config::max_reply_size`.
        History => history(HistoryRequest { channel: String }) -> HistoryResult, repeat always, check history;

        /// Removes the publications a channel keeps. Its offset and its epoch stay.
        HistoryRemove => history_remove(HistoryRemoveRequest { channel: String }) -> HistoryRemoveResult, repeat never;
    }

    /// # The server
    impl {
        /// The nodes of the server, with their counters. The counters lag up to 3 s behind.
        Info => info(InfoRequest {}) -> InfoResult, repeat always;

        /// The channels that have a subscriber now, by name; not those that were only published to.
        ///
        /// In the `pattern`, `*` crosses `:` and `.`; a malformed one is answered with error 100.
        Channels => channels(ChannelsRequest {}) -> ChannelsResult, repeat always;

        /// Calls an RPC method that an extension of the server has registered.
        ///
        /// The open-source server has none and answers error 104.
        Rpc => rpc(RpcRequest { method: String }) -> RpcResult, repeat never;
    }

    /// # Maps
    impl {
        /// Sets a key of a map channel.
        ///
        /// A publish that the server suppressed is a success with [`suppressed`](crate::MapPublishResult::suppressed)
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

        /// How many keys a map channel has.
        MapStats => map_stats(MapStatsRequest { channel: String }) -> MapStatsResult, repeat always;

        /// Removes every key of a map channel. A new epoch begins.
        MapClear => map_clear(MapClearRequest { channel: String }) -> MapClearResult, repeat never;

        /// Hands the server a new version of a key that clients poll together.
        ///
        /// A stale version is accepted and ignored.
        SharedPollPublish => shared_poll_publish(SharedPollPublishRequest { channel: String, key: String, version: u64 })
            -> SharedPollPublishResult, repeat with version;
    }

    /// # Users and tokens
    ///
    /// [Centrifugo PRO](https://centrifugal.dev/docs/pro/overview) only: an open-source server answers
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    impl {
        /// Sets a user's status. Centrifugo PRO only.
        UpdateUserStatus => update_user_status(UpdateUserStatusRequest { users: Strings, state: String })
            -> UpdateUserStatusResult, repeat always;

        /// The status of users. Centrifugo PRO only.
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
    /// [Centrifugo PRO](https://centrifugal.dev/docs/pro/overview) only: an open-source server answers
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

        /// Records what became of a push notification. Centrifugo PRO only.
        UpdatePushStatus => update_push_status(UpdatePushStatusRequest { analytics_uid: String, status: String })
            -> UpdatePushStatusResult, repeat never;

        /// Cancels a push notification that is still to be sent. Centrifugo PRO only.
        CancelPush => cancel_push(CancelPushRequest { uid: String }) -> CancelPushResult, repeat always;
    }
} } }
pub(crate) use for_each_method;
