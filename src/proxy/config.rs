//! The part of Centrifugo's configuration that makes it call the handlers of a backend.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::proxy::method::{Method, Proxy};

/// What [`config`] prints, and what it depends on.
///
/// `Debug` shows no key.
#[derive(Clone)]
#[must_use = "it does nothing until it is printed"]
pub struct ServerConfig {
    endpoint: String,
    methods: Vec<Method>,
    timeout: Option<Duration>,
    key: Option<(String, String)>,
    http_headers: Vec<String>,
    emulated_headers: Vec<String>,
    binary: bool,
    include_meta: bool,
    namespaces: Vec<String>,
}

/// Begins the part of Centrifugo's configuration that makes it call the handlers which `P` implements.
///
/// `endpoint` is where the handlers are as Centrifugo sees them: `http://backend:3000/centrifugo` for
/// [`http`](crate::proxy::http()), below which each handler has its name, or `grpc://backend:3001` for `grpc`.
///
/// ```
/// use centrifugo_api::proxy::{self, Caller, ConnectRequest, ConnectResult, Proxy, Rejection};
///
/// struct Backend;
/// impl Proxy for Backend {
///     async fn connect(&self, _: ConnectRequest, _: &Caller) -> Result<ConnectResult, Rejection> {
///         Ok(ConnectResult::default().user("42"))
///     }
/// }
///
/// let config = proxy::config::<Backend>("http://backend:3000/centrifugo").proxied_headers(["Cookie"]);
/// assert_eq!(config.env()?, "\
/// CENTRIFUGO_CLIENT_PROXY_CONNECT_ENABLED=true
/// CENTRIFUGO_CLIENT_PROXY_CONNECT_ENDPOINT=http://backend:3000/centrifugo/connect
/// CENTRIFUGO_CLIENT_PROXY_CONNECT_HTTP_HEADERS=Cookie
/// ");
/// # Ok::<(), centrifugo_api::Error>(())
/// ```
///
/// [`notify_cache_empty`](Proxy::notify_cache_empty) and [`notify_channel_state`](Proxy::notify_channel_state) are
/// configured in Centrifugo PRO only, and left out.
pub fn config<P: Proxy>(endpoint: impl Into<String>) -> ServerConfig {
    ServerConfig {
        endpoint: endpoint.into(),
        methods: Method::implemented_by::<P>().collect(),
        timeout: None,
        key: None,
        http_headers: Vec::new(),
        emulated_headers: Vec::new(),
        binary: false,
        include_meta: false,
        namespaces: Vec::new(),
    }
}

impl ServerConfig {
    /// Has the server send this key, for [`key_header`](crate::proxy::Http::key_header). It is then in what is printed.
    ///
    /// To keep it out of there, give `${CENTRIFUGO_VAR_PROXY_KEY}` here and the key to Centrifugo in that environment variable: the
    /// server puts variables whose names begin with `CENTRIFUGO_VAR_` into static headers.
    pub fn key_header(mut self, name: impl Into<String>, key: impl Into<String>) -> Self {
        self.key = Some((name.into(), key.into()));
        self
    }

