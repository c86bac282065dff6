//! Random steps on a queue, compared with a model.

use bytes::{Buf as _, Bytes};
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::Value;

use super::*;
use crate::api::idempotency::Key;
use crate::api::message::{BroadcastRequest, PublishRequest};
use crate::api::request::Request;
use crate::batching::command::{Link, Links};
use crate::wire::body::Body as _;

#[derive(Clone, Debug)]
enum Step {
    /// A command of these channels, with so many bytes of data, and perhaps with a key.
    Push {
        channels: Vec<u64>,
        size: usize,
        keyed: bool,
    },
    Take,
    Remove(Index),
    Withdraw(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let channels = || {
        prop_oneof![
            1 => Just(Vec::new()),
            6 => (0..3_u64).prop_map(|channel| vec![channel]),
            2 => (0..40_u64).prop_map(|channel| vec![channel]),
            2 => prop::collection::vec(0..6_u64, 0..4),
        ]
    };
    let size = prop_oneof![8 => 0..20_usize, 1 => 20..400_usize];
    let step = prop_oneof![
        12 => (channels(), size, any::<bool>()).prop_map(|(channels, size, keyed)| Step::Push { channels, size, keyed }),
        3 => Just(Step::Take),
        6 => any::<Index>().prop_map(Step::Remove),
        3 => any::<Index>().prop_map(Step::Withdraw),
    ];
    prop::collection::vec(step, 1..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    let commands = prop_oneof![1..5_usize, Just(1000)];
    let bytes = prop_oneof![1..300_usize, Just(512 * 1024)];
    (commands, bytes).prop_map(|(commands, bytes)| Limits { commands, bytes })
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::PerChannel), Just(Order::Sequential), Just(Order::None)]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Waits,
    /// In the batch with this number.
    Taken(usize),
    Ended,
    Withdrawn,
}

struct Known {
    id: CommandId,
    channels: Vec<u64>,
    size: usize,
    keyed: bool,
    now: Now,
}

struct Model {
    order: Order,
    limits: Limits,
    queue: Queue<Option<usize>>,
    all: Vec<Known>,
    batches: usize,
}

impl Model {
    fn new(order: Order, limits: Limits) -> Self {
        Self { order, limits, queue: Queue::new(order, limits), all: Vec::new(), batches: 0 }
    }

    fn request(&self, id: usize) -> BroadcastRequest {
        let Known { channels, size, keyed, .. } = &self.all[id];
        let names = channels.iter().map(|channel| format!("channel {channel}"));
        let request = BroadcastRequest::new(names, serde_json::json!([id, "x".repeat(*size)]));
        if *keyed { request.skip_history(true) } else { request }
    }

    fn command(&mut self, channels: &[u64], size: usize, keyed: bool) -> (Command<Option<usize>>, BroadcastRequest) {
        let id = self.all.len();
        let command_id = CommandId { index: usize::MAX, number: u64::MAX };
        self.all.push(Known { id: command_id, channels: channels.to_vec(), size, keyed, now: Now::Waits });
        let links = links(if self.order == Order::None { &[] } else { channels });
        let method = BroadcastRequest::METHOD;
        let command = Command { method, repeatable: keyed, deadline: None, retry: None, links, value: Some(id) };
        (command, self.request(id))
    }

    fn push(&mut self, channels: &[u64], size: usize, keyed: bool) {
        let (command, request) = self.command(channels, size, keyed);
        let key = if keyed { Key::new() } else { None };
        let len = request.encoded_len() + key.map_or(0, |_| Key::ENCODED);
        let command_id = self.queue.push(command, len, |encoded| {
            request.encode_raw(encoded);
            if let Some(key) = key {
                key.push(encoded);
            }
        });
        self.all.last_mut().unwrap().id = command_id;
    }

    fn id_of(&self, id: CommandId) -> usize {
        self.all.iter().position(|known| known.id == id).unwrap()
    }

    /// Checks the order: earlier commands of these channels have ended, or precede this one in the same request.
    fn check_order(&self, id: usize, batch: usize, before: &[usize]) {
        if self.order == Order::None {
            return;
        }
        for (earlier, known) in self.all[..id].iter().enumerate() {
            if known.channels.iter().any(|channel| self.all[id].channels.contains(channel)) {
                let is_over = matches!(known.now, Now::Ended | Now::Withdrawn);
                assert!(is_over || before.contains(&earlier), "{id} overtakes {earlier} in request {batch}");
            }
        }
    }

