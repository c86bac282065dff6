//! The rooms of `src/`: imports point down, and say where a thing lives.
//!
//! Reads every path that begins with `crate`, `super` or `self`, outside comments and strings, with the groups in it, and
//! compares the room it is in with the room it leads to. `#[cfg(test)]` code may use all of the crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rooms from the bottom up. A room may import itself and those before it.
const ROOMS: [&str; 11] =
    ["sync", "error", "wire", "api", "token", "proxy", "config", "transport", "call", "batching", "client"];

/// The top room, which may import only these.
const TESTING: (&str, &[&str]) = ("testing", &["sync", "error", "wire", "api", "proxy"]);

/// Modules at the root that are not rooms: pages of the documentation, and test helpers. Nothing may import them.
const NO_ROOMS: [&str; 3] = ["example", "guide", "property"];

/// Forbidden imports inside `transport`.
const APART: [(&str, &[&str]); 3] =
    [("grpc", &["http", "routing"]), ("http", &["grpc", "routing"]), ("net", &["grpc", "http", "routing"])];

/// Whether a module may name another, both as paths from the root of the crate. If not, why.
fn check(from: &[String], to: &[String]) -> Result<(), &'static str> {
    let (Some(here), Some(there)) = (from.first(), to.first()) else { return Ok(()) };
    let level = |room: &String| ROOMS.iter().position(|known| known == room);
    let is_testing = here == TESTING.0;
    if level(there).is_none() && there != TESTING.0 {
        return Err("goes through the root");
    }
    if is_testing && here != there && !TESTING.1.contains(&&**there) {
        return Err("is not for `testing`");
    }
    if !is_testing && level(there).is_none_or(|there| level(here).is_none_or(|here| here < there)) {
        return Err("points up");
    }
    if let (true, true, Some(inner), Some(other)) = (here == "transport", there == "transport", from.get(1), to.get(1))
    {
        let apart = APART.iter().find(|(room, _)| room == inner);
        if apart.is_some_and(|(_, others)| others.contains(&&**other)) {
            return Err("is kept apart");
        }
    }
    Ok(())
}

/// What is wrong with the imports of a file, and the modules that it declares for tests only.
fn violations(module: &[String], text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut source = Source { tokens: tokens(text), at: 0, module: module.to_vec(), ..Source::default() };
    source.read(module.is_empty());
    (source.found, source.tests)
}

/// A word, `::`, or any other character, and its line.
type Token = (String, usize);

