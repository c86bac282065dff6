//! Faults of the connections and of the server.

use std::sync::Arc;
use std::time::Duration;

use centrifugo_api::message::PublishResponse;
use centrifugo_api::testing::{Fault, Transport};
use centrifugo_api::{ApiError, BroadcastResult, Method, PublishResult};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::harness::{Harness, Shape};
use crate::support::proxy::{End, Lane, Proxy};

impl Harness {
    /// Sets random faults of the connections through one proxy.
    pub(super) async fn inject_network_faults(self: Arc<Self>, proxy: usize, until: Instant, mut rng: Rng) {
        let proxy = &self.proxies[proxy];
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(20..700))).await;
            let end = [End::Fin, End::Rst, End::HalfClose][rng.usize(..3)];
            let mut hold = rng.u64(20..900);
            match rng.u8(..12) {
                0 => {
                    let latency = Duration::from_millis(rng.u64(1..250));
                    either(proxy, &mut rng, |lane| lane.latency = latency);
                }
                1 => {
                    let rate = rng.u32(1_000..300_000);
                    either(proxy, &mut rng, |lane| lane.rate = Some(rate));
                }
                2 => {
                    let slice = rng.usize(1..60);
                    either(proxy, &mut rng, |lane| lane.slice = Some(slice));
                }
                3..6 => {
                    let bytes = if rng.bool() { rng.usize(..400) } else { rng.usize(..60_000) };
                    either(proxy, &mut rng, |lane| lane.limit = Some((bytes, end)));
                }
                6..8 => {
                    if rng.u8(..100) < 20 {
                        hold = 3_000;
                    }
                    either(proxy, &mut rng, |lane| lane.stalled = true);
                }
                8 => proxy.refuse().await,
                9 => {
                    proxy.refuse().await;
                    proxy.cut(if rng.bool() { End::Fin } else { End::Rst });
                }
                10 => {
                    let (latency, bytes) = (Duration::from_millis(rng.u64(1..40)), rng.usize(..20_000));
                    let slice = rng.usize(1..200);
                    either(proxy, &mut rng, |lane| {
                        *lane = Lane { latency, slice: Some(slice), limit: Some((bytes, end)), ..Lane::default() };
                    });
                }
                _ => {
                    for _ in 0..rng.u8(1..4) {
                        proxy.cut(if rng.bool() { End::Fin } else { End::Rst });
                        sleep(Duration::from_millis(rng.u64(..30))).await;
                    }
                    hold = 0;
                }
            }
            sleep(Duration::from_millis(hold)).await;
            proxy.heal();
            proxy.accept();
        }
    }

    /// Sets random faults of the server.
    pub(super) async fn inject_server_faults(self: Arc<Self>, until: Instant, mut rng: Rng) {
        let Some(standin) = &self.standin else { return };
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(10..250))).await;
            // Unused faults must not accumulate.
            standin.clear_faults();
            if rng.u8(..8) == 0 {
                // A storm of GOAWAYs, or a single one.
                for _ in 0..rng.u8(1..20) {
                    standin.drain_connections();
                    sleep(Duration::from_millis(rng.u64(..20))).await;
                }
                continue;
            }
            let over_http = match self.shape {
                Shape::Grpc | Shape::GrpcTwo | Shape::GrpcName => false,
                Shape::Http | Shape::HttpTwo => true,
                Shape::Fallback => rng.bool(),
            };
            let fault = match rng.u8(..16) {
                0 | 1 => Fault::api_error(ApiError::new(ApiError::INTERNAL, "internal server error")),
                2 | 3 => Fault::api_error(ApiError::new(ApiError::TOO_MANY_REQUESTS, "too many requests")),
                4 | 5 if over_http => Fault::http_status([502, 503, 504][rng.usize(..3)]),
                6 | 7 if over_http && rng.bool() => Fault::http_status(429).header("retry-after", "1"),
                6 | 7 if over_http => Fault::http_status(429),
                4..8 => Fault::grpc_status([14, 14, 4, 8][rng.usize(..4)], "not now"),
                8 => Fault::cut_before(),
                9 => Fault::cut_after(),
                10 => Fault::hang_before(),
                11 => Fault::hang_after(),
                12 => Fault::delay(Duration::from_millis(rng.u64(1..1_500))),
                13 => Fault::raw_reply(&b"<html>"[..]),
                14 if over_http => Fault::raw_reply(&br#"{"result":{"offset":"many"}}"#[..]).method(Method::Publish),
                14 => Fault::raw_reply(&[0x12, 1, 8][..]).method(Method::Publish),
                _ => Fault::raw_reply(one_failed(over_http)).method(Method::Broadcast),
            };
            // A reply in the one form is none in the other.
            let over = if over_http { Transport::Http } else { Transport::Grpc };
            standin.fault(fault.transport(over).times(rng.u64(1..5)));
        }
        standin.clear_faults();
    }
}

/// A response to a broadcast to three channels with an error for the second, though all were applied.
fn one_failed(over_http: bool) -> Vec<u8> {
    let (mut well, mut failed) = (PublishResponse::default(), PublishResponse::default());
    well.result = Some(PublishResult::default());
    failed.error = Some(ApiError::new(ApiError::INTERNAL, "internal server error"));
    let mut result = BroadcastResult::default();
    result.responses = vec![well.clone(), failed, well];
    if over_http {
        return format!(r#"{{"result":{}}}"#, serde_json::to_string(&result).unwrap()).into_bytes();
    }
    let mut response = Vec::new();
    prost::encoding::message::encode(2, &result, &mut response);
    response
}

/// Changes one lane, or both.
pub(super) fn either(proxy: &Proxy, rng: &mut Rng, change: impl Fn(&mut Lane)) {
    match rng.u8(..3) {
        0 => proxy.up(change),
        1 => proxy.down(change),
        _ => proxy.both(change),
    }
}
