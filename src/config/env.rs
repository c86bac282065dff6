//! A configuration from the environment.

use std::env::{self, VarError};
use std::fs;

use crate::config::Config;
use crate::error::Error;

const GRPC: &str = "CENTRIFUGO_GRPC";
const HTTP: &str = "CENTRIFUGO_HTTP";
const API_KEY: &str = "CENTRIFUGO_API_KEY";
const API_KEY_FILE: &str = "CENTRIFUGO_API_KEY_FILE";

impl Config {
    /// Reads the configuration from the environment, as the command line does.
    ///
    /// | variable | meaning |
    /// | --- | --- |
    /// | `CENTRIFUGO_GRPC` | the address of the gRPC API, or several with commas |
    /// | `CENTRIFUGO_HTTP` | the address of the HTTP API, or several with commas: the fallback of gRPC if that is given too |
    /// | `CENTRIFUGO_API_KEY` | the API key |
    /// | `CENTRIFUGO_API_KEY_FILE` | a file that holds the API key; takes precedence over the variable |
    ///
    /// Without an address it is that of a server on this machine with the default ports. An empty variable is refused. Of the file a byte
    /// order mark and one line end are not part of the key.
    ///
    /// ```
    /// use centrifugo_api::{Client, Config};
    ///
    /// let client = Client::new(Config::from_env()?)?;
    /// # Ok::<(), centrifugo_api::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when a variable is empty or not Unicode, or the file cannot be read:
    /// the text names the variable.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(env::var)
    }

    fn from_variables(read: impl Fn(&'static str) -> Result<String, VarError>) -> Result<Self, Error> {
        let variable = |name| match read(name) {
            Ok(value) if value.trim().is_empty() => {
                Err(Error::invalid(format!("the variable {name} is empty; unset it")))
            }
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(Error::invalid(format!("the variable {name} is not Unicode"))),
        };
        let mut config = Self::of_addresses(variable(GRPC)?, variable(HTTP)?)?;
        let key = match (variable(API_KEY_FILE)?, variable(API_KEY)?) {
            (Some(path), _) => {
                let text = fs::read_to_string(&path).map_err(|error| {
                    Error::invalid(format!("the file `{path}` of {API_KEY_FILE} cannot be read")).with_source(error)
                })?;
                Some(key_of_file(&text).to_owned())
            }
            (None, key) => key,
        };
        if let Some(key) = key {
            if let Some(fallback) = &mut config.common.fallback {
                fallback.common.api_key = Some(key.clone());
            }
            config.common.api_key = Some(key);
        }
        Ok(config)
    }

    #[cfg(all(feature = "grpc", feature = "http"))]
    fn of_addresses(grpc: Option<String>, http: Option<String>) -> Result<Self, Error> {
        let http = http.map(|addresses| split(HTTP, &addresses, Config::http)).transpose()?;
        Ok(match (grpc, http) {
            (None, Some(http)) => http.into(),
            (None, None) => Config::grpc("http://localhost:10000").into(),
            (Some(addresses), None) => split(GRPC, &addresses, Config::grpc)?.into(),
            (Some(addresses), Some(http)) => split(GRPC, &addresses, Config::grpc)?.fallback(http).into(),
        })
    }

    #[cfg(not(feature = "http"))]
    fn of_addresses(grpc: Option<String>, http: Option<String>) -> Result<Self, Error> {
        match (grpc, http) {
            (_, Some(_)) => {
                Err(Error::invalid("CENTRIFUGO_HTTP is set, and the crate was built without its feature `http`"))
            }
            (None, None) => Ok(Config::grpc("http://localhost:10000").into()),
            (Some(addresses), None) => split(GRPC, &addresses, Config::grpc).map(Into::into),
        }
    }

    #[cfg(not(feature = "grpc"))]
    fn of_addresses(grpc: Option<String>, http: Option<String>) -> Result<Self, Error> {
        match (grpc, http) {
            (Some(_), _) => {
                Err(Error::invalid("CENTRIFUGO_GRPC is set, and the crate was built without its feature `grpc`"))
            }
            (None, None) => Ok(Config::http("http://localhost:8000/api").into()),
            (None, Some(addresses)) => split(HTTP, &addresses, Config::http).map(Into::into),
        }
    }
}

/// The key in the text of a file, without what editors add: a byte order mark and one line end.
fn key_of_file(text: &str) -> &str {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A configuration with the endpoints that a variable lists.
fn split<T>(name: &'static str, addresses: &str, begin: impl FnOnce(String) -> Config<T>) -> Result<Config<T>, Error> {
    let mut addresses = addresses.split(',').map(str::trim);
    let first = addresses.next().unwrap_or_default();
    let mut config = begin(first.to_owned());
    for address in addresses {
        config = config.endpoint(address);
    }
    if config.common.endpoints.iter().any(String::is_empty) {
        return Err(Error::invalid(format!("the variable {name} has an empty address between its commas")));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Any;
    use crate::error::ErrorKind;

    fn config(variables: &[(&str, &str)]) -> Result<Config, Error> {
        Config::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned()).ok_or(VarError::NotPresent)
        })
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn without_variables_it_is_a_server_on_this_machine() {
        let config = config(&[]).unwrap();
        assert_eq!(config.common.endpoints, ["http://localhost:10000"]);
        assert_eq!(config.common.api_key, None);
    }

    #[cfg(all(feature = "grpc", feature = "http"))]
    #[test]
    fn http_is_the_fallback_of_grpc_when_both_are_given() {
        let config =
            config(&[(GRPC, "http://a:1, http://b:1"), (HTTP, "http://a:2/api"), (API_KEY, "sesame")]).unwrap();
        assert_eq!(config.common.endpoints, ["http://a:1", "http://b:1"]);
        let fallback = config.common.fallback.unwrap();
        assert_eq!(fallback.common.endpoints, ["http://a:2/api"]);
        assert_eq!((config.common.api_key, fallback.common.api_key), (Some("sesame".into()), Some("sesame".into())));
    }

    #[cfg(feature = "http")]
    #[test]
    fn http_alone_is_the_transport() {
        let config = config(&[(HTTP, "http://a:2/api")]).unwrap();
        assert!(matches!(config.transport, Any::Http(_)));
    }

    #[test]
    fn an_empty_variable_is_refused_by_name() {
        for name in [GRPC, HTTP, API_KEY, API_KEY_FILE] {
            let error = config(&[(name, " ")]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_key_of_a_file_loses_a_byte_order_mark_and_one_line_end() {
        for text in ["sesame", "sesame\n", "sesame\r\n", "\u{feff}sesame\n"] {
            assert_eq!(key_of_file(text), "sesame");
        }
        // `Client::new` refuses it.
        assert_eq!(key_of_file(" sesame \n\n"), " sesame \n");
    }

    #[test]
    fn the_key_of_the_file_takes_precedence() {
        let path = std::env::temp_dir().join(format!("centrifugo-api-key-{}", std::process::id()));
        fs::write(&path, "sesame\r\n").unwrap();
        let read = config(&[(API_KEY, "other"), (API_KEY_FILE, path.to_str().unwrap())]);
        fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap().common.api_key.as_deref(), Some("sesame"));
        let error = config(&[(API_KEY_FILE, "/no/such/file")]).unwrap_err();
        assert!(error.to_string().contains(API_KEY_FILE), "{error}");
    }
}
