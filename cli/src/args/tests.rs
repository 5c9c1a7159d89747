use std::fmt::Write as _;

use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn refused(line: &str) -> ErrorKind {
    parse(line).unwrap_err().kind()
}

#[test]
fn the_command_tree_is_consistent() {
    Cli::command().debug_assert();
}

/// Every help page, one after the other, at a fixed width.
#[test]
fn help_of_the_whole_tree() {
    fn pages(command: &mut clap::Command, out: &mut String) {
        let name = command
            .get_bin_name()
            .unwrap_or_else(|| command.get_name())
            .to_owned();
        // The global options are the same on every page; the first one shows them.
        let help = command.render_help().to_string();
        let own = if out.is_empty() {
            &help
        } else {
            help.split("\nGlobal options:").next().unwrap()
        };
        writeln!(out, "──── {name}\n{}\n", own.trim_end()).unwrap();
        for sub in command
            .get_subcommands_mut()
            .filter(|sub| !sub.is_hide_set())
        {
            pages(sub, out);
        }
    }
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut out = String::new();
    pages(&mut command, &mut out);
    insta::assert_snapshot!(out);
}

#[test]
fn global_flags_may_stand_anywhere() {
    for line in [
        "tidectl -o json agent ls",
        "tidectl agent -o json ls",
        "tidectl agent ls -o json",
    ] {
        assert_eq!(
            parse(line).unwrap().global.output,
            OutputFormat::Json,
            "{line}"
        );
    }
}

#[test]
fn list_has_a_short_name_everywhere() {
    for noun in [
        "outbox",
        "inbox",
        "dlq",
        "pipeline",
        "agent",
        "operation",
        "op",
    ] {
        parse(&format!("tidectl {noun} ls")).unwrap();
        parse(&format!("tidectl {noun} list")).unwrap();
    }
}

#[test]
fn contradictions_are_refused() {
    assert_eq!(
        refused("tidectl drain r --wait --detach"),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(
        refused("tidectl drain r --plan --detach"),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(
        refused("tidectl drain r --plan --deadline 5m"),
        ErrorKind::ArgumentConflict
    );
    assert_eq!(
        refused("tidectl move p"),
        ErrorKind::MissingRequiredArgument
    );
    assert_eq!(
        refused("tidectl operation show 7"),
        ErrorKind::ValueValidation
    );
    assert_eq!(
        refused("tidectl drain r --deadline 0"),
        ErrorKind::ValueValidation
    );
    assert_eq!(
        refused("tidectl operation list --limit 0"),
        ErrorKind::ValueValidation
    );
    assert_eq!(
        refused("tidectl --relay-group-id a\u{7f}b version"),
        ErrorKind::ValueValidation
    );
}

#[test]
fn a_mistyped_flag_or_command_is_corrected() {
    let error = parse("tidectl drain r --detatch").unwrap_err();
    assert!(error.to_string().contains("'--detach'"), "{error}");
    assert_eq!(error.exit_code(), 2);
    let error = parse("tidectl drian r").unwrap_err();
    assert!(error.to_string().contains("'drain'"), "{error}");
}

#[test]
fn waiting_is_the_default_and_may_be_limited() {
    let wait = |line: &str| match parse(line).unwrap().command {
        Command::Drain(args) => (args.wait.detach, args.wait.limit()),
        other => panic!("{other:?}"),
    };
    let half_a_minute = std::time::Duration::from_secs(30);
    assert_eq!(wait("tidectl drain r"), (false, None));
    assert_eq!(wait("tidectl drain r --wait"), (false, None));
    assert_eq!(wait("tidectl drain --wait r"), (false, None));
    assert_eq!(
        wait("tidectl drain r --wait=30s"),
        (false, Some(half_a_minute))
    );
    assert_eq!(wait("tidectl drain r --detach"), (true, None));
}

#[test]
fn a_payload_may_begin_with_a_dash() {
    parse("tidectl outbox publish o --payload -").unwrap();
    parse("tidectl outbox publish o --payload -7").unwrap();
}
