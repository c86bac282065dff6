//! The client that tonic generates from the schema with nothing configured: the peer over gRPC.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let mut files = protox::compile(["../../proto/api.proto"], ["../../proto"])?;
    // Descriptors of options, which no message of the API holds.
    files.file.retain(|file| file.package() == "centrifugal.centrifugo.api");
    tonic_prost_build::configure().build_server(false).compile_fds_with_config(files, prost_build::Config::new())?;
    Ok(())
}
