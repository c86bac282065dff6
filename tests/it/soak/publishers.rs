//! Publishers that record the outcome of each publication.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use centrifugo_api::{Batch, BroadcastRequest, Client, Error, PublishRequest, Retry};
use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use super::harness::{Entry, Harness, Kind, Told, payload, raw, retry};
use super::{DEADLINE, SLACK, join};

impl Harness {
    /// Runs publishers and faults until then.
    pub(super) async fn round(self: Arc<Self>, until: Instant, mut rng: Rng) {
        let mut publishers = Vec::new();
        for number in 0..4 {
            publishers.push(tokio::spawn(Arc::clone(&self).publish_in_turn(
                self.channel(&format!("turn-{number}")),
                until,
                rng.fork(),
            )));
        }
        publishers.push(tokio::spawn(Arc::clone(&self).publish_at_once(self.channel("at-once"), until, rng.fork())));
        publishers.push(tokio::spawn(Arc::clone(&self).broadcast(until, rng.fork())));
        publishers.push(tokio::spawn(Arc::clone(&self).batch(until, rng.fork())));
        let mut faults = Vec::new();
        for proxy in 0..self.proxies.len() {
            faults.push(tokio::spawn(Arc::clone(&self).inject_network_faults(proxy, until, rng.fork())));
        }
        if self.standin.is_some() {
            faults.push(tokio::spawn(Arc::clone(&self).inject_server_faults(until, rng.fork())));
        }
        for publisher in publishers {
            publisher.await.unwrap();
        }
        for fault in faults {
            fault.await.unwrap();
        }
    }

    /// Waits for a call, perhaps not to its end, and looks at the clock.
    pub(super) async fn call<T>(
        &self,
        rng: &mut Rng,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let result = if rng.u8(..100) < 8 {
            timeout(Duration::from_micros(rng.u64(..40_000)), call).await.ok()
        } else {
            Some(call.await)
        };
        let over = started.elapsed().saturating_sub(deadline);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = over.max(*slowest);
        drop(slowest);
        if over > SLACK {
            self.is_wrong(&format!("a call took {over:?} longer than its deadline of {deadline:?}"));
        }
        result
    }

    /// The client for one call, and its deadline.
    pub(super) fn client(&self, rng: &mut Rng) -> (Client, Duration) {
        let (client, deadline) = match rng.u8(..100) {
            0..15 => {
                let deadline = Duration::from_millis(rng.u64(1..200));
                (self.client.with_timeout(deadline), deadline)
            }
            _ => (self.client.clone(), DEADLINE),
        };
        let retries = Retry::new().idempotency_keys(self.keys);
        let client = match rng.u8(..100) {
            0..5 => client.with_retry(None),
            5..12 => client.with_retry(retry(retries.wait_for_ready(true), &self.repeats)),
            12..20 => client.with_retry(retry(retries.attempts(8), &self.repeats).attempt_timeout(None)),
            _ => client,
        };
        (client, deadline)
    }

    /// One publication after the other.
    pub(super) async fn publish_in_turn(self: Arc<Self>, channel: String, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let id = self.next();
            let request = PublishRequest::new(&channel, raw(&payload(id)));
            if rng.u8(..100) < 10 {
                self.publish_until_confirmed(id, &channel, request, &mut rng).await;
                continue;
            }
            let (client, deadline) = self.client(&mut rng);
            let result = self.call(&mut rng, deadline, client.publish(&request)).await;
            self.note_all(Kind::Publish, id, &channel, true, result.as_ref());
        }
    }

    /// With a key of its own, until it is confirmed.
    pub(super) async fn publish_until_confirmed(&self, id: u64, channel: &str, request: PublishRequest, rng: &mut Rng) {
        let request = request.idempotency_key(format!("own-{id}"));
        let mut maybe = false;
        for _ in 0..4 {
            let (client, deadline) = self.client(rng);
            let result = self.call(rng, deadline, client.publish(&request)).await;
            if matches!(result, Some(Ok(_))) {
                return self.note_all(Kind::Publish, id, channel, true, result.as_ref());
            }
            maybe |= result.is_none_or(|result| result.is_err_and(|error| error.may_have_run()));
        }
        let told = if maybe { Told::Unknown } else { Told::NotSent };
        let why = "stubborn".to_owned();
        self.note(Kind::Publish, Entry { id, channel: channel.to_owned(), told, ordered: true, why });
    }

    /// Many at the same time.
    pub(super) async fn publish_at_once(self: Arc<Self>, channel: String, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.u64(..800))).await;
            let calls = (0..rng.usize(2..40)).map(|_| {
                let (harness, channel, mut rng) = (Arc::clone(&self), channel.clone(), rng.fork());
                async move {
                    let id = harness.next();
                    let (client, deadline) = harness.client(&mut rng);
                    let request = PublishRequest::new(&channel, raw(&payload(id)));
                    let result = harness.call(&mut rng, deadline, client.publish(request)).await;
                    harness.note_all(Kind::Publish, id, &channel, false, result.as_ref());
                }
            });
            join(calls).await;
        }
    }

    pub(super) async fn broadcast(self: Arc<Self>, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let id = self.next();
            // Now and then one of the channels is of a namespace that the server does not have.
            let second = if rng.u8(..100) < 20 { "nowhere:cast".into() } else { self.channel("cast-1") };
            let channels = [self.channel("cast-0"), second, self.channel("cast-2")];
            let (client, deadline) = self.client(&mut rng);
            let request = BroadcastRequest::new(&channels, raw(&payload(id)));
            let result = self.call(&mut rng, deadline, client.broadcast(&request)).await;
            match &result {
                Some(Ok(result)) => {
                    for (channel, response) in channels.iter().zip(&result.responses) {
                        let result = match &response.error {
                            None => Ok(()),
                            Some(error) => Err(Error::from(error.clone())),
                        };
                        self.note_all(Kind::Broadcast, id, channel, true, Some(&result));
                    }
                }
                _ => channels
                    .iter()
                    .for_each(|channel| self.note_all(Kind::Broadcast, id, channel, true, result.as_ref())),
            }
        }
    }

    pub(super) async fn batch(self: Arc<Self>, until: Instant, mut rng: Rng) {
        while Instant::now() < until {
            pause(&mut rng).await;
            let parallel = rng.u8(..100) < 25;
            let with_keys = rng.bool();
            let mut batch = Batch::new().parallel(parallel).idempotency_keys(with_keys);
            let commands: Vec<_> = (0..rng.usize(1..8))
                .map(|_| {
                    let id = self.next();
                    let channel = match (parallel, rng.u8(..100)) {
                        (_, 0..5) => "nowhere:batch".into(),
                        (true, _) => self.channel("batch-parallel"),
                        (false, 5..50) => self.channel("batch-0"),
                        (false, _) => self.channel("batch-1"),
                    };
                    let publish = batch.push(PublishRequest::new(&channel, raw(&payload(id))));
                    (id, channel, publish)
                })
                .collect();
            let (client, deadline) = self.client(&mut rng);
            let result = self.call(&mut rng, deadline, client.batch(&batch)).await;
            for (id, channel, handle) in commands {
                match &result {
                    Some(Ok(replies)) => {
                        self.note_all(Kind::Batch, id, &channel, !parallel, Some(&replies.get(handle)));
                    }
                    Some(Err(_)) | None => self.note_all(Kind::Batch, id, &channel, !parallel, result.as_ref()),
                }
            }
        }
    }
}

async fn pause(rng: &mut Rng) {
    sleep(Duration::from_micros(rng.u64(..40_000))).await;
}
