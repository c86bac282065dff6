//! Batches and their commands in JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::api::method::Method;
use crate::error::Error;

/// A batch in JSON, whose commands have this length in protobuf.
pub(crate) fn to_json(
    encoded: usize,
    parallel: bool,
    commands: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<Bytes, Error> {
    let mut json = Vec::with_capacity(encoded * 2 + 64);
    json.extend_from_slice(br#"{"commands":["#);
    commands(&mut json)?;
    json.extend_from_slice(if parallel { br#"],"parallel":true}"# } else { b"]}" });
    Ok(json.into())
}

/// Appends commands as a batch in JSON lists them.
pub(crate) fn write_json<'a, T>(
    json: &mut Vec<u8>,
    commands: &'a [T],
    method: impl Fn(&'a T) -> &'a str,
    request: impl Fn(&'a T, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    for (index, command) in commands.iter().enumerate() {
        json.extend_from_slice(if index == 0 { br#"{""# } else { br#",{""# });
        json.extend_from_slice(method(command).as_bytes());
        json.extend_from_slice(br#"":"#);
        request(command, json)?;
        json.push(b'}');
    }
    Ok(())
}

/// Checks the name of a method, which becomes a part of a path and a key in JSON.
pub(crate) fn check_method_name(name: &str) -> Result<(), Error> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if fits {
        Ok(())
    } else {
        Err(Error::invalid("a method's name has lower-case letters, digits and underscores, at most 64"))
    }
}

/// Checks the commands of a batch that is given as JSON. It is read as the server reads it: names in any case, `null` as
/// nothing, more than one method in a command.
pub(crate) fn check_json(batch: &str, pro: bool) -> Result<(), Error> {
    type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;
    let Ok(batch) = serde_json::from_str::<Object<'_>>(batch) else { return Ok(()) };
    let lists = batch.iter().filter(|(name, _)| name.eq_ignore_ascii_case("commands"));
    for (_, list) in lists {
        let Ok(commands) = serde_json::from_str::<Vec<Option<Object<'_>>>>(list.get()) else { continue };
        for (name, params) in commands.into_iter().flatten().flatten() {
            let name = name.to_ascii_lowercase();
            if let Some(method) = Method::from_name(&name) {
                let checked = method.check_json(params.get().as_bytes());
                checked.or_else(|problem| problem.error(pro)).map_err(|error| error.in_method(&name))?;
            }
        }
    }
    Ok(())
}

/// Parameters as the server reads them: `null` is an empty object.
pub(crate) fn object(params: &str) -> &str {
    if params == "null" { "{}" } else { params }
}

/// The number and the protobuf form of a command given as JSON.
pub(crate) fn command_from_json(method: &str, params: &str) -> Result<(u32, Vec<u8>), Error> {
    let known = Method::from_name(method).and_then(|method| Some((method, method.command_tag()?)));
    let Some((method, tag)) = known else {
        return Err(Error::invalid(format!(
            "the schema of this version has no method `{method}`, which gRPC needs; over HTTP it can be called"
        )));
    };
    let request = method
        .request_from_json(object(params).as_bytes())
        .map_err(|error| Error::invalid(error).in_method(method.name()))?;
    Ok((tag, request))
}