    fn take(&mut self) -> Option<OutgoingBatch> {
        let batch = self.queue.take()?;
        let members: Vec<_> = batch.members().iter().map(|member| self.id_of(member.id)).collect();
        assert!(!members.is_empty() && members.len() <= self.limits.commands);
        let (parallel, requests) = self.decode(&batch);
        assert_eq!(requests, members);
        let len = batch.to_protobuf().unwrap().len();
        assert!(members.len() == 1 || len <= self.limits.bytes, "{len} bytes in {}", self.limits.bytes);
        match self.order {
            Order::None => assert!(parallel || members.len() == 1),
            Order::Sequential => assert!(!parallel),
            Order::PerChannel => {}
        }
        for (index, id) in members.iter().enumerate() {
            assert_eq!(self.all[*id].now, Now::Waits, "{id} is sent twice, or after it was withdrawn");
            let before = if parallel { &[] } else { &members[..index] };
            self.check_order(*id, self.batches, before);
        }
        for id in members {
            self.all[id].now = Now::Taken(self.batches);
        }
        self.batches += 1;
        Some(batch)
    }

    /// Decodes the request in both forms: whether it is parallel, and the ids of its commands.
    fn decode(&self, batch: &OutgoingBatch) -> (bool, Vec<usize>) {
        let (protobuf, json) = (batch.to_protobuf().unwrap(), batch.to_json().unwrap());
        let json: Value = serde_json::from_slice(&json).unwrap();
        if let [_] = batch.members() {
            let id = self.recognize(&protobuf, &json);
            return (false, vec![id]);
        }
        let (parallel, requests) = commands(protobuf);
        assert_eq!(json.get("parallel").is_some_and(|parallel| parallel == true), parallel);
        let texts = json["commands"].as_array().unwrap();
        assert_eq!(texts.len(), requests.len());
        let both = requests.iter().zip(texts);
        (parallel, both.map(|(protobuf, json)| self.recognize(protobuf, &json["broadcast"])).collect())
    }

    fn recognize(&self, protobuf: &[u8], json: &Value) -> usize {
        let request = BroadcastRequest::decode(protobuf).unwrap();
        let data: Value = serde_json::from_slice(&request.data).unwrap();
        let id = usize::try_from(data[0].as_u64().unwrap()).unwrap();
        let mut given = self.request(id);
        if self.all[id].keyed {
            assert_eq!(request.idempotency_key.len(), 32);
            given = given.idempotency_key(&request.idempotency_key);
        }
        assert_eq!(request, given);
        assert_eq!(*json, serde_json::to_value(&given).unwrap());
        id
    }

    /// Checks the halves and the retained commands of a batch, as retries send them.
    fn check_parts(&self, mut batch: OutgoingBatch, number: usize) {
        let (_, all) = self.decode(&batch);
        if all.len() < 2 {
            return;
        }
        let second = batch.split();
        let (one, other) = (self.decode(&batch).1, self.decode(&second).1);
        assert!(!one.is_empty() && !other.is_empty());
        assert_eq!([one, other].concat(), all);
        for mut half in [batch, second] {
            let (_, before) = self.decode(&half);
            let mut index = 0;
            half.retain(|_| {
                index += 1;
                !(index + number).is_multiple_of(3)
            });
            let kept: Vec<_> = before
                .iter()
                .enumerate()
                .filter(|(index, _)| !(index + 1 + number).is_multiple_of(3))
                .map(|(_, id)| *id)
                .collect();
            if !half.is_empty() {
                assert_eq!(self.decode(&half).1, kept);
            }
        }
    }

    fn taken(&self) -> Vec<usize> {
        let taken = |id: &usize| matches!(self.all[*id].now, Now::Taken(_));
        (0..self.all.len()).filter(taken).collect()
    }

    fn remove(&mut self, id: usize) {
        assert_eq!(self.queue.remove(self.all[id].id), Some(Some(id)));
        self.all[id].now = Now::Ended;
        assert_eq!(self.queue.remove(self.all[id].id), None, "it ends once");
    }

