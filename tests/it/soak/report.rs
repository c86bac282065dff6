//! What is printed at the end.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use centrifugo_api::{Error, ErrorKind};

use super::harness::{Harness, Kind, Told};

pub(super) fn count(harnesses: &[Arc<Harness>]) -> u64 {
    harnesses.iter().map(|harness| harness.counts.lock().unwrap().values().sum::<u64>()).sum()
}

pub(super) fn print_table(harnesses: &[Arc<Harness>]) {
    let mut table = String::from("\n| client | call | ok | done | refused | not sent | unknown | dropped | all |\n");
    table.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --: |\n");
    for harness in harnesses {
        let counts = harness.counts.lock().unwrap();
        for kind in [Kind::Publish, Kind::Broadcast, Kind::Batch] {
            let row = Told::ALL.map(|told| counts.get(&(kind, told)).copied().unwrap_or_default());
            write!(table, "| {} | {kind:?} |", harness.name()).unwrap();
            write_cells(&mut table, row.iter());
            writeln!(table, " {} |", row.iter().sum::<u64>()).unwrap();
        }
    }
    table.push_str("\n| client | repeats | latest after its deadline | published, of those that were waited for |\n");
    table.push_str("| --- | --: | --: | --: |\n");
    for harness in harnesses {
        let (repeats, slowest) = (harness.repeats.load(Ordering::Relaxed), *harness.slowest.lock().unwrap());
        let counts = harness.counts.lock().unwrap();
        let sum = |these: fn(Told) -> bool| counts.iter().filter(|((_, told), _)| these(*told)).map(|(_, n)| n).sum();
        let (ok, all): (u64, u64) = (sum(|told| told == Told::Ok), sum(|told| told != Told::Dropped));
        let per_mille = ok * 1000 / all.max(1);
        let (percent, tenths) = (per_mille / 10, per_mille % 10);
        writeln!(table, "| {} | {repeats} | {slowest:.1?} | {percent}.{tenths} % |", harness.name()).unwrap();
    }
    let mut reasons: BTreeMap<(Told, String), Vec<u64>> = BTreeMap::new();
    for (column, harness) in harnesses.iter().enumerate() {
        for ((told, kind), number) in &*harness.reasons.lock().unwrap() {
            reasons.entry((*told, kind.clone())).or_insert_with(|| vec![0; harnesses.len()])[column] = *number;
        }
    }
    write!(table, "\n| told |").unwrap();
    write_cells(&mut table, harnesses.iter().map(|harness| harness.name()));
    writeln!(table, "\n| --- |{}", " --: |".repeat(harnesses.len())).unwrap();
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
