//! Compiles `proto/` into the messages of the crate. Decisions about methods are in `src/api/methods.rs`.
//!
//! Writes to `OUT_DIR`, all but the last in Rust:
//! - `centrifugal.centrifugo.api.rs` and `….proxy.rs`: the message types, by prost, without the envelopes (`Command`, `Reply`,
//!   `…Response`) that `src/wire.rs` and `src/proxy/answer.rs` read and write by hand;
//! - `messages.rs` and `proxy_messages.rs`: for every message its setters, its JSON form, and a `Debug` that shows no payload;
//! - `methods.rs`: the path of every method over gRPC, and its number in a batch;
//! - `fields.rs`: the number and the kind of every field, for the stand-in server;
//! - `schema.bin` and `proxy_schema.bin`: the descriptors, which tests compare with the tables of methods.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor};

const PACKAGE: &str = "centrifugal.centrifugo.api";
const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";
const PROXY: &str = "centrifugal.centrifugo.proxy";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);

    let mut compiler = compile("api.proto")?;
    let schema = Schema::of_api(compiler.descriptor_pool())?;
    fs::write(out.join("schema.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("messages.rs"), schema.messages_file()?)?;
    fs::write(out.join("methods.rs"), schema.methods_file()?)?;
    fs::write(out.join("fields.rs"), schema.fields_file())?;
    let own = [
        ("Error", "crate::error::ApiError".to_owned()),
        ("BroadcastResult", "crate::api::broadcast::BroadcastResult".to_owned()),
    ];
    write_messages(&mut compiler, &schema, own)?;

    if env::var_os("CARGO_FEATURE_PROXY").is_some() {
        let mut compiler = compile("proxy.proto")?;
        let schema = Schema::of_proxy(compiler.descriptor_pool())?;
        fs::write(out.join("proxy_schema.bin"), compiler.encode_file_descriptor_set())?;
        fs::write(out.join("proxy_messages.rs"), schema.messages_file()?)?;
        let own = [
            ("Error", "crate::error::ApiError".to_owned()),
            ("Disconnect", "crate::api::message::Disconnect".to_owned()),
        ];
        write_messages(&mut compiler, &schema, own)?;
    }
    Ok(())
}

fn compile(file: &str) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_file(file)?;
    Ok(compiler)
}

/// Has prost write the messages, but for the envelopes and those that the crate defines itself.
fn write_messages(
    compiler: &mut protox::Compiler,
    schema: &Schema,
    own: [(&str, String); 2],
) -> Result<(), Box<dyn Error>> {
    let package = schema.package;
    let mut files = compiler.file_descriptor_set();
    files.file.retain(|file| file.package() == package);
    for file in &mut files.file {
        // prost walks source locations by index, so an envelope is emptied rather than removed, and then not written.
        file.service.clear();
        file.extension.clear();
    }
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]).skip_debug(["."]);
    config.message_attribute(".", "#[non_exhaustive]");
    for (name, path) in own {
        config.extern_path(format!(".{package}.{name}"), path);
    }
    for message in schema.envelopes() {
        config.extern_path(format!(".{}", message.full_name()), format!("crate::wire::{}", message.name()));
    }
    let fields: Vec<_> = schema.fields_of_built().collect();
    // The documentation of a field is at its setter.
    config.disable_comments(fields.iter().map(|field| format!(".{}", field.full_name())));
    for field in fields {
        let link = format!("#[doc = \"See the [setter](Self::{}()).\"]", field.name());
        config.field_attribute(format!(".{}", field.full_name()), link);
    }
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds_with_config(files, config)?;
    Ok(())
}

/// The schema, and facts derived from it.
struct Schema {
    package: &'static str,
    pool: DescriptorPool,
    service: ServiceDescriptor,
    always_in_json: Option<ExtensionDescriptor>,
    /// Messages that a user builds, by full name: those in the requests of the API, and in the results of the proxy.
    built: Names,
    /// Messages that a user reads.
    read: Names,
}

impl Schema {
    fn of_api(pool: DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let always = pool.get_extension_by_name(&format!("{PACKAGE}.always_in_json")).ok_or("no extension")?;
        let (service, requests, results) = read_service(&pool, SERVICE)?;
        Ok(Self { package: PACKAGE, pool, service, always_in_json: Some(always), built: requests, read: results })
    }

