//! Compiles `proto/api.proto` into the messages of the crate, and writes down the facts about them that macros in
//! `src/` turn into code. It decides nothing itself: what a person decides stands in `src/methods.rs`.
//!
//! Three files land in `OUT_DIR`:
//! - `centrifugal.centrifugo.api.rs`: the message types, by prost, without the envelopes (`Command`, `Reply`,
//!   `…Response`) that `src/wire.rs` reads and writes by hand;
//! - `fields.rs`: for every message, its fields in words that `message!` and `setters!` give a shape;
//! - `schema.bin`: the descriptors, which a test compares with the table of methods.

use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

const PACKAGE: &str = "centrifugal.centrifugo.api";
const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file("api.proto")?;
    let schema = Schema::new(compiler.descriptor_pool())?;
    fs::write(out.join("schema.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("fields.rs"), schema.words()?)?;

    let mut files = compiler.file_descriptor_set();
    files.file.retain(|file| file.package() == PACKAGE);
    for file in &mut files.file {
        // prost walks source locations by index, so an envelope is emptied rather than removed, and then not written.
        file.service.clear();
        file.extension.clear();
    }
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).skip_debug(["."]);
    config.message_attribute(".", "#[non_exhaustive]");
    config.extern_path(format!(".{PACKAGE}.Error"), "crate::error::ApiError");
    config.extern_path(format!(".{PACKAGE}.BroadcastResult"), "crate::api::broadcast::BroadcastResult");
    for message in schema.envelopes() {
        config.extern_path(format!(".{}", message.full_name()), format!("crate::wire::{}", message.name()));
    }
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds_with_config(files, config)?;
    Ok(())
}

/// The schema and the answers to what is asked of it.
struct Schema {
    pool: DescriptorPool,
    /// Messages that appear in a request, by full name: they get setters.
    requests: HashSet<String>,
    /// Messages that a user of the crate can meet: those in requests and those in results.
    met: BTreeSet<String>,
}

impl Schema {
    fn new(pool: DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let mut schema = Self { pool, requests: HashSet::new(), met: BTreeSet::new() };
        let service = schema.pool.get_service_by_name(SERVICE).ok_or("no service")?;
        for method in service.methods().filter(|method| method.name() != "Batch") {
            let mut requests = BTreeSet::new();
            reach(&method.input(), &mut requests);
            schema.met.extend(requests.iter().cloned());
            schema.requests.extend(requests);
            let result = method.output().get_field_by_name("result").ok_or("a response without a result")?;
            reach(result.kind().as_message().ok_or("a result that is no message")?, &mut schema.met);
        }
        Ok(schema)
    }

    fn messages(&self) -> impl Iterator<Item = MessageDescriptor> {
        self.pool.all_messages().filter(|message| message.package_name() == PACKAGE && !message.is_map_entry())
    }

    fn envelopes(&self) -> impl Iterator<Item = MessageDescriptor> {
        self.messages().filter(|message| !self.met.contains(message.full_name()) && message.name() != "Error")
    }

    /// The service's name for the method that a field of `Command` calls.
    fn rpc_of(&self, field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
        let service = self.pool.get_service_by_name(SERVICE).ok_or("no service")?;
        let request = field.kind().as_message().cloned();
        let method = service.methods().find(|method| Some(method.input()) == request);
        Ok(method.ok_or("a command of no method")?.name().to_owned())
    }

    /// The words that `message!`, `setters!` and `command_tags!` read.
    fn words(&self) -> Result<String, Box<dyn Error>> {
        let always = self.pool.get_extension_by_name(&format!("{PACKAGE}.always_in_json")).ok_or("no extension")?;
        let mut words = String::new();
        for message in self.messages().filter(|message| self.met.contains(message.full_name())) {
            writeln!(words, "message! {{ {} {{", rust_type(&message))?;
            for field in fields(&message) {
                let options = field.options();
                let written = if options.get_extension(&always).as_bool() == Some(true) { "always" } else { "set" };
                let redact = options.get_field_by_name("debug_redact").and_then(|value| value.as_bool());
                let shown = if redact == Some(true) { "redacted" } else { "shown" };
                let name = field.name();
                let rule = match (field.kind(), message.get_field_by_name(&format!("b64{name}"))) {
                    (Kind::Bytes, Some(twin)) => format!("raw {}", twin.name()),
                    (Kind::Bytes, None) => "raw".into(),
                    _ => "plain".into(),
                };
                writeln!(words, "    {} {name:?} {written} {shown} {rule};", rust_field(name))?;
            }
            writeln!(words, "}} }}")?;
            if self.requests.contains(message.full_name()) && message.fields().len() > 0 {
                writeln!(words, "setters! {{ {} {{", rust_type(&message))?;
                for field in fields(&message) {
                    write!(words, "{}", doc(&field))?;
                    writeln!(words, "    {}: {};", rust_field(field.name()), kind(&field)?)?;
                }
                writeln!(words, "}} }}")?;
            }
        }
        let command = self.pool.get_message_by_name(&format!("{PACKAGE}.Command")).ok_or("no Command")?;
        writeln!(words, "command_tags! {{")?;
        for field in fields(&command) {
            let rpc = self.rpc_of(&field)?;
            writeln!(words, "    {} {} \"/{SERVICE}/{rpc}\";", field.name(), field.number())?;
        }
        writeln!(words, "}}")?;
        Ok(words)
    }
}

/// Adds `message` and every message below it.
fn reach(message: &MessageDescriptor, found: &mut BTreeSet<String>) {
    if message.name() == "Error" || (!message.is_map_entry() && !found.insert(message.full_name().to_owned())) {
        return;
    }
    for field in message.fields() {
        if let Kind::Message(below) = field.kind() {
            reach(&below, found);
        }
    }
}

/// A message's fields in the order of the schema's text, which is the order the server writes JSON in.
fn fields(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    message.descriptor_proto().field.iter().filter_map(|field| message.get_field_by_name(field.name())).collect()
}

/// How a setter takes the field's value.
fn kind(field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
    let one = |kind: Kind| -> Result<String, Box<dyn Error>> {
        Ok(match kind {
            Kind::String => "string".into(),
            Kind::Bytes => "payload".into(),
            Kind::Bool => "bool".into(),
            Kind::Int32 => "i32".into(),
            Kind::Int64 => "i64".into(),
            Kind::Uint32 => "u32".into(),
            Kind::Uint64 => "u64".into(),
            Kind::Double => "f64".into(),
            Kind::Message(message) => format!("(message {})", rust_type(&message)),
            other => return Err(format!("{}: no setter for {other:?}", field.full_name()).into()),
        })
    };
    Ok(match field.kind() {
        Kind::Message(entry) if field.is_map() => format!("(map {})", one(entry.map_entry_value_field().kind())?),
        kind if field.cardinality() == Cardinality::Repeated => format!("(list {})", one(kind)?),
        kind => one(kind)?,
    })
}

/// The field's comment, as an attribute.
fn doc(field: &FieldDescriptor) -> String {
    let file = field.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
    let comment = locations
        .filter(|location| location.path == field.path())
        .find_map(|location| location.leading_comments.as_deref());
    comment.unwrap_or_default().lines().fold(String::new(), |doc, line| format!("{doc}    #[doc = {line:?}]\n"))
}

/// The name prost gives the message's type.
fn rust_type(message: &MessageDescriptor) -> String {
    match message.name() {
        name if name.starts_with("RPC") => name.replacen("RPC", "Rpc", 1),
        name => name.into(),
    }
}

/// The name prost gives the field.
fn rust_field(name: &str) -> String {
    if name == "override" { format!("r#{name}") } else { name.into() }
}
