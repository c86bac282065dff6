//! What the help and the usage lines show.

use super::{Outcome, command, run};

fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.stdout.lines().map(str::trim).collect()
}

/// The options that begin a line, in order.
fn options(outcome: &Outcome) -> Vec<&str> {
    lines(outcome).into_iter().filter(|line| line.starts_with("--")).filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn a_usage_line_shows_no_option_for_a_variable_that_is_set() {
    for arguments in [&["publish", "--nonsense"][..], &["call"], &["bench", "--nonsense"], &["serve", "--nonsense"]] {
        let mut command = command(arguments);
        for variable in ["CENTRIFUGO_GRPC", "CENTRIFUGO_HTTP", "CENTRIFUGO_API_KEY"] {
            command.env(variable, "http://localhost:1");
        }
        let outcome = run(&mut command);
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains(&format!("Usage: centrifugo-api {} ", arguments[0])), "{outcome:?}");
        for option in ["--grpc", "--http", "--api-key"] {
            assert!(!outcome.stderr.contains(option), "{outcome:?}");
        }
    }
}

#[test]
fn the_short_help_shows_own_options_first_and_shared_ones_in_a_section_of_their_own() {
    for subcommand in ["call", "publish", "broadcast", "bench"] {
        let help = run(&mut command(&[subcommand, "-h"]));
        let lines = lines(&help);
        let section = |name: &str| lines.iter().position(|line| *line == name).unwrap();
        assert!(section("Options:") < section("Server:"), "{help:?}");
        let shared = &lines[section("Server:")..];
        for option in ["--grpc", "--http", "--transport", "--api-key", "--timeout"] {
            assert!(shared.iter().any(|line| line.starts_with(&format!("{option} "))), "{option} of {help:?}");
        }
        let all = run(&mut command(&[subcommand, "--help"]));
        for option in ["--fallback", "--ca", "--client-cert", "--insecure-skip-verification"] {
            assert!(!options(&help).contains(&option) && options(&all).contains(&option), "{option} of {all:?}");
        }
    }
}

#[test]
fn serve_lists_no_option_that_it_refuses() {
    for help in ["-h", "--help"] {
        let help = run(&mut command(&["serve", help]));
        let listed = options(&help);
        for option in ["--grpc-addr", "--http-addr", "--namespace", "--api-key", "--api-key-file"] {
            assert!(listed.contains(&option), "{option} of {help:?}");
        }
        for option in listed {
            let outcome = run(&mut command(&["serve", option, "x", "--nonsense"]));
            assert!(!outcome.stderr.contains("`serve` calls no server"), "{option}: {outcome:?}");
        }
    }
    let refused = run(&mut command(&["serve", "--retries", "1"]));
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("`serve` calls no server, and so has no use for --retries"), "{refused:?}");
}
