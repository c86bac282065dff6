//! The options that name the server, and the client they describe.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use centrifugo_api::config::Tls;
use centrifugo_api::{Client, Config, Error, Retry};
use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// The ports and the path of a server that is configured with neither.
const GRPC: &str = "http://localhost:10000";
const HTTP: &str = "http://localhost:8000/api";

/// The ids of the options that only commands with a client use.
pub(crate) const OF_CLIENTS: [&str; 12] = [
    "grpc",
    "http",
    "transport",
    "fallback",
    "retries",
    "no_idempotency_keys",
    "timeout",
    "pro",
    "ca",
    "client_cert",
    "client_key",
    "insecure_skip_verification",
];

/// The ids of the options of the API key.
pub(crate) const OF_KEYS: [&str; 2] = ["api_key", "api_key_file"];

/// Where the server is, and how it is called.
#[derive(Args)]
#[command(next_help_heading = "Server")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Connection {
    #[arg(long, global = true, value_name = "URL")]
    #[arg(help = format!("The gRPC API, or several with commas [default: {GRPC}] [env: CENTRIFUGO_GRPC]"))]
    grpc: Option<String>,
    #[arg(long, global = true, value_name = "URL")]
    #[arg(help = format!("The HTTP API, or several with commas [default: {HTTP}] [env: CENTRIFUGO_HTTP]"))]
    http: Option<String>,
    /// What to call over [default: grpc, unless only --http is given]
    #[arg(long, global = true)]
    transport: Option<Transport>,
    #[arg(long, global = true, value_name = "KEY")]
    #[arg(help = "The API key; visible in the process list, so prefer the other ways [env: CENTRIFUGO_API_KEY]")]
    api_key: Option<String>,
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(help = "A file that holds the API key; takes precedence over the key [env: CENTRIFUGO_API_KEY_FILE]")]
    api_key_file: Option<PathBuf>,
    /// The deadline of every call, as `500ms`, `2s` or `1m`
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How often a call is repeated at most, where that can help and cannot harm; 0 also sends no idempotency keys
    /// but yours
    #[arg(long, global = true, value_name = "N", default_value = "2", hide_short_help = true)]
    retries: u32,
    /// Calls over HTTP, at the address of --http, while gRPC is absent or down
    #[arg(long, global = true, hide_short_help = true)]
    fallback: bool,
    /// Gives publications no idempotency keys, so that they are repeated only if they certainly were not published: for
    /// brokers that know no keys, like NATS
    #[arg(long, global = true, hide_short_help = true)]
    no_idempotency_keys: bool,
    /// Trusts the certificate authorities in this PEM file instead of the operating system's
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    ca: Option<PathBuf>,
    /// Presents this client certificate (PEM, with its chain); needs --client-key
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    client_cert: Option<PathBuf>,
    /// The key of --client-cert (PEM)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    client_key: Option<PathBuf>,
    /// The server is Centrifugo PRO: without it, fields that the open-source server would ignore are refused
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) pro: bool,
    /// DANGEROUS: accepts any certificate, so that anyone on the network can read and change everything
    #[arg(long, global = true, hide_short_help = true)]
    insecure_skip_verification: bool,
    #[arg(skip = Environment::read())]
    environment: Environment,
}

/// The variables. Read here and not by clap, which would show every variable that is set as a required option.
struct Environment {
    grpc: Option<String>,
    http: Option<String>,
    api_key: Option<String>,
    api_key_file: Option<String>,
}

