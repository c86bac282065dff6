//! What is printed at the end.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use centrifugo_api::{Error, ErrorKind};

use super::world::{Kind, Told, World};

pub(super) fn count(worlds: &[Arc<World>]) -> u64 {
    worlds.iter().map(|world| world.counts.lock().unwrap().values().sum::<u64>()).sum()
}

pub(super) fn print_table(worlds: &[Arc<World>]) {
    let mut table = String::from("\n| client | call | ok | done | refused | not sent | unknown | dropped | all |\n");
    table.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --: |\n");
    for world in worlds {
        let counts = world.counts.lock().unwrap();
        for kind in [Kind::Publish, Kind::Broadcast, Kind::Batch] {
            let row = Told::ALL.map(|told| counts.get(&(kind, told)).copied().unwrap_or_default());
            write!(table, "| {} | {kind:?} |", world.name()).unwrap();
            write_cells(&mut table, row.iter());
            writeln!(table, " {} |", row.iter().sum::<u64>()).unwrap();
        }
    }
    table.push_str("\n| client | repeats | latest after its deadline |\n| --- | --: | --: |\n");
    for world in worlds {
        let (repeats, slowest) = (world.repeats.load(Ordering::Relaxed), *world.slowest.lock().unwrap());
        writeln!(table, "| {} | {repeats} | {slowest:.1?} |", world.name()).unwrap();
    }
    let mut reasons: BTreeMap<(Told, String), Vec<u64>> = BTreeMap::new();
    for (column, world) in worlds.iter().enumerate() {
        for ((told, kind), number) in &*world.reasons.lock().unwrap() {
            reasons.entry((*told, kind.clone())).or_insert_with(|| vec![0; worlds.len()])[column] = *number;
        }
    }
    write!(table, "\n| told |").unwrap();
    write_cells(&mut table, worlds.iter().map(|world| world.name()));
    writeln!(table, "\n| --- |{}", " --: |".repeat(worlds.len())).unwrap();
    for ((told, kind), row) in reasons {
        write!(table, "| {told:?}: {kind} |").unwrap();
        write_cells(&mut table, row.iter());
        table.push('\n');
    }
    println!("{table}");
}

fn write_cells(table: &mut String, cells: impl Iterator<Item = impl fmt::Display>) {
    for cell in cells {
        write!(table, " {cell} |").unwrap();
    }
}

/// The kind, and for those that say little the first words as well.
pub(super) fn reason(error: &Error) -> String {
    let kind = error.kind().name();
    match error.kind() {
        ErrorKind::Protocol | ErrorKind::Invalid => {
            format!("{kind}, {}", error.message().chars().take(60).collect::<String>().replace('\n', " "))
        }
        _ => kind.to_owned(),
    }
}
