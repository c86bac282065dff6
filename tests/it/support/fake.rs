//! A transport that does what a script says with each request, and remembers them. It needs no socket, so that the clock may
//! be paused.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use centrifugo_api::transport::{BoxFuture, Call, Reply, Transport};
use centrifugo_api::{ApiError, Client, Error};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// From 0.
    pub(crate) number: usize,
    /// Its method: `publish`, `batch`.
    pub(crate) method: String,
    pub(crate) parallel: bool,
    /// The methods of the commands, and their requests.
    pub(crate) commands: Vec<(String, Value)>,
}

impl Sent {
    fn new(number: usize, call: &Call<'_>) -> Self {
        let request: Value = serde_json::from_slice(&call.to_json().unwrap()).unwrap();
        let method = call.method().to_owned();
        if method != "batch" {
            return Self { number, parallel: false, commands: vec![(method.clone(), request)], method };
        }
        let commands = request["commands"].as_array().unwrap().iter();
        let command = |command: &Value| {
            let (method, request) = command.as_object().unwrap().iter().next().unwrap();
            (method.clone(), request.clone())
        };
        let parallel = request["parallel"] == true;
        let commands: Vec<_> = commands.map(command).collect();
        assert!(commands.len() > 1, "one command is sent by itself");
        Self { number, method, parallel, commands }
    }

    /// The data of the publications.
    pub(crate) fn data(&self) -> Vec<Value> {
        self.commands.iter().map(|(_, request)| request["data"].clone()).collect()
    }

    /// The keys of the publications.
    pub(crate) fn keys(&self) -> Vec<String> {
        let key = |request: &Value| request["idempotency_key"].as_str().unwrap_or_default().to_owned();
        self.commands.iter().map(|(_, request)| key(request)).collect()
    }

    /// Every command went well.
    #[allow(clippy::unnecessary_wraps, reason = "as a script returns it")]
    pub(crate) fn done(&self) -> Response {
        Ok(self.commands.iter().map(|_| Ok(json!({}))).collect())
    }

    /// Every command has the result that `how` gives for its data.
    #[allow(clippy::unnecessary_wraps, reason = "as a script returns it")]
    pub(crate) fn each(&self, how: impl Fn(&Value) -> Result<Value, ApiError>) -> Response {
        Ok(self.data().iter().map(how).collect())
    }
}

/// The result of each command, or why there is no response.
pub(crate) type Response = Result<Vec<Result<Value, ApiError>>, Error>;

type Script = dyn Fn(Sent) -> BoxFuture<'static, Response> + Send + Sync;

pub(crate) struct Fake {
    sent: Mutex<Vec<Sent>>,
    running: AtomicUsize,
    most: AtomicUsize,
    script: Box<Script>,
}

impl Fake {
    pub(crate) fn new<F>(script: impl Fn(Sent) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let script: Box<Script> = Box::new(move |sent| Box::pin(script(sent)));
        Arc::new(Self { sent: Mutex::default(), running: AtomicUsize::new(0), most: AtomicUsize::new(0), script })
    }

    /// Responds to each request when there is a permit for it.
    pub(crate) fn held(
        script: impl Fn(&Sent) -> Response + Send + Sync + Clone + 'static,
    ) -> (Arc<Self>, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&permits);
        let fake = Self::new(move |sent| {
            let (gate, script) = (Arc::clone(&gate), script.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                script(&sent)
            }
        });
        (fake, permits)
    }

    pub(crate) fn client(self: &Arc<Self>) -> Client {
        Client::with_transport(Arc::clone(self))
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// How many requests there were at once, at most.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// The data of the publications, request by request.
    pub(crate) fn data(&self) -> Vec<Vec<Value>> {
        self.sent().iter().map(Sent::data).collect()
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Transport for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn endpoint(&self) -> Option<Arc<str>> {
        Some("here".into())
    }

    fn send<'a>(&'a self, call: &'a Call<'a>) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move {
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            let _running = Running(&self.running);
            let sent = {
                let mut all = self.sent.lock().unwrap();
                let sent = Sent::new(all.len(), call);
                all.push(sent.clone());
                sent
            };
            let methods: Vec<_> = sent.commands.iter().map(|(method, _)| method.clone()).collect();
            let is_batch = sent.method == "batch";
            let responses = (self.script)(sent).await?;
            let replies = methods.iter().zip(responses).map(|(method, response)| match response {
                Ok(result) if is_batch => json!({ method: result }),
                Ok(result) => json!({ "result": result }),
                Err(error) => json!({"error": {"code": error.code, "message": error.message}}),
            });
            let replies: Vec<_> = replies.collect();
            let reply = if is_batch { json!({ "replies": replies }) } else { replies[0].clone() };
            Ok(Reply::json(reply.to_string()))
        })
    }
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fake").finish_non_exhaustive()
    }
}