impl Environment {
    /// Empty variables are refused where they are used, so that `--help` does without them.
    fn read() -> Self {
        let read = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            grpc: read("CENTRIFUGO_GRPC"),
            http: read("CENTRIFUGO_HTTP"),
            api_key: read("CENTRIFUGO_API_KEY"),
            api_key_file: read("CENTRIFUGO_API_KEY_FILE"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Grpc,
    Http,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

impl Connection {
    /// The client that the arguments describe.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        if !self.fallback {
            let transport = self.transport();
            return self.client_of(self.config(transport)?, transport);
        }
        if self.transport == Some(Transport::Http) {
            return Err(Failure::invalid("--fallback is for calls over gRPC, and --transport names HTTP"));
        }
        let http = self.server(Transport::Http, Config::http)?;
        // By itself first, so that an error of it names its option.
        http.transport().map_err(|error| self.named(&error, Transport::Http))?;
        let grpc = self.server(Transport::Grpc, Config::grpc)?.fallback(http);
        self.client_of(self.calls(grpc.into()), Transport::Grpc)
    }

    /// The client of a configuration. An error of it names the option that is wrong.
    pub(crate) fn client_of(&self, config: Config, transport: Transport) -> Result<Client, Failure> {
        Client::new(config).map_err(|error| self.named(&error, transport))
    }

    fn transport(&self) -> Transport {
        let only_http = self.url(Transport::Http).is_some() && self.url(Transport::Grpc).is_none();
        self.transport.unwrap_or(if only_http { Transport::Http } else { Transport::Grpc })
    }

    /// The transports to compare: those of `--transport` or with an address.
    pub(crate) fn transports(&self) -> Vec<Transport> {
        let all = [Transport::Grpc, Transport::Http];
        let given = |transport: &Transport| self.transport.is_none_or(|only| only == *transport);
        let addressed = |transport: &Transport| !self.names_a_server() || self.url(*transport).is_some();
        match all.into_iter().filter(given).filter(addressed).collect::<Vec<_>>() {
            // `--transport` names the one whose address was left to the default.
            none if none.is_empty() => self.transport.into_iter().collect(),
            some => some,
        }
    }

    /// Whether an address was given.
    pub(crate) fn names_a_server(&self) -> bool {
        self.url(Transport::Grpc).is_some() || self.url(Transport::Http).is_some()
    }

    /// Removes the addresses of the environment, and returns the variables that had one.
    pub(crate) fn ignore_addresses_of_environment(&mut self) -> Vec<&'static str> {
        let Environment { grpc, http, .. } = &mut self.environment;
        let named = [("CENTRIFUGO_GRPC", grpc.take()), ("CENTRIFUGO_HTTP", http.take())];
        named.into_iter().filter(|(_, address)| address.is_some()).map(|(name, _)| name).collect()
    }

    /// The address given, and the option or the variable that has it.
    fn url(&self, transport: Transport) -> Option<(&str, &'static str)> {
        let (option, variable, names) = match transport {
            Transport::Grpc => (&self.grpc, &self.environment.grpc, ["--grpc", "CENTRIFUGO_GRPC"]),
            Transport::Http => (&self.http, &self.environment.http, ["--http", "CENTRIFUGO_HTTP"]),
        };
        let option = option.as_deref().map(|url| (url, names[0]));
        option.or_else(|| variable.as_deref().map(|url| (url, names[1])))
    }

    /// The address given, or the one a server has by default.
    pub(crate) fn address(&self, transport: Transport) -> &str {
        let default = match transport {
            Transport::Grpc => GRPC,
            Transport::Http => HTTP,
        };
        self.url(transport).map_or(default, |(url, _)| url)
    }

    /// The configuration of a client over one transport.
    fn config(&self, transport: Transport) -> Result<Config, Failure> {
        let server = match transport {
            Transport::Grpc => self.server(transport, Config::grpc)?.into(),
            Transport::Http => self.server(transport, Config::http)?.into(),
        };
        Ok(self.calls(server))
    }

    /// The configuration with the deadline, retries and `pro`.
    fn calls(&self, config: Config) -> Config {
        config.timeout(self.timeout).pro(self.pro).retry(self.retry())
    }

    pub(crate) fn retry(&self) -> Option<Retry> {
        let attempts = self.retries.saturating_add(1);
        (attempts > 1).then(|| Retry::new().attempts(attempts).idempotency_keys(!self.no_idempotency_keys))
    }

    /// The configuration of a server over one transport: addresses, key and TLS.
    pub(crate) fn server<T>(
        &self,
        transport: Transport,
        begin: impl FnOnce(String) -> Config<T>,
    ) -> Result<Config<T>, Failure> {
        [Transport::Grpc, Transport::Http].into_iter().try_for_each(|transport| self.check_addresses(transport))?;
        let mut addresses = self.address(transport).split(',').map(str::trim);
        let config = begin(addresses.next().unwrap_or_default().to_owned());
        let config = addresses.fold(config, Config::endpoint);
        let config = match self.key()? {
            Some(key) => config.api_key(key),
            None => config,
        };
        Ok(match self.tls()? {
            Some(tls) => config.tls(tls),
            None => config,
        })
    }

    fn check_addresses(&self, transport: Transport) -> Result<(), Failure> {
        let Some((addresses, source)) = self.url(transport) else { return Ok(()) };
        if addresses.trim().is_empty() {
            return Err(Failure::invalid(format!("{source} is empty; give an address, or leave it out")));
        }
        if addresses.split(',').any(|address| address.trim().is_empty()) {
            return Err(Failure::invalid(format!("{source} has an empty address between its commas")));
        }
        Ok(())
    }

