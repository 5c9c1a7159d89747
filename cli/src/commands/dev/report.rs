//! What a tour's report looks like to people.

use std::fmt::Write as _;

use super::accounts::{Spread, TourReport, by_cause};
use crate::output::{Cell, Style, Table, Tone, humanize::number};

/// The report as a person reads it; the verdict comes last.
pub(super) fn text(style: Style, report: &TourReport) -> String {
    let mut text = table(style, report);
    for pipeline in &report.unread {
        let _ = writeln!(
            text,
            "{pipeline} keeps nothing to read back; its position reached the end"
        );
    }
    text.push('\n');
    let offences = report.offences();
    for offence in &offences {
        let mark = style.paint(Tone::Bad, "!");
        let _ = writeln!(text, "{mark} {}: {}", offence.pipeline, offence.finding);
    }
    if !offences.is_empty() {
        text.push('\n');
    }
    text.push_str(&verdict(style, report));
    text
}

fn table(style: Style, report: &TourReport) -> String {
    let heading = [
        "PIPELINE",
        "PUBLISHED",
        "DELIVERED",
        "LOST",
        "REORDERED",
        "DUPLICATED",
    ];
    let mut table = Table::new(style, &heading);
    for account in &report.accounts.pipelines {
        let tally = &account.tally;
        table.row([
            Cell::from(account.pipeline.as_str()),
            Cell::from(number(tally.committed as u64)),
            Cell::from(number(tally.delivered as u64)),
            count(tally.lost),
            count(tally.reordered),
            Cell::toned(
                by_cause(&tally.duplicates),
                if tally.unexplained_duplicates() == 0 {
                    Tone::Plain
                } else {
                    Tone::Bad
                },
            ),
        ]);
    }
    table.print()
}

fn verdict(style: Style, report: &TourReport) -> String {
    let totals = report.totals();
    let fine = |what: &str, count: usize| {
        let tone = if count == 0 { Tone::Good } else { Tone::Bad };
        style.paint(tone, &format!("{what} {}", number(count as u64)))
    };
    let mut text = format!(
        "published {}   delivered {}   {}   {}   duplicated {}\n",
        number(report.published as u64),
        number(totals.delivered as u64),
        fine("lost", totals.lost),
        fine("reordered", totals.reordered),
        by_cause(&totals.duplicates),
    );
    for (what, count) in [("phantom", totals.phantom), ("altered", totals.altered)] {
        if count > 0 {
            let _ = writeln!(text, "{}", fine(what, count));
        }
    }
    if !totals.stale_epochs.is_empty() {
        let causes = by_cause(&totals.stale_epochs);
        let _ = writeln!(text, "delivered by a former owner {causes}");
    }
    let _ = writeln!(
        text,
        "crash to next delivery: {}",
        Spread::of(&report.crashes)
    );
    let _ = writeln!(
        text,
        "freeze to next delivery: {} (lease {} s)",
        Spread::of(&report.freezes),
        report.lease.as_secs_f64()
    );
    text
}

