//! What the fuzzer found interesting, run as ordinary tests. `fuzz/README.md` says how to add to it.

mod targets;

use std::fs;
use std::path::Path;

/// Runs a target over every file of its corpus.
fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut files = 0;
    for file in fs::read_dir(corpus).unwrap() {
        let path = file.unwrap().path();
        // Seen only when the test fails.
        eprintln!("{}", path.display());
        target(&fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0, "there is no corpus");
}

macro_rules! tests {
    ($($(#[$when:meta])? $target:ident)*) => {
        $($(#[$when])? #[test]
        fn $target() {
            run(stringify!($target));
        })*

        #[test]
        fn every_target_is_run() {
            let names: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$($(#[$when])? stringify!($target)),*]);
        }
    };
}
tests! { reply_protobuf reply_json grpc_exchange http_exchange error_details differential proxy_calls token }
