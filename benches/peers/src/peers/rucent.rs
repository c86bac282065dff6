//! The crate rucent, which uses the older form of the HTTP API, with every call as commands of a pipe.
//!
//! Neither its client nor its futures are `Send`, so all callers run on the thread that waits for the round. Its connections are
//! driven by the runtime, like those of the others.

use std::rc::Rc;
use std::sync::Arc;

use rucent::client::{Client, Config};
use tokio::task::{LocalSet, spawn_local};

use super::{Failure, check};
use crate::Options;
use crate::measure::{CHANNELS, PAYLOAD, Round, Subject, Turns, Way};

pub fn subject(options: &Options, channels: &Arc<[String]>) -> Subject {
    let (addr, key) = (Some(options.http.clone()), Some(options.api_key.clone()));
    let client = Rc::new(Client::new(Config { addr, key, get_addr: None, http_client: None }));
    let channels = Arc::clone(channels);
    Subject::of_rounds("http", "rucent", move |way, messages| -> Round {
        let (callers, size) = match way {
            Way::Publish(callers) => (callers, 1),
            Way::Batch { size, in_flight } => (in_flight, size),
            Way::Broadcast | Way::Enqueue => (1, CHANNELS),
        };
        let turns = Turns::new(size, messages);
        let (client, channels) = (Rc::clone(&client), Arc::clone(&channels));
        let callers = async move {
            let caller = |_| spawn_local(call(Rc::clone(&client), Arc::clone(&channels), way, size, turns.clone()));
            let callers: Vec<_> = (0..callers).map(caller).collect();
            for caller in callers {
                caller.await??;
            }
            Ok(())
        };
        Box::pin(async move { LocalSet::new().run_until(callers).await })
    })
}

async fn call(client: Rc<Client>, channels: Arc<[String]>, way: Way, size: usize, turns: Turns) -> Result<(), Failure> {
    let text = |error: Box<dyn std::error::Error>| error.to_string();
    while let Some(message) = turns.next() {
        let first = message % CHANNELS;
        match way {
            Way::Publish(_) => {
                client.publish(channels[first].clone(), PAYLOAD, &[]).await.map_err(text)?;
            }
            Way::Batch { .. } => {
                let pipe = client.pipe();
                for channel in &channels[first..first + size] {
                    pipe.add_publish(channel.clone(), PAYLOAD, &[]).map_err(text)?;
                }
                let replies = client.send_pipe(&pipe).await?;
                check(replies.iter().all(|reply| reply.error.is_none() && reply.result.is_some()))?;
            }
            Way::Broadcast => {
                let result = client.broadcast(channels.to_vec(), PAYLOAD, &[]).await.map_err(text)?;
                check(result.responses.len() == size)?;
                check(result.responses.iter().all(|response| response.error.is_none()))?;
            }
            Way::Enqueue => return Err("it has no queue".into()),
        }
    }
    Ok(())
}
