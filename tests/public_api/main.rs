//! The public interface is the one in `public_api.txt`: whoever changes it, changes that file too, and sees in review what it
//! means for users.
//!
//! ```sh
//! UPDATE_PUBLIC_API=1 cargo test --all-features --test public_api
//! ```
//!
//! The listing comes from rustdoc's JSON, which is not stable, so it is compared only with the version of Rust that wrote the
//! file; the first line names it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// What every message has, and rustdoc lists for each of them: the header of the `impl` says enough.
const OF_EVERY_MESSAGE: [&str; 6] =
    ["::clear(", "::encoded_len(", "::serialize<", "::deserialize<", "::fmt(", "::default("];

/// `1.95`, of `rustc 1.95.0 (…)`.
fn rust_version() -> String {
    let version = Command::new("rustc").arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let number = version.split_whitespace().nth(1).unwrap();
    number.rsplit_once('.').unwrap().0.to_owned()
}

fn rustdoc_json() -> std::path::PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public-api");
    let cargo = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--locked", "--lib", "--all-features", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
        // JSON is an unstable output of a stable rustdoc.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTDOCFLAGS")
        .status();
    assert!(cargo.unwrap().success(), "cargo rustdoc failed");
    target.join("doc/centrifugo_api.json")
}

#[test]
fn the_public_interface_is_the_one_written_down() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_api/public_api.txt");
    let version = rust_version();
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let of = expected.lines().next().unwrap_or_default().trim_start_matches("# Rust ");
    let updates = env::var_os("UPDATE_PUBLIC_API").is_some();
    if of != version && !updates {
        eprintln!("not compared: the listing is of Rust {of}, and this is Rust {version}");
        return;
    }
    let builder = public_api::Builder::from_rustdoc_json(rustdoc_json());
    let builder = builder.omit_blanket_impls(true).omit_auto_trait_impls(true).omit_auto_derived_impls(true);
    let mut found = format!("# Rust {version}\n");
    let items: BTreeSet<_> = builder.build().unwrap().items().map(ToString::to_string).collect();
    for item in items.iter().filter(|item| !OF_EVERY_MESSAGE.iter().any(|part| item.contains(part))) {
        writeln!(found, "{}", item.replace("centrifugo_api::", "")).unwrap();
    }
    if updates {
        fs::write(file, found).unwrap();
        return;
    }
    let lines = |text: &'_ str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, now) = (lines(&expected), lines(&found));
    let gone: Vec<_> = before.difference(&now).map(|line| format!("- {line}")).collect();
    let new: Vec<_> = now.difference(&before).map(|line| format!("+ {line}")).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "the public interface changed; if that is meant, run this test with UPDATE_PUBLIC_API=1:\n{}",
        [gone, new].concat().join("\n")
    );
}