    /// Has the server pass on these headers of the connections of clients, as cookies.
    pub fn proxied_headers(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.http_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Has the server pass on these headers, which clients that cannot set headers, as browsers, send in their first message.
    pub fn emulated_headers(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.emulated_headers = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets after which time the server gives a call up: 1 s unless set. Keep it above the
    /// [timeout](crate::proxy::Http::timeout) of the service.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Has the server send data in base64, for clients whose data is not JSON.
    pub fn binary(mut self, binary: bool) -> Self {
        self.binary = binary;
        self
    }

    /// Has the server send the `meta` of the connection with every call but `connect`.
    pub fn include_meta(mut self, include: bool) -> Self {
        self.include_meta = include;
        self
    }

    /// Turns the handlers of channels on in this namespace instead of in the channels without one. Handlers of maps and of shared
    /// polls are turned on in namespaces of that kind, by hand.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespaces.push(name.into());
        self
    }

    /// As JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the endpoint is no URL of the schemes `http`, `https` or `grpc`, when
    /// the key's header is also passed on from clients, which could then replace it, or when the timeout is under 1 ms.
    pub fn json(&self) -> Result<String, Error> {
        Ok(format!("{:#}", self.value()?))
    }

    /// As YAML.
    ///
    /// # Errors
    ///
    /// As for [`json`](Self::json).
    pub fn yaml(&self) -> Result<String, Error> {
        let mut out = String::new();
        write_yaml(&self.value()?, 0, &mut out);
        Ok(out)
    }

    /// As environment variables, one a line: `NAME=value`, unquoted, as Docker's `--env-file` reads them.
    ///
    /// # Errors
    ///
    /// As for [`json`](Self::json).
    pub fn env(&self) -> Result<String, Error> {
        let mut lines = BTreeMap::new();
        flatten("CENTRIFUGO", &self.value()?, &mut lines);
        Ok(lines.into_iter().fold(String::new(), |out, (name, value)| out + &name + "=" + &value + "\n"))
    }

    fn value(&self) -> Result<Value, Error> {
        let http = self.endpoint.starts_with("http://") || self.endpoint.starts_with("https://");
        if !http && !self.endpoint.starts_with("grpc://") {
            return Err(Error::invalid("the endpoint of the proxy must begin with http://, https:// or grpc://"));
        }
        if self.timeout.is_some_and(|timeout| timeout.as_millis() == 0) {
            return Err(Error::invalid("the timeout of the proxy is under 1 ms"));
        }
        let passed = self.http_headers.iter().chain(&self.emulated_headers);
        if let Some((name, _)) = &self.key
            && passed.clone().any(|passed| passed.eq_ignore_ascii_case(name))
        {
            return Err(Error::invalid(format!(
                "the header `{name}` of the key is also passed on from clients, whose value would replace the key"
            )));
        }
        let mut root = Value::Object(Map::new());
        for method in &self.methods {
            let Some(place) = place(*method) else { continue };
            for (name, value) in self.settings(*method, http) {
                set(&mut root, &[place, &[name]].concat(), value);
            }
        }
        if self.methods.contains(&Method::Rpc) {
            set(&mut root, &["rpc", "without_namespace", "proxy_enabled"], json!(true));
        }
        let flags: Map<String, Value> = self.methods.iter().filter_map(|method| flag(*method)).collect();
        if !flags.is_empty() && self.namespaces.is_empty() {
            set(&mut root, &["channel", "without_namespace"], Value::Object(flags));
        } else if !flags.is_empty() {
            let named = |name: &String| {
                let mut namespace = Map::from_iter([("name".to_owned(), json!(name))]);
                namespace.extend(flags.clone());
                Value::Object(namespace)
            };
            set(&mut root, &["channel", "namespaces"], self.namespaces.iter().map(named).collect());
        }
        Ok(root)
    }

    /// The settings of one proxy.
    fn settings(&self, method: Method, http: bool) -> Vec<(&'static str, Value)> {
        let mut settings = Vec::new();
        if matches!(method, Method::Connect | Method::Refresh) {
            settings.push(("enabled", json!(true)));
        }
        let endpoint = self.endpoint.trim_end_matches('/');
        let endpoint = if http { format!("{endpoint}/{}", method.name()) } else { endpoint.to_owned() };
        settings.push(("endpoint", json!(endpoint)));
        if let Some(timeout) = self.timeout {
            settings.push(("timeout", json!(format!("{}ms", timeout.as_millis()))));
        }
        for (name, headers) in [("http_headers", &self.http_headers), ("emulated_headers", &self.emulated_headers)] {
            if !headers.is_empty() {
                settings.push((name, json!(headers)));
            }
        }
        for (name, on) in [
            ("binary_encoding", self.binary),
            ("include_connection_meta", self.include_meta && method != Method::Connect),
        ] {
            if on {
                settings.push((name, json!(true)));
            }
        }
        if let Some((name, key)) = &self.key {
            let headers = Value::Object(Map::from_iter([(name.clone(), json!(key))]));
            settings.push(if http {
                ("http", json!({ "static_headers": headers }))
            } else {
                ("grpc", json!({ "static_metadata": headers }))
            });
        }
        settings
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("endpoint", &self.endpoint)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// Where the server has the settings of the proxy.
fn place(method: Method) -> Option<&'static [&'static str]> {
    Some(match method {
        Method::Connect => &["client", "proxy", "connect"],
        Method::Refresh => &["client", "proxy", "refresh"],
        Method::Rpc => &["rpc", "proxy"],
        Method::Subscribe => &["channel", "proxy", "subscribe"],
        Method::Publish => &["channel", "proxy", "publish"],
        Method::SubRefresh => &["channel", "proxy", "sub_refresh"],
        Method::MapPublish => &["channel", "proxy", "map_publish"],
        Method::MapRemove => &["channel", "proxy", "map_remove"],
        Method::SharedPollRefresh => &["channel", "proxy", "shared_poll_refresh"],
        Method::NotifyCacheEmpty | Method::NotifyChannelState => return None,
    })
}

/// What turns the proxy on in a namespace.
fn flag(method: Method) -> Option<(String, Value)> {
    let flag = match method {
        Method::Subscribe => "subscribe_proxy_enabled",
        Method::Publish => "publish_proxy_enabled",
        Method::SubRefresh => "sub_refresh_proxy_enabled",
        _ => return None,
    };
    Some((flag.to_owned(), json!(true)))
}

fn set(root: &mut Value, path: &[&str], value: Value) {
    let mut at = root;
    for name in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[*name];
    }
    *at = value;
}

/// Block style for objects and lists; strings as in JSON, which is YAML.
fn write_yaml(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    // Writing to a string cannot fail.
    let line = |out: &mut String, text: fmt::Arguments<'_>| _ = out.write_fmt(text);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
                let name = if plain { name.clone() } else { json!(name).to_string() };
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        line(out, format_args!("{indent}{name}:\n"));
                        write_yaml(value, depth + 1, out);
                    }
                    value => line(out, format_args!("{indent}{name}: {value}\n")),
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                // Block style in a list would need its own indentation; JSON is as good.
                line(out, format_args!("{indent}- {value}\n"));
            }
        }
        value => line(out, format_args!("{indent}{value}\n")),
    }
}