/// The tokens outside comments and literals.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let (mut found, mut line, mut at) = (Vec::new(), 1, 0);
    while at < chars.len() {
        let start = at;
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if starts(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if let Some(end) = raw_string(&chars, at) {
            at = end;
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')) {
            at += if chars[at + 1] == '\\' { 3 } else { 2 };
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if is_word(chars[at]) {
            while at < chars.len() && is_word(chars[at]) {
                at += 1;
            }
            found.push((chars[start..at].iter().collect(), line));
        } else {
            at += if starts(at, "::") { 2 } else { 1 };
            if !chars[start].is_whitespace() {
                found.push((chars[start..at].iter().collect(), line));
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// The end of the raw string that begins here: `r"…"`, `br#"…"#`.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if at > 0 && is_word(chars[at - 1]) {
        return None;
    }
    let mut open = at + usize::from(chars[at] == 'b');
    if chars.get(open) != Some(&'r') {
        return None;
    }
    open += 1;
    let hashes = chars[open..].iter().take_while(|c| **c == '#').count();
    if chars.get(open + hashes) != Some(&'"') {
        return None;
    }
    let closes = |end: usize| chars[end] == '"' && (1..=hashes).all(|i| chars.get(end + i) == Some(&'#'));
    (open + hashes + 1..chars.len()).find(|end| closes(*end)).map(|end| end + hashes + 1)
}

#[derive(Default)]
struct Source {
    tokens: Vec<Token>,
    at: usize,
    /// The module that the tokens are in, which may be one inside of the file.
    module: Vec<String>,
    found: Vec<String>,
    /// Modules in files of their own that are for tests only.
    tests: Vec<Vec<String>>,
}

impl Source {
    fn word(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |(word, _)| word)
    }

    fn read(&mut self, is_root: bool) {
        let (mut depth, mut inside) = (0_usize, Vec::new());
        while self.at < self.tokens.len() {
            match (self.word(0), self.word(1), self.word(2)) {
                ("#", "[", "cfg") if self.attribute().iter().any(|word| word == "test") => {
                    self.skip_item();
                    continue;
                }
                ("mod", _, "{") => {
                    inside.push(depth);
                    self.module.push(self.word(1).to_owned());
                    self.at += 1;
                }
                ("{", ..) => depth += 1,
                ("}", ..) => {
                    depth = depth.saturating_sub(1);
                    if inside.last() == Some(&depth) {
                        inside.pop();
                        self.module.pop();
                    }
                }
                // The root says what the crate exports.
                ("crate" | "super" | "self", "::", _) if !is_root => {
                    self.path();
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// The words of the attribute that begins here.
    fn attribute(&self) -> Vec<String> {
        self.tokens[self.at..].iter().map(|(word, _)| word.clone()).take_while(|word| word != "]").collect()
    }

    /// Goes past the attribute that begins here and the item that it is on.
    fn skip_item(&mut self) {
        while self.word(0) == "#" {
            self.at += self.attribute().len() + 1;
        }
        let is_use = (0..4).any(|ahead| self.word(ahead) == "use");
        let (mut depth, start) = (0, self.at);
        while self.at < self.tokens.len() {
            let (open, close) = (self.word(0) == "{", self.word(0) == "}");
            let ends = self.word(0) == ";" && depth == 0;
            depth += usize::from(open);
            depth -= usize::from(close);
            self.at += 1;
            if ends || close && depth == 0 && !is_use {
                break;
            }
        }
        let words: Vec<_> = self.tokens[start..self.at].iter().map(|(word, _)| word.clone()).collect();
        if let [.., module, name, end] = &words[..]
            && module == "mod"
            && end == ";"
        {
            self.tests.push([&self.module[..], std::slice::from_ref(name)].concat());
        }
    }

    /// Looks at the path that begins here.
    fn path(&mut self) {
        let line = self.tokens[self.at].1;
        let mut base = match self.word(0) {
            "crate" => Vec::new(),
            _ => self.module.clone(),
        };
        if self.word(0) == "super" {
            base.pop();
        }
        self.at += 2;
        while self.word(0) == "super" && self.word(1) == "::" {
            base.pop();
            self.at += 2;
        }
        for path in self.tree(&base) {
            if let Err(why) = check(&self.module, &path) {
                self.found.push(format!("{line}: `{}` {why}", path.join("::")));
            }
        }
    }

    /// The paths of the use tree that begins here, or the one path of an expression. Only the modules at its beginning
    /// matter, so that it may end with what is not a module.
    fn tree(&mut self, base: &[String]) -> Vec<Vec<String>> {
        let mut path = base.to_vec();
        if self.word(0) == "{" {
            self.at += 1;
            let mut all = Vec::new();
            while !matches!(self.word(0), "}" | "") {
                if self.word(0) == "," {
                    self.at += 1;
                    continue;
                }
                all.extend(self.tree(base));
                // A name of its own: `as _`.
                while !matches!(self.word(0), "," | "}" | "") {
                    self.at += 1;
                }
            }
            self.at += 1;
            return all;
        }
        path.push(self.word(0).to_owned());
        self.at += 1;
        if self.word(0) == "::"
            && (self.word(1) == "{" || self.word(1).chars().all(|c| c.is_alphanumeric() || c == '_'))
        {
            self.at += 1;
            return self.tree(&path);
        }
        vec![path]
    }
}

/// The files of a folder, with their modules.
fn files(folder: &Path, module: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = [module, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            // The command is a crate of its own, and sees what a user sees.
            if inner != ["bin"] {
                files(&path, &inner, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = if inner == ["lib"] { Vec::new() } else { inner };
            found.push((module, fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn imports_point_down_and_say_where_a_thing_lives() {
    let mut all = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut all);
    let (mut wrong, mut tests) = (Vec::new(), BTreeSet::new());
    for (module, text) in &all {
        let (found, for_tests) = violations(module, text);
        tests.extend(for_tests);
        wrong.extend(found.into_iter().map(|why| (module, why)));
    }
    wrong.retain(|(module, _)| !tests.iter().any(|test| module.starts_with(test)));
    let rooms = all.iter().filter_map(|(module, _)| module.first().map(String::as_str));
    let rooms: BTreeSet<_> = rooms.filter(|room| !NO_ROOMS.contains(room)).collect();
    assert_eq!(rooms, ROOMS.into_iter().chain([TESTING.0]).collect(), "the rooms of src/");
    let wrong: Vec<_> = wrong.iter().map(|(module, why)| format!("src/{}, line {why}", module.join("/"))).collect();
    assert!(wrong.is_empty(), "{} imports:\n{}", wrong.len(), wrong.join("\n"));
}

/// The violations in a text, in a module.
fn found(module: &str, text: &str) -> Vec<String> {
    let module: Vec<_> = module.split("::").map(str::to_owned).collect();
    violations(&module, text).0
}

#[test]
fn paths_upward_through_the_root_and_across_are_found() {
    let cases = [
        ("wire::json", "use crate::api::batch::Batch;", vec!["1: `api::batch::Batch` points up"]),
        ("wire", "\n\npub(crate) use crate::client::Client;", vec!["3: `client::Client` points up"]),
        ("config", "fn f() -> crate::call::Core {}", vec!["1: `call::Core` points up"]),
        ("api", "use crate::{error::Error, PublishResult};", vec!["1: `PublishResult` goes through the root"]),
        ("api", "use crate::*;", vec!["1: `*` goes through the root"]),
        (
            "call::retry",
            "use crate::{\n    config::{self, retry::{Retry as _, RetryEvent}},\n    batching::{queue::{Queue}, pace},\n};",
            vec!["1: `batching::queue::Queue` points up", "1: `batching::pace` points up"],
        ),
        ("error::kind", "use super::super::transport::Call;", vec!["1: `transport::Call` points up"]),
        ("transport::grpc::call", "use super::super::http::Http;", vec!["1: `transport::http::Http` is kept apart"]),
        (
            "transport::http",
            "use crate::transport::{routing::balancer, grpc};",
            vec!["1: `transport::routing::balancer` is kept apart", "1: `transport::grpc` is kept apart"],
        ),
        ("transport::net::tls", "use crate::transport::grpc::x;", vec!["1: `transport::grpc::x` is kept apart"]),
        ("testing::node", "use crate::transport::Transport;", vec!["1: `transport::Transport` is not for `testing`"]),
        ("client", "use crate::testing::Server;", vec!["1: `testing::Server` points up"]),
        ("api", "macro_rules! m { () => { $crate::client::Client } }", vec!["1: `client::Client` points up"]),
        ("sync", "mod inner { use super::super::error::Error; }", vec!["1: `error::Error` points up"]),
        ("error", "#[cfg(feature = \"http\")] use crate::wire::json;", vec!["1: `wire::json` points up"]),
    ];
    for (module, text, expected) in cases {
        assert_eq!(found(module, text), expected, "{module}: {text}");
    }
}

#[test]
fn paths_downward_and_what_only_looks_like_one_are_not_found() {
    let cases = [
        ("client", "use crate::{batching::batcher, call::Core, transport::{self, Transport}};"),
        ("transport", "use crate::transport::grpc::{self, Grpc}; use crate::transport::routing::fallback::Route;"),
        ("transport::routing::balancer", "use crate::transport::{Transport, grpc}; use super::health::Health;"),
        ("transport::grpc", "use crate::transport::http_status; use self::call::OpenCall;"),
        ("testing::node", "use super::call::Call; use crate::api::{method::Method, message::*};"),
        (
            "wire",
            "// use crate::client::Client;\n/* /* crate::api::X */ crate::api::Y */\n/// [`crate::client::Client`]",
        ),
        (
            "wire",
            "const A: &str = \"crate::client::Client\"; const B: &str = r#\"crate::api::\"X\"#; const C: char = '\"';",
        ),
        ("wire", "fn f<'a>(a: &'a str) { let b = b'\\''; let c = b\"crate::api::X\"; }"),
        ("wire", "mod tests { use super::*; }"),
        ("wire", "#[cfg(test)]\nmod tests { use crate::PublishResult; use crate::client::Client; }"),
        ("wire", "#[cfg(test)]\nuse crate::api::{batch::{Batch}};\nuse crate::error::Error;"),
        ("wire", "#[cfg(all(test, feature = \"grpc\"))]\n#[allow(dead_code)]\nfn f() { crate::api::f() }"),
    ];
    for (module, text) in cases {
        assert_eq!(found(module, text), [""; 0], "{module}: {text}");
    }
    let (found, tests) = violations(&["call".to_owned()], "#[cfg(test)]\nmod tests;\nuse crate::client::Client;");
    assert_eq!((found.len(), tests), (1, vec![vec!["call".to_owned(), "tests".to_owned()]]));
}