    fn of_proxy(pool: DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let (service, requests, results) = read_service(&pool, &format!("{PROXY}.CentrifugoProxy"))?;
        Ok(Self { package: PROXY, pool, service, always_in_json: None, built: results, read: requests })
    }

    fn messages(&self) -> impl Iterator<Item = MessageDescriptor> {
        self.pool.all_messages().filter(|message| message.package_name() == self.package && !message.is_map_entry())
    }

    fn envelopes(&self) -> impl Iterator<Item = MessageDescriptor> {
        self.messages().filter(|message| !self.is_met(message) && !matches!(message.name(), "Error" | "Disconnect"))
    }

    fn is_built(&self, message: &MessageDescriptor) -> bool {
        self.built.contains(message.full_name())
    }

    /// Whether the message is part of a request or a result.
    fn is_met(&self, message: &MessageDescriptor) -> bool {
        self.is_built(message) || self.read.contains(message.full_name())
    }

    /// The fields of messages that a user only builds.
    fn fields_of_built(&self) -> impl Iterator<Item = FieldDescriptor> {
        let only = |message: &MessageDescriptor| self.is_built(message) && !self.read.contains(message.full_name());
        self.messages().filter(only).flat_map(|message| fields(&message))
    }

    /// Whether the server writes the field even when it is zero.
    fn is_always_in_json(&self, field: &FieldDescriptor) -> bool {
        let always = self.always_in_json.as_ref();
        always.is_some_and(|always| field.options().get_extension(always).as_bool() == Some(true))
    }

    fn messages_file(&self) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        for message in self.messages() {
            // The API has the same one, and the rest of the crate uses that.
            let is_error = message.name() == "Error" && self.package == PACKAGE;
            if self.is_met(&message) {
                self.write_methods(&message, &mut out)?;
            } else if !is_error {
                continue;
            }
            self.write_json(&message, &mut out)?;
            self.write_debug(&message, &mut out)?;
        }
        Ok(out)
    }

    /// Setters for every field, and methods that decode what results hold in bytes.
    fn write_methods(&self, message: &MessageDescriptor, out: &mut String) -> Result<(), Box<dyn Error>> {
        if message.fields().len() == 0 {
            return Ok(());
        }
        let (name, is_built) = (rust_type(message), self.is_built(message));
        let mut methods = Vec::new();
        for field in fields(message) {
            let sets = format!(" Sets `{}`, for a fake.", field.name());
            let doc = if is_built { comment(&field) } else { sets };
            let doc = doc.lines().fold(String::new(), |doc, line| doc + "    ///" + line + "\n");
            let (field, (argument, value)) = (rust_field(field.name()), setter(&field)?);
            methods.push(format!(
                "{doc}    #[must_use]
    pub fn {field}(mut self, {field}: {argument}) -> Self {{
        self.{field} = {value};
        self
    }}
"
            ));
        }
        for field in fields(message).iter().filter(|field| field.kind() == Kind::Bytes && !is_built) {
            let field = field.name();
            let method = if field == "data" { "json".into() } else { format!("{field}_json") };
            methods.push(format!(
                "    /// Decodes `{field}` from JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) when it is not JSON of that type.
    pub fn {method}<T: DeserializeOwned>(&self) -> Result<T, Error> {{
        payload::decode(\"`{field}` of `{name}`\", &self.{field})
    }}
"
            ));
        }
        writeln!(out, "impl {name} {{\n{}}}\n", methods.join("\n"))?;
        Ok(())
    }

    /// The message's JSON form, by the rules of `src/wire/json.rs`.
    fn write_json(&self, message: &MessageDescriptor, out: &mut String) -> Result<(), Box<dyn Error>> {
        let (name, fields) = (rust_type(message), fields(message));
        let names: Vec<_> = fields.iter().map(FieldDescriptor::name).collect();
        let map = if fields.is_empty() { "_" } else { "map" };
        writeln!(
            out,
            "impl Fields for {name} {{
    const NAME: &'static str = \"{name}\";
    const NAMES: &'static [&'static str] = &{names:?};

    fn write_fields<M: SerializeMap>(&self, {map}: &mut M) -> Result<(), M::Error> {{"
        )?;
        for field in &fields {
            let (json, rust) = (field.name(), rust_field(field.name()));
            let twin = message.get_field_by_name(&format!("b64{json}"));
            match (field.kind(), twin) {
                (Kind::Bytes, Some(twin)) => writeln!(
                    out,
                    "        json::write_bytes_or_base64(map, {json:?}, &self.{rust}, {0:?}, &self.{0})?;",
                    twin.name()
                )?,
                (Kind::Bytes, None) => writeln!(out, "        json::write_bytes(map, {json:?}, &self.{rust})?;")?,
                _ if self.is_always_in_json(field) => {
                    writeln!(out, "        json::write_always(map, {json:?}, &self.{rust})?;")?;
                }
                _ => writeln!(out, "        json::write(map, {json:?}, &self.{rust})?;")?,
            }
        }
        writeln!(
            out,
            "        Ok(())
    }}

    fn read_field<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {{
        match field {{"
        )?;
        for (index, field) in fields.iter().enumerate() {
            writeln!(out, "            {index} => self.{} = json::read(map)?,", rust_field(field.name()))?;
        }
        writeln!(
            out,
            "            _ => json::skip(map)?,
        }}
        Ok(())
    }}
}}