    fn withdraw(&mut self, id: usize) {
        let waits = self.all[id].now == Now::Waits;
        assert_eq!(self.queue.withdraw(self.all[id].id), waits.then_some(Some(id)));
        if waits {
            self.all[id].now = Now::Withdrawn;
        }
    }

    fn check(&self) {
        let live = |known: &&Known| matches!(known.now, Now::Waits | Now::Taken(_));
        assert_eq!(self.queue.len(), self.all.iter().filter(live).count());
        let waits = self.all.iter().any(|known| known.now == Now::Waits);
        if waits && self.taken().is_empty() {
            assert!(self.queue.has_batch(), "a command waits, and no batch is offered");
        }
    }
}

/// Decodes a batch: whether it is parallel, and its requests.
fn commands(mut batch: Bytes) -> (bool, Vec<Bytes>) {
    let (mut parallel, mut requests) = (false, Vec::new());
    while batch.has_remaining() {
        match decode_key(&mut batch).unwrap() {
            (1, WireType::LengthDelimited) => {
                let len = usize::try_from(decode_varint(&mut batch).unwrap()).unwrap();
                let mut command = batch.split_to(len);
                let tag = decode_key(&mut command).unwrap();
                assert_eq!(tag, (BroadcastRequest::METHOD.command_tag().unwrap(), WireType::LengthDelimited));
                let len = usize::try_from(decode_varint(&mut command).unwrap()).unwrap();
                assert_eq!(len, command.len());
                requests.push(command);
            }
            (2, WireType::Varint) => parallel = decode_varint(&mut batch).unwrap() == 1,
            other => panic!("{other:?}"),
        }
    }
    (parallel, requests)
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn every_command_is_sent_once_and_in_order(order in orders(), limits in limits(), steps in steps()) {
        let mut model = Model::new(order, limits);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { channels, size, keyed } => model.push(&channels, size, keyed),
                Step::Take => {
                    if let Some(batch) = model.take() {
                        model.check_parts(batch, number);
                    }
                }
                Step::Remove(index) => {
                    let taken = model.taken();
                    if !taken.is_empty() {
                        model.remove(*index.get(&taken));
                    }
                }
                Step::Withdraw(index) => {
                    if !model.all.is_empty() {
                        model.withdraw(index.index(model.all.len()));
                    }
                }
            }
            model.check();
        }
        while model.queue.len() > 0 {
            model.take();
            let taken = model.taken();
            prop_assert!(!taken.is_empty(), "a command waits, and no batch is in flight");
            model.remove(taken[taken.len() / 2]);
            model.check();
        }
        prop_assert!(model.queue.take().is_none());
        prop_assert!(!model.queue.has_batch());
        prop_assert!(model.queue.commands.is_empty() && model.queue.last.is_empty());
        prop_assert_eq!((model.queue.blocked, model.queue.withdrawn, model.queue.open.len()), (0, 0, 0));
        prop_assert!(model.all.iter().all(|known| matches!(known.now, Now::Ended | Now::Withdrawn)));
    }
}

/// The links of these channels.
fn links(channels: &[u64]) -> Links {
    let link = |channel: u64| Link { channel, before: None, behind: None };
    let mut channels = channels.to_vec();
    channels.sort_unstable();
    channels.dedup();
    match channels[..] {
        [] => Links::None,
        [one] => Links::One(link(one)),
        _ => Links::Many(channels.into_iter().map(link).collect()),
    }
}

#[test]
fn commands_withdrawn_behind_a_busy_channel_free_their_memory() {
    for order in [Order::PerChannel, Order::Sequential] {
        for channel in [1, 2] {
            let mut queue = queue(order);
            let busy = push(&mut queue, 1, "a");
            assert_eq!(ids(&queue.take().unwrap()), [busy]);
            for _ in 0..100_000 {
                let late = push(&mut queue, channel, "b");
                assert!(queue.withdraw(late).is_some());
                assert_eq!(queue.len(), 1);
                assert!(queue.commands.capacity() < 1_000 && queue.ready.len() <= FEW_STALE + 2);
                assert!(queue.open.encoded_len() < 10_000, "{}", queue.open.encoded_len());
            }
            let next = push(&mut queue, 1, "c");
            assert!(queue.remove(busy).is_some());
            assert_eq!(ids(&queue.take().unwrap()), [next]);
        }
    }
}

