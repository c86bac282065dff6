//! Random calls of a publisher over a transport with random faults, compared with what the transport applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use centrifugo_api::config::Order;
use centrifugo_api::transport::BoxFuture;
use centrifugo_api::{ApiError, Batching, Error, ErrorKind, Outcome, Publisher, PublisherConfig, Retry};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::{ORDERS, later, message};
use crate::support::SECOND;
use crate::support::fake::{Fake, Sent};

/// What the server has applied: the numbers of the messages of each channel, and the keys that it knows.
#[derive(Default)]
struct Applied {
    channels: BTreeMap<String, Vec<u64>>,
    keys: BTreeSet<String>,
    /// Each request, and what came of it.
    log: Vec<String>,
}

/// The number of a message and its outcome, if there was one.
type Told = (u64, Option<Outcome>);

/// A server with random faults, which applies requests immediately.
fn random_server(seed: u64, order: Order) -> (Arc<Fake>, Arc<Mutex<Applied>>) {
    let applied = Arc::new(Mutex::new(Applied::default()));
    let (done, random) = (Arc::clone(&applied), Mutex::new(Rng::with_seed(seed)));
    let fake = Fake::new(move |sent: Sent| {
        let mut random = random.lock().unwrap();
        let mut done = done.lock().unwrap();
        let channels: Vec<_> = sent.commands.iter().map(|(_, request)| &request["channel"]).collect();
        if sent.parallel && order != Order::None {
            let different: BTreeSet<_> = channels.iter().map(|channel| channel.as_str()).collect();
            assert_eq!(different.len(), channels.len(), "a channel is twice in a parallel request");
        }
        let mut apply = |request: &Value| {
            let key = request["idempotency_key"].as_str().map(str::to_owned);
            if key.is_none_or(|key| done.keys.insert(key)) {
                let channel = request["channel"].as_str().unwrap().to_owned();
                done.channels.entry(channel).or_default().push(request["data"].as_u64().unwrap());
            }
        };
        let mut numbers: Vec<_> = (0..sent.commands.len()).collect();
        if sent.parallel {
            random.shuffle(&mut numbers);
        }
        let whole = match random.u8(..20) {
            0 => Some(Error::new(ErrorKind::Connect, "connection refused")),
            1 => Some(Error::new(ErrorKind::Lost, "no response")),
            2 => {
                // Some of it, perhaps all.
                let until = random.usize(..=numbers.len());
                numbers[..until].iter().for_each(|index| apply(&sent.commands[*index].1));
                Some(Error::new(ErrorKind::Lost, "no response"))
            }
            3 => Some(Error::new(ErrorKind::Unavailable, "later").with_outcome(Outcome::Refused)),
            4 if sent.commands.len() > 1 => {
                Some(Error::new(ErrorKind::TooLarge, "too large").with_outcome(Outcome::Refused))
            }
            _ => None,
        };
        // Longer than an attempt: after such a timeout, refused commands would be retried behind applied ones.
        let is_slow = random.u8(..40) == 0;
        let time = Duration::from_millis(if is_slow { 30_000 } else { random.u64(..50) });
        let mut responses: Vec<_> = sent.commands.iter().map(|_| Ok(json!({}))).collect();
        if whole.is_none() {
            for index in numbers {
                let refusal = match random.u8(..30) {
                    _ if is_slow => None,
                    0 | 1 => Some(later()),
                    2 => Some(ApiError::new(107, "bad")),
                    3 => Some(ApiError::new(100, "broken")),
                    _ => None,
                };
                // In a sequential batch, a command that is applied but reports an error would be overtaken by earlier retries.
                let may_run = sent.parallel || sent.commands.len() == 1;
                let runs = refusal.as_ref().is_none_or(|refusal| refusal.code == 100 && may_run && random.bool());
                if runs {
                    apply(&sent.commands[index].1);
                }
                if let Some(refusal) = refusal {
                    responses[index] = Err(refusal);
                }
            }
        }
        let codes: Vec<_> =
            responses.iter().map(|response| response.as_ref().map_err(|error| error.code).err()).collect();
        let whole_kind = whole.as_ref().map(Error::kind);
        done.log.push(format!("{:?}, parallel {}: {whole_kind:?}, {codes:?}, {time:?}", sent.data(), sent.parallel));
        async move {
            tokio::time::sleep(time).await;
            whole.map_or(Ok(responses), Err)
        }
    });
    (fake, applied)
}

