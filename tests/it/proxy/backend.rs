//! A backend whose answers are named in the requests: by `case` in the data of `connect`, by the user, by the channel.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use centrifugo_api::Payload;
use centrifugo_api::proxy::message::{SharedPollRefreshResultItem, SubscribeOptionOverride};
use centrifugo_api::proxy::*;
use serde_json::{Value, json};

#[derive(Clone)]
pub(crate) struct Backend;

fn soon() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + 1
}

/// The answers that every handler has.
async fn common(case: &str) -> Result<(), Rejection> {
    match case {
        "error" => Err(Rejection::error(1042, "no, because")?),
        "temporary" => Err(Rejection::temporary_error(400, "later")?),
        "disconnect" => Err(Rejection::disconnect(4242, "go away")?),
        "final" => Err(Rejection::disconnect(4501, "never again")?),
        "invalid" => Err(Rejection::disconnect(1, "no such code")?),
        "internal" => Err(std::io::Error::other("sesame").into()),
        "panic" => panic!("sesame"),
        "slow" => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

impl Proxy for Backend {
    async fn connect(&self, request: ConnectRequest, from: &Caller) -> Result<ConnectResult, Rejection> {
        let data: Value = serde_json::from_slice(&request.data).unwrap_or_default();
        let case = data["case"].as_str().unwrap_or_default();
        common(case).await?;
        let result = ConnectResult::default().user(case);
        Ok(match case {
            "anonymous" => ConnectResult::default(),
            "headers" => result.data(json!({
                "cookie": from.header("cookie"), "emulated": from.header("x-emulated"), "key": from.header("x-proxy-key"),
            })),
            "binary" => result.data(Payload::binary(vec![0xff, 0])),
            "not_json_meta" => result.meta(Payload::binary(vec![0xff])),
            "full" => result
                .info(json!({"name": "Ann"}))
                .data(json!([1, null, "x"]))
                .channels(["auto"])
                .subs([(
                    "hidden",
                    SubscribeOptions::default()
                        .info(json!("ci"))
                        .data(json!("cd"))
                        .r#override(SubscribeOptionOverride::default().presence(false)),
                )])
                .meta(json!({"plan": "gold"})),
            case if case.starts_with("refresh") => result.expire_at(soon()),
            _ => result,
        })
    }

    async fn refresh(&self, request: RefreshRequest, _: &Caller) -> Result<RefreshResult, Rejection> {
        let case = request.user.strip_prefix("refresh-").unwrap_or_default().to_owned();
        common(&case).await?;
        Ok(match &*case {
            "expired" => RefreshResult::default().expired(true),
            _ => RefreshResult::default().expire_at(soon() + 3600).info(json!({"new": true})),
        })
    }

    async fn subscribe(&self, request: SubscribeRequest, _: &Caller) -> Result<SubscribeResult, Rejection> {
        common(&request.channel).await?;
        let result = SubscribeResult::default();
        Ok(match &*request.channel {
            "full" => result
                .info(json!({"role": "owner"}))
                .data(json!({"hello": request.user}))
                .r#override(SubscribeOptionOverride::default().presence(true).force_positioning(true)),
            "binary" => result.data(Payload::binary(vec![0xff, 0])),
            channel if channel.starts_with("expiring") => result.expire_at(soon()),
            _ => result,
        })
    }

    async fn publish(&self, request: PublishRequest, _: &Caller) -> Result<PublishResult, Rejection> {
        common(&request.channel).await?;
        let result = PublishResult::default();
        Ok(match &*request.channel {
            "full" => result.data(json!({"checked": true})).tags([("kind", "news")]).idempotency_key("k1"),
            "unkept" => result.skip_history(true),
            _ => result,
        })
    }

    async fn rpc(&self, request: RpcRequest, _: &Caller) -> Result<RpcResult, Rejection> {
        common(&request.method).await?;
        Ok(match &*request.method {
            "echo" => RpcResult::default().data(request.data),
            "meta" => RpcResult::default().data(request.meta),
            "binary" => RpcResult::default().data(Payload::binary(vec![0xff, 0])),
            _ => RpcResult::default(),
        })
    }

    async fn sub_refresh(&self, request: SubRefreshRequest, _: &Caller) -> Result<SubRefreshResult, Rejection> {
        let case = request.channel.strip_prefix("expiring-").unwrap_or_default().to_owned();
        common(&case).await?;
        Ok(match &*case {
            "expired" => SubRefreshResult::default().expired(true),
            _ => SubRefreshResult::default().expire_at(soon() + 3600),
        })
    }

    async fn map_publish(&self, request: MapPublishRequest, _: &Caller) -> Result<MapPublishResult, Rejection> {
        common(&request.key).await?;
        Ok(match &*request.key {
            "renamed" => MapPublishResult::default().key("other").data(json!(2)).tags([("a", "b")]),
            _ => MapPublishResult::default(),
        })
    }

    async fn map_remove(&self, request: MapRemoveRequest, _: &Caller) -> Result<MapRemoveResult, Rejection> {
        common(&request.key).await?;
        Ok(MapRemoveResult::default())
    }

    async fn shared_poll_refresh(
        &self,
        request: SharedPollRefreshRequest,
        _: &Caller,
    ) -> Result<SharedPollRefreshResult, Rejection> {
        let items = request.items.iter().map(|item| match &*item.key {
            "gone" => SharedPollRefreshResultItem::default().key("gone").removed(true).version(9),
            key => SharedPollRefreshResultItem::new(key, 7, json!({"price": 1})),
        });
        common(&request.channel).await?;
        Ok(SharedPollRefreshResult::default().items(items).epoch("e1"))
    }
}
