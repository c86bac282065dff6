//! The ledger against the history of the server, and the close of a client.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use centrifugo_api::message::HistoryRemoveRequest;
use centrifugo_api::{HistoryRequest, PublishRequest};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::faults::either;
use super::harness::{Entry, Harness, Kind, Told, id_of, payload, raw};
use super::{LAST_CALLS, SLACK};
use crate::support::counts;
use crate::support::proxy::End;

impl Harness {
    /// Compares the ledger with the history, and empties both.
    pub(super) async fn check(self: Arc<Self>) {
        for proxy in &self.proxies {
            proxy.heal();
            proxy.accept();
        }
        // Waits until messages in flight have arrived.
        sleep(Duration::from_millis(500)).await;
        self.proxies.iter().for_each(|proxy| proxy.cut(End::Rst));
        sleep(Duration::from_millis(200)).await;
        let mut by_channel: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in std::mem::take(&mut *self.ledger.lock().unwrap()) {
            by_channel.entry(entry.channel.clone()).or_default().push(entry);
        }
        for (channel, entries) in by_channel {
            if channel.starts_with("nowhere:") {
                for entry in entries.iter().filter(|entry| matches!(entry.told, Told::Ok | Told::Done)) {
                    self.is_wrong(&format!("{entry} was confirmed where nothing can be"));
                }
                continue;
            }
            let history = HistoryRequest::new(&channel).limit(HistoryRequest::NO_LIMIT);
            let history = self.direct.history(history).await.unwrap();
            self.direct.history_remove(HistoryRemoveRequest::new(&channel)).await.unwrap();
            let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
            for publication in &history.publications {
                match id_of(&publication.data) {
                    Some(id) => places.entry(id).or_default().push(publication.offset),
                    None => self.is_wrong(&format!("{channel}: what was published is not whole")),
                }
            }
            let mut last = 0;
            for entry in entries {
                let places = places.remove(&entry.id).unwrap_or_default();
                let right = match entry.told {
                    Told::Ok | Told::Done => places.len() == 1,
                    Told::Refused | Told::NotSent => places.is_empty(),
                    Told::Unknown | Told::Dropped => places.len() <= 1,
                };
                if !right {
                    self.is_wrong(&format!("{} times there: {entry}", places.len()));
                }
                if let (true, Told::Ok | Told::Done, [place]) = (entry.ordered, entry.told, &places[..]) {
                    if *place <= last {
                        self.is_wrong(&format!("at {place}, after one at {last}: {entry}"));
                    }
                    last = *place;
                }
            }
            for (id, places) in places {
                self.is_wrong(&format!("{channel}: {id} is there {} times, out of nowhere", places.len()));
            }
        }
    }

    /// Closes the client while calls hang.
    pub(super) async fn close(self: Arc<Self>, mut rng: Rng) {
        for proxy in &self.proxies {
            either(proxy, &mut rng, |lane| lane.stalled = true);
        }
        let calls: Vec<_> = (0..LAST_CALLS)
            .map(|_| {
                let harness = Arc::clone(&self);
                tokio::spawn(async move {
                    let (id, channel) = (harness.next(), harness.channel("last"));
                    let result = harness.client.publish(PublishRequest::new(&channel, raw(&payload(id)))).await;
                    harness.note_all(Kind::Publish, id, &channel, false, Some(&result));
                })
            })
            .collect();
        sleep(Duration::from_millis(rng.u64(..400))).await;
        let started = Instant::now();
        let closed = self.client.close(Duration::from_millis(100)).await;
        let took = started.elapsed();
        for call in calls {
            call.await.unwrap();
        }
        // Some of the last calls may have begun after the close.
        let (counted, earlier) = (counts(closed).iter().sum::<u64>(), self.calls.load(Ordering::Relaxed));
        if !(earlier..=earlier + LAST_CALLS).contains(&counted) {
            self.is_wrong(&format!("{closed:?} after {earlier} calls and {LAST_CALLS} at the close"));
        }
        if took > Duration::from_millis(100) + SLACK {
            self.is_wrong(&format!("to close took {took:?}"));
        }
    }
}
