//! Whether a configuration can work.

use url::Url;

use crate::config::Common;
use crate::config::endpoint::{self, Endpoint};
use crate::error::Error;

impl Common {
    /// Makes the checks that both transports need, and returns the endpoints.
    pub(crate) fn check(&self) -> Result<Vec<Endpoint>, Error> {
        if self.call_timeout().is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid("`timeout` is zero, so that no call could succeed"));
        }
        if self.connect_timeout.is_zero() {
            return Err(Error::invalid("`connect_timeout` is zero, so that no connection could be made"));
        }
        if self.api_key.as_ref().is_some_and(String::is_empty) {
            return Err(Error::invalid("`api_key` is empty; leave it out for a server without one"));
        }
        let endpoints = self.endpoints.iter().map(|given| self.check_endpoint(given)).collect::<Result<Vec<_>, _>>()?;
        let urls = || endpoints.iter().map(|endpoint| &endpoint.url);
        if let Some((_, url)) = urls().enumerate().find(|(index, url)| urls().take(*index).any(|other| other == *url)) {
            return Err(Error::invalid(format!("the endpoint `{url}` is given twice")));
        }
        if urls().any(|url| url.scheme() != endpoints[0].url.scheme()) {
            return Err(Error::invalid(
                "some endpoints are https:// and some http://; give all of them the same scheme",
            ));
        }
        Ok(endpoints)
    }

    fn check_endpoint(&self, given: &str) -> Result<Endpoint, Error> {
        let (example, shown) = (self.protocol.example(), endpoint::shown(given));
        if endpoint::has_zone(given) {
            return Err(Error::invalid(format!(
                "the endpoint `{shown}` has the zone of an address, which URLs cannot have; give a name, or an address that needs none"
            )));
        }
        let mut url = Url::parse(given)
            .map_err(|error| Error::invalid(format!("the endpoint `{shown}` is no URL like `{example}`: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(Error::invalid(format!(
                "the endpoint `{shown}` must begin with http:// or https:// and name a host, like `{example}`"
            )));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Error::invalid("the endpoint has a `?` or a `#`; give the key with `api_key`"));
        }
        if url.path().contains('@') {
            return Err(Error::invalid(
                "the endpoint has an `@` in its path; in a password write %2F for a slash, and %40 for an `@`",
            ));
        }
        if !endpoint::is_as_written(given) {
            return Err(Error::invalid(format!(
                "the endpoint `{shown}` is not the URL that it would be read as, `{}`: remove doubled slashes, backslashes, \
                 spaces and parts that are dots only",
                endpoint::without_user(&url)
            )));
        }
        if url.scheme() == "https" && !cfg!(feature = "tls") {
            return Err(Error::invalid(format!(
                "the endpoint `{shown}` is https://, and the crate was built without its feature `tls`"
            )));
        }
        let basic_auth = match (endpoint::user_of(&url)?, &self.basic_auth) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("the endpoint holds a user, and `basic_auth` is set; give one"));
            }
            (user, set) => user.or_else(|| set.clone()),
        };
        url = endpoint::without_user(&url);
        Ok(Endpoint { url, basic_auth })
    }

    /// Checks what a fallback must not set, and that it does not send in clear text what is encrypted otherwise.
    pub(crate) fn check_fallback(&self, fallback: &Self) -> Result<(), Error> {
        let settings = [
            (fallback.timeout.is_set(), "timeout"),
            (fallback.retry.is_set(), "retry"),
            (fallback.batching.is_some(), "batching"),
            (fallback.pro, "pro"),
        ];
        if let Some((_, setting)) = settings.iter().find(|(given, _)| *given) {
            return Err(Error::invalid(format!(
                "`{setting}` is set on the fallback; set it on the gRPC configuration, which decides it for both"
            )));
        }
        let beyond = |url: &Url| match url.host() {
            Some(url::Host::Domain(name)) => name != "localhost",
            Some(url::Host::Ipv4(address)) => !address.is_loopback(),
            Some(url::Host::Ipv6(address)) => !address.is_loopback(),
            None => true,
        };
        let encrypted = self.check()?.iter().any(|endpoint| endpoint.url.scheme() == "https");
        let in_clear = fallback.check()?.iter().any(|Endpoint { url, .. }| url.scheme() == "http" && beyond(url));
        if encrypted && in_clear && !self.allow_clear_text_fallback {
            return Err(Error::invalid(
                "gRPC is https:// and its fallback http://, so that whoever keeps gRPC from working could read the calls; \
                 if that is meant, say so with `allow_clear_text_fallback`",
            ));
        }
        Ok(())
    }
}
