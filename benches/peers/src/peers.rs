//! The peers. Each does the same work as its documentation shows.
//!
//! Every peer makes its requests from the same borrowed channels and payload, so that the copies it needs count as its cost, and
//! checks every response.

mod bare;
mod cent;
pub mod publisher;
mod rucent;
mod this;
mod tonic;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::Options;
use crate::measure::Subject;

/// The timeout for peers without a default: that of the others.
const DEADLINE: Duration = Duration::from_secs(10);

pub type Failure = Box<dyn Error + Send + Sync>;

/// A clone is what one caller holds.
pub trait Peer: Clone + Send + Sync + 'static {
    fn publish(&mut self, channel: &str, payload: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// One request with a publish into each channel, in order.
    fn batch(&mut self, _: &[String], _: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Err("it makes no batches".into()) }
    }

    fn broadcast(&mut self, _: &[String], _: &str) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Err("it makes no broadcasts".into()) }
    }

    /// Publications that do not wait for each other's results. Returns when all results are there.
    fn enqueue(&mut self, _: &[String], _: &str, _: usize) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Err("it has no queue".into()) }
    }
}

/// All peers, in the order of the table.
pub async fn all(options: &Options, channels: &Arc<[String]>) -> Result<Vec<Subject>, Failure> {
    let mut all = vec![
        Subject::new("grpc", "tonic", tonic::Tonic::connect(options).await?, channels),
        Subject::new("grpc", "this", this::This::grpc(options, options.connections)?, channels),
        Subject::new("grpc", "this 4 conns", this::This::grpc(options, 4)?, channels),
        Subject::new("http", "hyper", bare::hyper(options)?, channels),
        Subject::new("http", "reqwest", bare::reqwest(options, None)?, channels),
        Subject::new("http", "reqwest 10 s", bare::reqwest(options, Some(DEADLINE))?, channels),
        rucent::subject(options, channels),
        Subject::new("http", "cent", cent::Cent::new(options)?, channels),
        Subject::new("http", "cent AutoBatch", cent::Cent::auto_batch(options)?, channels).that_shares(),
        Subject::new("http", "this", this::This::http(options)?, channels),
        Subject::new("http", "this hyper", this::This::hyper(options)?, channels),
    ];
    all.extend(publisher::all(options, channels)?);
    all.sort_by_key(|subject| subject.transport);
    Ok(all)
}

fn check(right: bool) -> Result<(), Failure> {
    if right { Ok(()) } else { Err("the response is not the expected one".into()) }
}