async fn run(seed: u64) {
    // Of the waits between attempts.
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let order = ORDERS[random.usize(..3)];
    let (fake, applied) = random_server(seed, order);
    let client = fake.client().with_retry(Retry::new().attempts(random.u32(1..6))).with_timeout(10 * SECOND);
    let batching = Batching::new().in_flight(random.usize(1..4)).max_commands(random.usize(1..12));
    let batching = if random.u8(..5) == 0 { batching.linger(SECOND / 100) } else { batching };
    let keys = random.bool();
    let config = PublisherConfig::new().order(order).idempotency_keys(keys).max_messages(random.usize(5..60));
    let publisher = Publisher::new(&client, config.batching(batching)).unwrap();
    let channels = random.u64(1..6);
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let (mut tasks, mut flushes) = (JoinSet::new(), JoinSet::new());
    for number in 0..200_u64 {
        // One after the other, so that their order is that of their numbers.
        let channel = (u64::from(number.trailing_zeros()) % channels).to_string();
        let request = message(&channel, number);
        let told = Arc::clone(&told);
        let tell = move |outcome| told.lock().unwrap().push((number, outcome));
        match random.u8(..10) {
            0 => {
                let patience = Duration::from_millis(random.u64(..100));
                let publish = publisher.publish(request);
                let mut publish: BoxFuture<'_, _> = Box::pin(publish);
                // Dropped after a while, it has an unknown end.
                match tokio::time::timeout(patience, &mut publish).await {
                    Ok(Ok(_)) => tell(Some(Outcome::Done)),
                    Ok(Err(error)) => tell(Some(error.outcome())),
                    Err(_) => tell(None),
                }
            }
            1 => match publisher.try_enqueue(request) {
                Ok(ticket) => tell(ticket.cancel().ok().map(|()| Outcome::NotSent)),
                Err(error) => tell(Some(error.outcome())),
            },
            _ => match publisher.enqueue(request).await {
                Ok(ticket) => drop(tasks.spawn(async move {
                    let outcome = ticket.await.map_or_else(|error| error.outcome(), |_| Outcome::Done);
                    tell(Some(outcome));
                })),
                Err(error) => tell(Some(error.outcome())),
            },
        }
        if random.u8(..30) == 0 {
            let publisher = publisher.clone();
            flushes.spawn(async move { publisher.flush().await });
        }
        if random.u8(..6) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
        }
    }
    if random.bool() {
        let totals = publisher.flush().await;
        assert_eq!(publisher.close(SECOND).await, totals);
    } else {
        publisher.close(Duration::from_millis(random.u64(..20_000))).await;
    }
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    while flushes.join_next().await.transpose().unwrap().is_some() {}
    let totals = publisher.flush().await;
    assert_eq!(publisher.close(SECOND).await, totals);
    assert!(crate::support::counts(totals).iter().sum::<u64>() <= 200, "{totals:?}");
    let (applied, told) = (applied.lock().unwrap(), told.lock().unwrap());
    assert_eq!(told.len(), 200, "each is told once");
    for (channel, numbers) in &applied.channels {
        let mut once = numbers.clone();
        once.sort_unstable();
        assert!(
            order == Order::None || once == *numbers,
            "{order:?}, {channel}: {numbers:?}\n{}",
            applied.log.join("\n")
        );
        once.dedup();
        assert_eq!(once.len(), numbers.len(), "{channel}: {numbers:?}");
    }
    let all: BTreeSet<u64> = applied.channels.values().flatten().copied().collect();
    for (number, outcome) in &*told {
        match outcome {
            Some(Outcome::Done) => assert!(all.contains(number), "{number} is lost"),
            Some(Outcome::NotSent | Outcome::Refused) => {
                assert!(!all.contains(number), "{number} was applied out\n{}", applied.log.join("\n"));
            }
            Some(Outcome::Unknown) | None => {}
        }
    }
}

#[test]
fn random_faults_leave_outcomes_true_and_messages_in_order() {
    let given = std::env::var("CENTRIFUGO_PUBLISHER_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in given.map_or(0..300, |seed| seed..seed + 1) {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(async {
                // Of the paused clock: nothing waits for ever.
                tokio::time::timeout(3600 * SECOND, run(seed)).await.expect("it hangs");
            });
        }));
        assert!(ran.is_ok(), "with CENTRIFUGO_PUBLISHER_SEED={seed}");
    }
}
