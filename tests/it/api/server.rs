//! The server, its channels and connections, and the methods of PRO.

use centrifugo_api::message::{
    BlockUserRequest, ChannelsRequest, ConnectionsRequest, FilterNode, InfoRequest, RefreshRequest, RpcRequest,
};
use centrifugo_api::{
    ApiError, Batch, Client, DisconnectRequest, ErrorKind, Method, SubscribeRequest, UnsubscribeRequest,
};
use serde_json::{Value, json};

use super::suite::{assert_code, assert_kind, publish, suite};
use crate::support::{Over, servers::Setup};

async fn info_lists_one_node(client: &Client, _: &Setup) {
    let info = client.info(InfoRequest::new()).await.unwrap();
    let [node] = &info.nodes[..] else { panic!("{info:?}") };
    assert!(!node.uid.is_empty() && !node.version.is_empty(), "{node:?}");
    assert_eq!(node.name, "node1");
}

async fn an_rpc_is_error_104(client: &Client, _: &Setup) {
    assert_code(client.rpc(RpcRequest::new("nope").params(json!({"a": 1}))).await, ApiError::NOT_FOUND);
    assert_code(client.rpc(RpcRequest::new("")).await, ApiError::BAD_REQUEST);
}

async fn a_channel_without_subscribers_is_not_listed(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    publish(client, &channel, json!(1)).await;
    assert!(client.channels(ChannelsRequest::new().pattern(&channel)).await.unwrap().channels.is_empty());
}

async fn a_malformed_pattern_is_error_100(client: &Client, _: &Setup) {
    let error = client.channels(ChannelsRequest::new().pattern("[a")).await;
    let error = assert_kind(error, ErrorKind::Api, true);
    assert_eq!(error.code(), Some(ApiError::INTERNAL));
}

async fn users_without_connections_can_be_acted_on(client: &Client, setup: &Setup) {
    let channel = setup.channel("");
    client.subscribe(SubscribeRequest::new(&channel, "ghost").data(json!({}))).await.unwrap();
    client.unsubscribe(UnsubscribeRequest::new(&channel, "ghost")).await.unwrap();
    client.refresh(RefreshRequest::new("ghost").expire_at(1)).await.unwrap();
    let disconnect = centrifugo_api::message::Disconnect::new(4000, "bye");
    client.disconnect(DisconnectRequest::new("ghost").disconnect(disconnect)).await.unwrap();
}

async fn methods_of_pro_are_unsupported(client: &Client, setup: &Setup) {
    assert_kind(client.connections(ConnectionsRequest::new()).await, ErrorKind::Unsupported, false);
    assert_kind(client.block_user(BlockUserRequest::new("ghost")).await, ErrorKind::Unsupported, false);
    let mut unsupported = 0;
    for method in Method::ALL {
        // A user without connections: without any user, the anonymous ones would be closed.
        let params = json!({"user": setup.channel(""), "channel": setup.channel("nope")});
        let params = if *method == Method::Batch { json!({}) } else { params };
        match client.call_json::<Value>(method.name(), params).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => unsupported += 1,
            // Over gRPC the schema has no such fields for some of PRO's methods.
            Err(error) if error.kind() == ErrorKind::Invalid && setup.over == Over::Grpc => {
                let bare = client.call_json::<Value>(method.name(), json!({})).await;
                unsupported += usize::from(bare.is_err_and(|error| error.kind() == ErrorKind::Unsupported));
            }
            _ => {}
        }
    }
    assert_eq!(unsupported, 19);
}

async fn filters_of_pro_are_refused_unless_the_server_is_pro(client: &Client, setup: &Setup) {
    let filtered = DisconnectRequest::new("ghost").label_filter(FilterNode::default().cmp("eq").key("k").val("v"));
    let everybody = UnsubscribeRequest::new(setup.channel(""), "ghost").all_users(true);
    let error = assert_kind(client.disconnect(&filtered).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`label_filter`"), "{error}");
    let error = assert_kind(client.unsubscribe(&everybody).await, ErrorKind::Invalid, false);
    assert!(error.to_string().contains("`all_users`"), "{error}");
    assert_kind(client.call_json::<Value>("disconnect", &filtered).await, ErrorKind::Invalid, false);
    let mut batch = Batch::new();
    batch.push(SubscribeRequest::new(setup.channel(""), "ghost").all_users(true));
    assert_kind(client.batch(&batch).await, ErrorKind::Invalid, false);

    let pro = Client::new(setup.config().pro(true)).unwrap();
    pro.disconnect(&filtered).await.unwrap();
    pro.call_json::<Value>("disconnect", &filtered).await.unwrap();
    pro.unsubscribe(&everybody).await.unwrap();
    assert_eq!(pro.batch(&batch).await.unwrap().len(), 1);
}

suite! {
    everywhere {
        info_lists_one_node
        an_rpc_is_error_104
        a_channel_without_subscribers_is_not_listed
        a_malformed_pattern_is_error_100
        users_without_connections_can_be_acted_on
        methods_of_pro_are_unsupported
        filters_of_pro_are_refused_unless_the_server_is_pro
    }
    standin {}
}