/// A queue without a model.
fn queue(order: Order) -> Queue<Option<u32>> {
    Queue::new(order, Limits { commands: 1000, bytes: 1 << 20 })
}

fn push(queue: &mut Queue<Option<u32>>, channel: u64, data: &str) -> CommandId {
    let request = PublishRequest::new("channel", serde_json::json!(data));
    let (method, links) = (PublishRequest::METHOD, links(&[channel]));
    let command = Command { method, repeatable: false, deadline: None, retry: None, links, value: Some(0) };
    queue.push(command, request.encoded_len(), |encoded| request.encode_raw(encoded))
}

fn ids(batch: &OutgoingBatch) -> Vec<CommandId> {
    batch.members().iter().map(|member| member.id).collect()
}

#[test]
fn a_command_behind_one_that_was_withdrawn_can_be_sent() {
    for order in [Order::PerChannel, Order::Sequential] {
        let mut queue = queue(order);
        let first = push(&mut queue, 1, "a");
        assert_eq!(queue.withdraw(first), Some(Some(0)));
        let second = push(&mut queue, 1, "b");
        assert!(queue.has_batch(), "{order:?}");
        assert_eq!(ids(&queue.take().unwrap()), [second]);
    }
}

#[test]
fn a_command_withdrawn_from_the_middle_of_a_sequential_batch_blocks_nothing() {
    let mut queue = queue(Order::Sequential);
    let (first, second) = (push(&mut queue, 1, "a"), push(&mut queue, 1, "b"));
    assert!(queue.withdraw(second).is_some());
    assert_eq!(ids(&queue.take().unwrap()), [first]);
    // It may reuse the index of the withdrawn one.
    let other = push(&mut queue, 2, "c");
    let third = push(&mut queue, 1, "d");
    assert!(queue.remove(first).is_some());
    let mut left = ids(&queue.take().unwrap());
    left.sort_by_key(|id| id.number);
    assert_eq!(left, [other, third]);
}

#[test]
fn a_command_too_large_for_the_open_batch_keeps_its_order_after_a_withdrawal() {
    let mut queue = queue(Order::Sequential);
    queue.limits.bytes = 100;
    let first = push(&mut queue, 1, "a");
    let second = push(&mut queue, 1, "b");
    assert!(queue.withdraw(second).is_some());
    let third = push(&mut queue, 1, &"c".repeat(90));
    assert_eq!(ids(&queue.take().unwrap()), [first]);
    assert!(queue.take().is_none(), "the third waits for the first");
    assert!(queue.remove(first).is_some());
    assert_eq!(ids(&queue.take().unwrap()), [third]);
}

#[test]
fn commands_of_many_channels_are_parallel_and_those_of_few_channels_sequential() {
    const CHANNELS: usize = 10;
    let mut queue = queue(Order::PerChannel);
    let fill = |queue: &mut Queue<_>, times| {
        for _ in 0..times {
            for channel in 0..CHANNELS as u64 {
                push(queue, channel, "a");
            }
        }
    };
    fill(&mut queue, 1 + FEW_CHANNELS);
    let batch = queue.take().unwrap();
    assert_eq!((batch.members().len(), batch.is_parallel()), (CHANNELS, true));
    for id in ids(&batch) {
        queue.remove(id).unwrap();
    }
    fill(&mut queue, 2);
    let batch = queue.take().unwrap();
    let all = CHANNELS * (2 + FEW_CHANNELS);
    assert_eq!((batch.members().len(), batch.is_parallel()), (all, false));
}

#[test]
fn a_command_that_ends_early_does_not_unblock_those_behind_earlier_ones() {
    let mut queue = queue(Order::Sequential);
    let (first, second) = (push(&mut queue, 1, "a"), push(&mut queue, 1, "b"));
    assert_eq!(ids(&queue.take().unwrap()), [first, second]);
    let third = push(&mut queue, 1, "c");
    assert!(queue.remove(second).is_some());
    assert_eq!(queue.len(), 2);
    assert!(queue.take().is_none(), "the third waits for the first");
    assert!(queue.remove(first).is_some());
    assert_eq!(ids(&queue.take().unwrap()), [third]);
}