    /// Where the API key comes from, if one is given: options before variables, files before texts.
    fn key_source(&self) -> Option<KeySource<'_>> {
        let Environment { api_key, api_key_file, .. } = &self.environment;
        let file = self.api_key_file.as_deref().map(|file| KeySource::File("--api-key-file", file));
        let option = || self.api_key.as_deref().map(|key| KeySource::Text("--api-key", key));
        let variable_file =
            || api_key_file.as_deref().map(|file| KeySource::File("CENTRIFUGO_API_KEY_FILE", Path::new(file)));
        let variable = || api_key.as_deref().map(|key| KeySource::Text("CENTRIFUGO_API_KEY", key));
        file.or_else(option).or_else(variable_file).or_else(variable)
    }

    pub(crate) fn has_key(&self) -> bool {
        self.key_source().is_some()
    }

    /// The API key, from wherever it was given. Its text is never quoted, whatever is wrong with it.
    pub(crate) fn key(&self) -> Result<Option<String>, Failure> {
        let (source, file) = match self.key_source() {
            None => return Ok(None),
            Some(KeySource::Text(source, key)) if key.trim().is_empty() => {
                return Err(Failure::invalid(format!("{source} is empty; give a key, or leave it out")));
            }
            Some(KeySource::Text(_, key)) => return Ok(Some(key.to_owned())),
            Some(KeySource::File(source, file)) if file.to_string_lossy().trim().is_empty() => {
                return Err(Failure::invalid(format!("{source} is empty; give a file, or leave it out")));
            }
            Some(KeySource::File(source, file)) => (source, file),
        };
        let wrong = |what: &str| Failure::invalid(format!("{source} {}: the file {what}", file.display()));
        let key = String::from_utf8(read(source, file)?).map_err(|_| wrong("is not text"))?;
        // One line end is not part of the key. Other spaces are refused by name.
        let key = without_mark(&key);
        let key = key.strip_suffix('\n').unwrap_or(key);
        let key = key.strip_suffix('\r').unwrap_or(key);
        if key.trim().is_empty() { Err(wrong("is empty")) } else { Ok(Some(key.to_owned())) }
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let identity = match (&self.client_cert, &self.client_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((read("--client-cert", chain)?, read("--client-key", key)?)),
            _ => return Err(Failure::invalid("--client-cert and --client-key need each other")),
        };
        if self.ca.is_none() && identity.is_none() && !self.insecure_skip_verification {
            return Ok(None);
        }
        let mut tls = Tls::new();
        if let Some(file) = &self.ca {
            tls = tls.ca_certificates(read("--ca", file)?);
        }
        if let Some((chain, key)) = identity {
            tls = tls.client_certificate(chain, key);
        }
        if self.insecure_skip_verification {
            tls = tls.danger_skip_verification();
        }
        Ok(Some(tls))
    }

    /// An error of the configuration that names options and variables in place of setters.
    fn named(&self, error: &Error, transport: Transport) -> Failure {
        let mut text = error.message().to_owned();
        if let Some(cause) = std::error::Error::source(error) {
            text = format!("{text}: {cause}");
        }
        if text.contains("endpoint") {
            let source = self.url(transport).map(|(_, source)| source);
            text = format!("{}: {text}", source.unwrap_or("the default address"));
        }
        let key = match self.key_source() {
            Some(KeySource::Text(source, _) | KeySource::File(source, _)) => source,
            None => "CENTRIFUGO_API_KEY",
        };
        let tls = match (&self.ca, &self.client_cert) {
            (Some(_), _) => "--ca",
            (None, Some(_)) => "--client-cert",
            (None, None) => "--insecure-skip-verification",
        };
        let file = |option: &str, file: &Option<PathBuf>| match file {
            Some(file) => format!("{option} {}", file.display()),
            None => option.to_owned(),
        };
        let text = text.replace("`api_key`", key).replace("`tls`", tls);
        let text = text.replace("`ca_certificates`", &file("--ca", &self.ca));
        let text = text.replace("the key of `client_certificate`", &file("--client-key", &self.client_key));
        let text = text.replace("`client_certificate`", &file("--client-cert", &self.client_cert));
        Failure::invalid(text)
    }
}

/// A key, or the file that holds it, with the option or the variable that has it.
enum KeySource<'a> {
    Text(&'static str, &'a str),
    File(&'static str, &'a Path),
}

/// Reads a file that an option names.
pub(crate) fn read(option: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| Failure::io(format!("{option} {}: the file cannot be read", file.display()), error))
}

/// Text without the byte order mark that some programs put at the beginning of a file.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A number with a unit; without one it is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("use a unit of ms, s or m".into()),
    };
    let number: f64 = number.parse().map_err(|_| "use a number with a unit, as 500ms, 2s or 1m")?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(Duration::ZERO) => Err("no call could succeed in no time".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "s", "0", "1h", "-1s", "1e400s", "99999999999999999999s", "1 s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
