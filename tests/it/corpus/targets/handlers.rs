//! Calls of the handlers of a backend: the first byte says which and over what, the rest is the body.

use std::convert::Infallible;

use bytes::Bytes;
use centrifugo_api::proxy::message::SharedPollRefreshResultItem;
use centrifugo_api::proxy::*;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tower_service::Service;

/// Gives back what it is given.
struct Echo;

impl Proxy for Echo {
    async fn connect(&self, request: ConnectRequest, _: &Caller) -> Result<ConnectResult, Rejection> {
        Ok(ConnectResult::default().user(request.name).data(request.data).channels(request.channels))
    }
    async fn refresh(&self, request: RefreshRequest, _: &Caller) -> Result<RefreshResult, Rejection> {
        Ok(RefreshResult::default().info(request.meta))
    }
    async fn subscribe(&self, request: SubscribeRequest, _: &Caller) -> Result<SubscribeResult, Rejection> {
        Err(Rejection::error(400 + u32::try_from(request.token.len() % 2000)?, request.channel)?)
    }
    async fn publish(&self, request: PublishRequest, _: &Caller) -> Result<PublishResult, Rejection> {
        Ok(PublishResult::default().data(request.data).tags(request.labels))
    }
    async fn rpc(&self, request: RpcRequest, _: &Caller) -> Result<RpcResult, Rejection> {
        Ok(RpcResult::default().data(request.data))
    }
    async fn sub_refresh(&self, request: SubRefreshRequest, _: &Caller) -> Result<SubRefreshResult, Rejection> {
        Err(Rejection::disconnect(4000 + u32::try_from(request.user.len() % 2000)?, request.channel)?)
    }
    async fn map_publish(&self, request: MapPublishRequest, _: &Caller) -> Result<MapPublishResult, Rejection> {
        Ok(MapPublishResult::default().key(request.key).stream_data(request.data))
    }
    async fn map_remove(&self, request: MapRemoveRequest, _: &Caller) -> Result<MapRemoveResult, Rejection> {
        Ok(MapRemoveResult::default().key(request.key).tags(request.labels))
    }
    async fn shared_poll_refresh(
        &self,
        request: SharedPollRefreshRequest,
        _: &Caller,
    ) -> Result<SharedPollRefreshResult, Rejection> {
        let items = request.items.into_iter();
        let items = items.map(|item| SharedPollRefreshResultItem::default().key(item.key).version(item.version));
        Ok(SharedPollRefreshResult::default().items(items))
    }
    async fn notify_channel_state(
        &self,
        request: NotifyChannelStateRequest,
        _: &Caller,
    ) -> Result<NotifyChannelStateResult, Rejection> {
        if request.events.is_empty() {
            Err(std::io::Error::other("none").into())
        } else {
            Ok(NotifyChannelStateResult::default())
        }
    }
}

pub(super) fn calls(input: &[u8]) {
    let Some((first, body)) = input.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let method = Method::ALL[usize::from(first & 0x7f) % Method::ALL.len()];
    runtime.block_on(async {
        if first & 0x80 == 0 {
            let (status, answer) = call(http(Echo), method.name(), Bytes::copy_from_slice(body)).await;
            match status.as_u16() {
                200 => {
                    let answer = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&answer);
                    answer.expect("an answer that is not JSON");
                }
                status => assert!(matches!(status, 400 | 404 | 500), "{status}"),
            }
        } else {
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            let framed = [&[0], &length[..], body].concat();
            let (status, answer) = call(grpc(Echo), method.grpc_name(), framed.into()).await;
            assert_eq!(status.as_u16(), 200);
            assert!(answer.is_empty() || answer.len() >= 5);
            // Frames that are not what they say, and compressed ones.
            call(grpc(Echo), method.grpc_name(), Bytes::copy_from_slice(body)).await;
        }
    });
}

async fn call<S, B>(mut service: S, name: &str, body: Bytes) -> (http::StatusCode, Bytes)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
    B::Error: std::fmt::Debug,
{
    let request = Request::post(format!("/{name}")).header("grpc-encoding", "gzip").body(Full::new(body)).unwrap();
    let (head, body) = service.call(request).await.unwrap().into_parts();
    (head.status, body.collect().await.unwrap().to_bytes())
}
