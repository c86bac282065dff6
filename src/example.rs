//! Where the examples of the documentation begin and end. They have a `client`, of the stand-in server if that is built in;
//! otherwise they are compiled and not run.

#[cfg(all(feature = "testing", feature = "grpc"))]
macro_rules! example {
    () => {
        r#"```
# use centrifugo_api::{*, message::*, transport::*};
# use serde_json::{Value, json};
# #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
# let server = testing::Server::builder();
# let server = server.namespace(testing::Namespace::new("board").map(testing::MapMode::Persistent));
# let server = server.namespace(testing::Namespace::new("poll").shared_poll(true)).start().await?;
# let client = Client::new(Config::grpc(server.grpc_url()))?;
"#
    };
}

#[cfg(not(all(feature = "testing", feature = "grpc")))]
macro_rules! example {
    () => {
        example_no_run!()
    };
}

/// For what the stand-in server cannot do.
macro_rules! example_no_run {
    () => {
        r"```no_run
# use centrifugo_api::{*, message::*, transport::*};
# use serde_json::{Value, json};
# async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
"
    };
}

macro_rules! end_of_example {
    () => {
        "# Ok(()) }\n```"
    };
}
