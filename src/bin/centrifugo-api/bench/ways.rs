//! The ways to publish, and a run of one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use centrifugo_api::{Batch, BroadcastRequest, Client, Payload, PublishRequest};
use tokio::task::JoinSet;

use super::cpu;
use super::numbers::whole;
use crate::failure::Failure;

/// The publications: message `i` goes to channel `i`, from the first again after the last.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) messages: usize,
    pub(super) channels: Arc<[String]>,
    pub(super) payload: Payload,
    pub(super) batch: usize,
}

impl Plan {
    /// The first of the publications.
    pub(super) fn at_most(&self, messages: usize) -> Self {
        Self { messages: self.messages.min(messages), ..self.clone() }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Way {
    /// A request for each, by so many tasks at the same time.
    OneByOne { callers: usize },
    /// Many publications in one request.
    Batches,
    /// Many channels in one publication.
    Broadcast,
}

/// What a run took.
pub(super) struct Run {
    pub(super) elapsed: Duration,
    pub(super) cpu: Option<Duration>,
    /// Of every request, the shortest first.
    pub(super) latencies: Vec<Duration>,
}

impl Way {
    pub(super) fn all(callers: usize) -> Vec<Self> {
        let mut ways = vec![Self::OneByOne { callers: 1 }];
        if callers > 1 {
            ways.push(Self::OneByOne { callers });
        }
        ways.extend([Self::Batches, Self::Broadcast]);
        ways
    }

    /// How many messages a request carries.
    pub(super) fn size(self, plan: &Plan) -> usize {
        match self {
            Self::OneByOne { .. } => 1,
            Self::Batches => plan.batch.min(plan.messages),
            // A channel stands in a broadcast once.
            Self::Broadcast => plan.batch.min(plan.messages).min(plan.channels.len()),
        }
    }

    pub(super) fn callers(self) -> usize {
        match self {
            Self::OneByOne { callers } => callers,
            Self::Batches | Self::Broadcast => 1,
        }
    }

    /// The way's name in the data.
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::OneByOne { .. } => "one_by_one",
            Self::Batches => "batch",
            Self::Broadcast => "broadcast",
        }
    }

    /// The way's name in the table and in the picture.
    pub(super) fn name(self, plan: &Plan) -> String {
        match self {
            Self::OneByOne { callers: 1 } => "1 caller".into(),
            Self::OneByOne { callers } => format!("{} callers", whole(callers)),
            Self::Batches => format!("batches of {}", whole(self.size(plan))),
            Self::Broadcast => format!("broadcast to {}", whole(self.size(plan))),
        }
    }
}

/// Sends all of the plan's publications in one way, and checks the reply to each.
pub(super) async fn run(client: &Client, way: Way, plan: &Plan) -> Result<Run, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let requests = plan.messages.div_ceil(way.size(plan));
    let mut callers = JoinSet::new();
    let mut latencies = Vec::with_capacity(requests);
    let (began, cpu) = (Instant::now(), cpu::used());
    for _ in 0..way.callers().min(requests) {
        let caller = Caller { client: client.clone(), way, plan: plan.clone(), next: Arc::clone(&next) };
        callers.spawn(caller.run(requests));
    }
    // A failure drops the other callers, and so ends them.
    while let Some(done) = callers.join_next().await {
        latencies.extend(done.map_err(|error| Failure::io("a task of the bench ended early", error.into()))??);
    }
    let elapsed = began.elapsed();
    let cpu = cpu.zip(cpu::used()).map(|(before, after)| after.saturating_sub(before));
    latencies.sort_unstable();
    Ok(Run { elapsed, cpu, latencies })
}

/// One of the tasks that publish.
struct Caller {
    client: Client,
    way: Way,
    plan: Plan,
    next: Arc<AtomicUsize>,
}

impl Caller {
    async fn run(self, requests: usize) -> Result<Vec<Duration>, Failure> {
        let size = self.way.size(&self.plan);
        let mut latencies = Vec::new();
        loop {
            let request = self.next.fetch_add(1, Ordering::Relaxed);
            if request >= requests {
                return Ok(latencies);
            }
            let began = Instant::now();
            self.send(request * size, self.plan.messages.min((request + 1) * size)).await?;
            latencies.push(began.elapsed());
        }
    }

    /// Sends the messages from `first` until before `end` in one request.
    async fn send(&self, first: usize, end: usize) -> Result<(), Failure> {
        let Self { client, way, plan, .. } = self;
        let channels = (first..end).map(|message| &plan.channels[message % plan.channels.len()]);
        match way {
            Way::OneByOne { .. } => {
                for channel in channels {
                    client.publish(PublishRequest::new(channel, plan.payload.clone())).await?;
                }
            }
            Way::Batches => {
                let mut batch = Batch::new();
                let published: Vec<_> =
                    channels.map(|channel| batch.push(PublishRequest::new(channel, plan.payload.clone()))).collect();
                let replies = client.batch(&batch).await?;
                for published in published {
                    replies.get(published)?;
                }
            }
            Way::Broadcast => {
                let request = BroadcastRequest::new(channels, plan.payload.clone());
                client.broadcast(&request).await?.all_ok()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_stands_in_a_broadcast_once() {
        let channels: Arc<[String]> = ["a".to_owned(), "b".to_owned()].into();
        let plan = Plan { messages: 10, channels, payload: Payload::default(), batch: 5 };
        assert_eq!(Way::Broadcast.size(&plan), 2);
        assert_eq!(Way::Batches.size(&plan), 5);
    }
}