fn count(count: usize) -> Cell {
    let tone = if count == 0 { Tone::Plain } else { Tone::Bad };
    Cell::toned(number(count as u64), tone)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tide_sandbox::{
        envelope::Delivery,
        history::{self, Cause, Disturbance, Reach, Stream},
        publisher::{Entry, KeyPosition},
    };
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::commands::dev::{accounts::Gap, document::Document};

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    fn published(count: u128) -> Vec<Entry> {
        let entry = |number: u128| Entry {
            outbox: "orders".to_owned(),
            event_id: Uuid::from_u128(number),
            position: Some(KeyPosition {
                key: "key-1".to_owned(),
                sequence: number as i64,
            }),
        };
        (0..count).map(entry).collect()
    }

    /// Messages by their numbers, one a second.
    fn stream(numbers: &[u128]) -> Stream {
        let deliveries = numbers.iter().enumerate().map(|(order, number)| {
            let envelope = serde_json::json!({
                "event_id": Uuid::from_u128(*number), "outbox": "orders", "id": *number as i64,
                "key": "key-1", "headers": {}, "payload": 1, "created_at": "2026-11-21T10:00:00Z",
            });
            Delivery {
                stream: "s".to_owned(),
                envelope: serde_json::from_value(envelope).unwrap(),
                order: order as u64,
                at: Some(at(order as i64)),
            }
        });
        Stream::new("orders-to-file", "orders", deliveries.collect())
    }

    fn report(numbers: &[u128], disturbances: &[Disturbance]) -> TourReport {
        let published = published(3);
        let gap = |ms| Gap {
            pipeline: "orders-to-file".parse().unwrap(),
            took: Duration::from_millis(ms),
        };
        TourReport {
            seed: 7,
            published: published.len(),
            accounts: history::check(&published, &[stream(numbers)], disturbances),
            unread: ["payments-to-null".parse().unwrap()].into(),
            crashes: vec![gap(38)],
            freezes: vec![gap(2_051)],
            lease: Duration::from_secs(2),
            elapsed: Duration::from_secs(61),
            lines: Vec::new(),
        }
    }

    #[test]
    fn a_clean_tour_ends_with_two_lines_that_say_so() {
        let crash = Disturbance::new(Cause::Crash, Reach::All, at(0), at(9));
        let report = report(&[0, 1, 1, 2], &[crash]);
        assert!(report.is_clean());
        insta::assert_snapshot!(text(Style::plain(), &report), @r"
        PIPELINE        PUBLISHED  DELIVERED  LOST  REORDERED  DUPLICATED
        orders-to-file  3          3          0     0          1 (crash 1)
        payments-to-null keeps nothing to read back; its position reached the end

        published 3   delivered 3   lost 0   reordered 0   duplicated 1 (crash 1)
        crash to next delivery: 38 ms median, 38 ms worst
        freeze to next delivery: 2.05 s median, 2.05 s worst (lease 2 s)
        ");
    }

    #[test]
    fn offenders_are_named() {
        let report = report(&[1, 0, 1], &[]);
        assert!(!report.is_clean());
        insta::assert_snapshot!(text(Style::plain(), &report), @r"
        PIPELINE        PUBLISHED  DELIVERED  LOST  REORDERED  DUPLICATED
        orders-to-file  3          2          1     1          1 (unexplained 1)
        payments-to-null keeps nothing to read back; its position reached the end

        ! orders-to-file: reordered 00000000-0000-0000-0000-000000000000 (key-1 #0)
        ! orders-to-file: duplicate (unexplained) 00000000-0000-0000-0000-000000000001 (key-1 #1)
        ! orders-to-file: lost 00000000-0000-0000-0000-000000000002 (key-1 #2)

        published 3   delivered 2   lost 1   reordered 1   duplicated 1 (unexplained 1)
        crash to next delivery: 38 ms median, 38 ms worst
        freeze to next delivery: 2.05 s median, 2.05 s worst (lease 2 s)
        ");
    }

    #[test]
    fn a_program_reads_the_same() {
        let report = report(&[0, 2, 1], &[]);
        let document = serde_json::to_value(Document::new(&report)).unwrap();
        for (key, value) in [
            ("clean", serde_json::json!(false)),
            ("published", serde_json::json!(3)),
            ("delivered", serde_json::json!(3)),
            ("lost", serde_json::json!(0)),
            ("reordered", serde_json::json!(1)),
            ("duplicated", serde_json::json!(0)),
            ("unexplained", serde_json::json!(0)),
            ("seed", serde_json::json!(7)),
        ] {
            assert_eq!(document[key], value, "{key}");
        }
        assert_eq!(document["crash_to_next_delivery"]["worst_ms"], 38.0);
        assert_eq!(document["pipelines"][0]["pipeline"], "orders-to-file");
        let finding = document["offences"][0]["finding"].as_str().unwrap();
        assert!(finding.starts_with("reordered"), "{finding}");
    }
}
