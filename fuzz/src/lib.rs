//! The fuzz targets. Their code is part of the crate's tests, which run it over the corpus found here.

#[path = "../../tests/it/corpus/targets/mod.rs"]
mod targets;

/// Runs one of them.
pub fn run(name: &str, data: &[u8]) {
    let target = targets::TARGETS.iter().find(|(target, _)| *target == name);
    target.unwrap_or_else(|| panic!("no target {name}")).1(data);
}