impl serde::Serialize for {name} {{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{
        json::serialize(self, serializer)
    }}
}}

impl<'de> serde::Deserialize<'de> for {name} {{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{
        json::deserialize(deserializer)
    }}
}}
"
        )?;
        Ok(())
    }

    /// A `Debug` that shows the set fields of a request and all fields of a result, with only the size of secret values.
    fn write_debug(&self, message: &MessageDescriptor, out: &mut String) -> Result<(), Box<dyn Error>> {
        let name = rust_type(message);
        writeln!(
            out,
            "impl fmt::Debug for {name} {{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {{
        let mut message = f.debug_struct(\"{name}\");"
        )?;
        for field in fields(message) {
            let (json, rust) = (field.name(), rust_field(field.name()));
            let redact = field.options().get_field_by_name("debug_redact").and_then(|value| value.as_bool());
            let shown = if redact == Some(true) {
                format!("&json::Redacted(json::Value::size(&self.{rust}))")
            } else {
                format!("&self.{rust}")
            };
            if self.is_built(message) {
                writeln!(
                    out,
                    "        if !json::Value::is_unset(&self.{rust}) {{
            message.field({json:?}, {shown});
        }}"
                )?;
            } else {
                writeln!(out, "        message.field({json:?}, {shown});")?;
            }
        }
        writeln!(
            out,
            "        message.finish()
    }}
}}
"
        )?;
        Ok(())
    }

    fn methods_file(&self) -> Result<String, Box<dyn Error>> {
        let command = self.pool.get_message_by_name(&format!("{PACKAGE}.Command")).ok_or("no Command")?;
        let (mut paths, mut tags) = (String::new(), String::new());
        for method in self.service.methods() {
            let (rpc, input) = (rust_name(method.name()), method.input());
            let tag =
                command.fields().find(|field| field.kind().as_message() == Some(&input)).map(|field| field.number());
            writeln!(paths, "            Self::{rpc} => \"/{SERVICE}/{}\",", method.name())?;
            writeln!(tags, "            Self::{rpc} => {tag:?},")?;
        }
        Ok(format!(
            "impl Method {{
    /// The method's path over gRPC, with the slash in front.
    #[must_use]
    pub const fn grpc_path(self) -> &'static str {{
        match self {{
{paths}        }}
    }}

    /// The number of the method's field in the commands and the replies of a batch.
    pub(crate) const fn command_tag(self) -> Option<u32> {{
        match self {{
{tags}        }}
    }}
}}
"
        ))
    }

    fn fields_file(&self) -> String {
        let messages = self.pool.all_messages().filter(|message| message.package_name() == PACKAGE);
        let lines: BTreeSet<_> = messages
            .map(|message| {
                let fields = message.fields().map(|field| format!("({}, {})", field.number(), wire(&field)));
                format!("    ({:?}, &[{}]),\n", in_package(&message), fields.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let lines: String = lines.into_iter().collect();
        format!(
            "/// The fields of every message, in the order of their names.
static MESSAGES: &[(&str, &[(u32, Kind)])] = &[
{lines}];
"
        )
    }
}

/// Full names of messages.
type Names = BTreeSet<String>;

/// A service, and the messages of its requests and results.
fn read_service(pool: &DescriptorPool, name: &str) -> Result<(ServiceDescriptor, Names, Names), Box<dyn Error>> {
    let service = pool.get_service_by_name(name).ok_or("no service")?;
    let (mut requests, mut results) = (BTreeSet::new(), BTreeSet::new());
    for method in service.methods().filter(|method| method.name() != "Batch") {
        reach(&method.input(), &mut requests);
        let result = method.output().get_field_by_name("result").ok_or("a response without a result")?;
        reach(result.kind().as_message().ok_or("a result that is no message")?, &mut results);
    }
    Ok((service, requests, results))
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

/// The full name of a message, without the package.
fn in_package(message: &MessageDescriptor) -> &str {
    message.full_name().strip_prefix(PACKAGE).map_or(message.full_name(), |name| &name[1..])
}

/// How the stand-in server tells whether a value fits a field.
fn wire(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::String => "Kind::String".into(),
        Kind::Bytes => "Kind::Bytes".into(),
        Kind::Message(below) => format!("Kind::Message({:?})", in_package(&below)),
        Kind::Double | Kind::Float | Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed32 | Kind::Sfixed64 => {
            "Kind::Fixed".into()
        }
        _ => "Kind::Varint".into(),
    }
}

/// The parameter type of a setter, and the expression that converts it.
fn setter(field: &FieldDescriptor) -> Result<(String, String), Box<dyn Error>> {
    let name = rust_field(field.name());
    Ok(match field.kind() {
        Kind::Message(entry) if field.is_map() => match plain(&entry.map_entry_value_field())? {
            text if text == "String" => (
                "impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>".into(),
                format!("{name}.into_iter().map(|(name, value)| (name.into(), value.into())).collect()"),
            ),
            value => (
                format!("impl IntoIterator<Item = (impl Into<String>, {value})>"),
                format!("{name}.into_iter().map(|(name, value)| (name.into(), value)).collect()"),
            ),
        },
        Kind::String if field.is_list() => (
            "impl IntoIterator<Item = impl Into<String>>".into(),
            format!("{name}.into_iter().map(Into::into).collect()"),
        ),
        _ if field.is_list() => {
            (format!("impl IntoIterator<Item = {}>", plain(field)?), format!("{name}.into_iter().collect()"))
        }
        // `true` is a `BoolValue`.
        Kind::Message(value) if value.name().ends_with("Value") => {
            (format!("impl Into<{}>", rust_type(&value)), format!("Some({name}.into())"))
        }
        Kind::Message(message) => (format!("impl Into<Option<{}>>", rust_type(&message)), format!("{name}.into()")),
        Kind::String => ("impl Into<String>".into(), format!("{name}.into()")),
        Kind::Bytes => ("impl Into<Payload>".into(), format!("Bytes::from({name}.into())")),
        _ => (plain(field)?, name),
    })
}

/// The type of one value of the field.
fn plain(field: &FieldDescriptor) -> Result<String, Box<dyn Error>> {
    Ok(match field.kind() {
        Kind::String => "String".into(),
        Kind::Bool => "bool".into(),
        Kind::Int32 => "i32".into(),
        Kind::Int64 => "i64".into(),
        Kind::Uint32 => "u32".into(),
        Kind::Uint64 => "u64".into(),
        Kind::Double => "f64".into(),
        Kind::Message(message) => rust_type(&message),
        other => return Err(format!("{}: no setter for {other:?}", field.full_name()).into()),
    })
}

/// The field's comment.
fn comment(field: &FieldDescriptor) -> String {
    let file = field.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
    let comment = locations
        .filter(|location| location.path == field.path())
        .find_map(|location| location.leading_comments.as_deref());
    comment.unwrap_or_default().into()
}

/// The Rust type of a message: prost's name, except for the one that the crate defines itself.
fn rust_type(message: &MessageDescriptor) -> String {
    if message.name() == "Error" { "ApiError".into() } else { rust_name(message.name()) }
}

/// A name of the schema as prost writes it.
fn rust_name(name: &str) -> String {
    name.replacen("RPC", "Rpc", 1)
}

/// The name prost gives the field.
fn rust_field(name: &str) -> String {
    if matches!(name, "override" | "match" | "type") { format!("r#{name}") } else { name.into() }
}