fn flatten(name: &str, value: &Value, lines: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) if !name.ends_with("_STATIC_HEADERS") && !name.ends_with("_STATIC_METADATA") => {
            for (inner, value) in map {
                flatten(&format!("{name}_{}", inner.to_ascii_uppercase()), value, lines);
            }
        }
        Value::Array(list) if list.iter().all(Value::is_string) => {
            let words: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            lines.insert(name.to_owned(), words.join(" "));
        }
        Value::String(text) => {
            lines.insert(name.to_owned(), text.clone());
        }
        value => {
            lines.insert(name.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::proxy::{
        Caller, ConnectRequest, ConnectResult, PublishRequest, PublishResult, Rejection, RpcRequest, RpcResult,
    };

    struct Backend;
    impl Proxy for Backend {
        async fn connect(&self, _: ConnectRequest, _: &Caller) -> Result<ConnectResult, Rejection> {
            Ok(ConnectResult::default())
        }
        async fn publish(&self, _: PublishRequest, _: &Caller) -> Result<PublishResult, Rejection> {
            Ok(PublishResult::default())
        }
        async fn rpc(&self, _: RpcRequest, _: &Caller) -> Result<RpcResult, Rejection> {
            Ok(RpcResult::default())
        }
    }

    #[test]
    fn only_what_is_implemented_is_in_the_configuration() {
        let config = config::<Backend>("grpc://backend:1")
            .key_header("x-key", "k")
            .timeout(Duration::from_secs(2))
            .binary(true)
            .include_meta(true)
            .namespace("chat");
        let value: Value = serde_json::from_str(&config.json().unwrap()).unwrap();
        let proxy = |mut more: Value| {
            let common = json!({"endpoint": "grpc://backend:1", "timeout": "2000ms", "binary_encoding": true,
                "grpc": {"static_metadata": {"x-key": "k"}}});
            more.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
            more
        };
        assert_eq!(
            value,
            json!({
                "client": {"proxy": {"connect": proxy(json!({"enabled": true}))}},
                "channel": {
                    "proxy": {"publish": proxy(json!({"include_connection_meta": true}))},
                    "namespaces": [{"name": "chat", "publish_proxy_enabled": true}],
                },
                "rpc": {
                    "proxy": proxy(json!({"include_connection_meta": true})),
                    "without_namespace": {"proxy_enabled": true},
                },
            })
        );
        assert!(!format!("{config:?}").contains("\"k\""));
    }

    #[test]
    fn yaml_and_environment_say_the_same() {
        let config = config::<Backend>("http://b/c/").key_header("X-Key", "k").proxied_headers(["Cookie", "Origin"]);
        let yaml = config.yaml().unwrap();
        assert!(yaml.contains("client:\n  proxy:\n    connect:\n      enabled: true\n"), "{yaml}");
        assert!(yaml.contains("      http:\n        static_headers:\n          \"X-Key\": \"k\"\n"), "{yaml}");
        let env = config.env().unwrap();
        for line in [
            "CENTRIFUGO_CHANNEL_PROXY_PUBLISH_ENDPOINT=http://b/c/publish",
            "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_PUBLISH_PROXY_ENABLED=true",
            "CENTRIFUGO_RPC_PROXY_HTTP_HEADERS=Cookie Origin",
            r#"CENTRIFUGO_RPC_PROXY_HTTP_STATIC_HEADERS={"X-Key":"k"}"#,
        ] {
            assert!(env.lines().any(|given| given == line), "{line}\n{env}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let bad = [
            config::<Backend>("backend:1"),
            config::<Backend>("http://b").timeout(Duration::ZERO),
            config::<Backend>("http://b").key_header("X-Key", "k").proxied_headers(["x-key"]),
            config::<Backend>("http://b").key_header("X-Key", "k").emulated_headers(["x-key"]),
        ];
        for config in bad {
            assert_eq!(config.json().unwrap_err().kind(), ErrorKind::Invalid, "{config:?}");
        }
    }
}
