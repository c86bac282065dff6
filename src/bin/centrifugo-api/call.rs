//! `call`: any method, with JSON in and JSON out.

use serde_json::value::RawValue;

use crate::args::Call;
use crate::connection::{self, Connection};
use crate::failure::Failure;
use crate::{layout, output};

pub(crate) async fn run(server: &Connection, call: Call) -> Result<(), Failure> {
    let params = match call.params.as_str() {
        "-" => String::from_utf8(output::read_stdin()?)
            .map_err(|_| Failure::invalid("the parameters from standard input are not UTF-8"))?,
        _ => call.params,
    };
    let params: Box<RawValue> = serde_json::from_str(connection::without_mark(&params)).map_err(|error| {
        // The parameters may be secret, so the error has only the position.
        let (line, column) = (error.line(), error.column());
        Failure::invalid(format!("the parameters are not JSON (line {line}, column {column})"))
    })?;
    if !params.get().starts_with('{') {
        return Err(Failure::invalid("the parameters are not a JSON object, like {\"channel\":\"news\"}"));
    }
    let result: Box<RawValue> = server.client()?.call_json(&call.method, params).await?;
    output::print(&layout::lay_out(result.get(), call.pretty)).map_err(Failure::after_call)
}
