//! Which peers run in which ways, and the project's target ratios.

use crate::Options;
use crate::measure::{Sample, Subject, Way};

const BATCH: Way = Way::Batch { size: 1_000, in_flight: 1 };

/// The default ways of a peer.
fn usual(peer: &str) -> &'static [Way] {
    match peer {
        "this hyper" | "reqwest 10 s" => &[Way::Publish(1), Way::Publish(64), Way::Publish(512)],
        "this 4 conns" | "publisher seq" | "batching" => &[Way::Publish(512)],
        "publisher" => &[Way::Publish(1), Way::Publish(64), Way::Publish(512), Way::Enqueue],
        "publisher none" => &[],
        "cent AutoBatch" => &[Way::Publish(64), Way::Publish(512), Way::Enqueue],
        _ => &[Way::Publish(1), Way::Publish(64), Way::Publish(512), BATCH, Way::Broadcast],
    }
}

/// The ways that show the cost of the server's engine.
fn redis(peer: &str) -> &'static [Way] {
    match peer {
        "cent" | "this" => {
            &[Way::Publish(64), Way::Batch { size: 100, in_flight: 4 }, Way::Batch { size: 1_000, in_flight: 4 }]
        }
        "publisher" | "publisher none" | "cent AutoBatch" => &[Way::Publish(64), Way::Publish(512), Way::Enqueue],
        _ => &[],
    }
}

/// A peer, a way, and its samples, one for each round.
pub struct Contest<'a> {
    pub subject: &'a Subject,
    pub way: Way,
    pub samples: Vec<Sample>,
}

impl Contest<'_> {
    pub fn name(&self) -> String {
        format!("{} {} {}", self.subject.transport, self.subject.name, self.way)
    }

    pub fn messages(&self, options: &Options) -> usize {
        // An engine with a round trip for every publication is far slower than memory.
        let usual = if options.redis { 20_000 } else { self.way.messages(self.subject.share) };
        options.messages.unwrap_or(usual)
    }
}

/// The contests that the options choose, grouped by way.
pub fn chosen<'a>(options: &Options, subjects: &'a [Subject]) -> Vec<Contest<'a>> {
    let mut all = Vec::new();
    let mut order: Vec<Way> = Vec::new();
    for subject in subjects {
        let (usual, redis) = (usual(subject.name), redis(subject.name));
        let of_preset = if options.redis { redis } else { usual };
        let ways = match options.only {
            Some(_) => [usual, redis].concat(),
            None => of_preset.to_vec(),
        };
        for way in ways {
            let contest = Contest { subject, way, samples: Vec::new() };
            let (name, words) = (contest.name(), options.only.as_deref().unwrap_or_default());
            let again = all.iter().any(|other: &Contest<'_>| other.name() == name);
            let fits = |word: &str| match word.strip_prefix('-') {
                Some(word) => !name.contains(word),
                None => name.contains(word),
            };
            if words.split_whitespace().all(fits) && !again {
                order.extend(Some(way).filter(|way| !order.contains(way)));
                all.push(contest);
            }
        }
    }
    // A stable sort, so that the peers stay in their order.
    all.sort_by_key(|contest| order.iter().position(|way| *way == contest.way));
    all
}

#[derive(Clone, Copy)]
pub enum Quantity {
    Rate,
    Cpu,
    Server,
}

impl Quantity {
    pub fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Rate => sample.rate,
            Self::Cpu => sample.cpu_us,
            Self::Server => sample.server_us,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Cpu => "cpu",
            Self::Server => "server cpu",
        }
    }
}

/// A target of the project: the ratio of a figure of this crate to that of a peer in the same way.
pub struct Promise {
    pub this: (&'static str, &'static str),
    pub peer: (&'static str, &'static str),
    pub way: Way,
    pub quantity: Quantity,
    pub target: f64,
}

impl Promise {
    pub fn all() -> Vec<Self> {
        use Quantity::{Cpu, Rate};
        use Way::{Broadcast, Enqueue, Publish};

        let (tonic, cent, auto) = (("grpc", "tonic"), ("http", "cent"), ("http", "cent AutoBatch"));
        let (grpc, http, publisher) = (("grpc", "this"), ("http", "this"), ("grpc", "publisher"));
        let publish = [1, 64, 512].map(Publish);

        let promise = |this, peer, way, quantity, target| Self { this, peer, way, quantity, target };
        let mut all = Vec::new();
        all.extend(publish.map(|way| promise(grpc, tonic, way, Rate, 0.97)));
        all.extend(publish.map(|way| promise(grpc, tonic, way, Cpu, 1.05)));
        all.push(promise(("grpc", "this 4 conns"), tonic, Publish(512), Rate, 1.1));
        all.push(promise(grpc, tonic, BATCH, Cpu, 0.40));
        all.push(promise(grpc, cent, BATCH, Cpu, 0.50));
        for way in [Publish(1), Publish(64), Publish(512), BATCH, Broadcast] {
            all.push(promise(http, cent, way, Rate, 1.0));
            all.push(promise(http, cent, way, Cpu, if way == BATCH { 1.0 } else { 1.15 }));
        }
        all.extend(publish.map(|way| promise(("http", "this hyper"), cent, way, Rate, 1.0)));
        all.extend(publish.map(|way| promise(http, ("http", "reqwest 10 s"), way, Cpu, 1.03)));
        all.push(promise(publisher, grpc, Publish(1), Rate, 0.95));
        all.push(promise(publisher, auto, Publish(64), Rate, 1.3));
        all.push(promise(publisher, auto, Publish(512), Rate, 1.2));
        all.push(promise(publisher, auto, Publish(512), Cpu, 0.5));
        all.push(promise(("grpc", "publisher seq"), auto, Publish(512), Rate, 1.4));
        all.push(promise(publisher, auto, Enqueue, Rate, 1.4));
        all.push(promise(("grpc", "batching"), tonic, Publish(512), Rate, 3.0));
        all
    }

    pub fn is_kept(&self, ratio: f64) -> bool {
        match self.quantity {
            Quantity::Rate => ratio >= self.target,
            Quantity::Cpu | Quantity::Server => ratio <= self.target,
        }
    }
}
