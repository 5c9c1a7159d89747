use std::process::Stdio;

use serde_json::Value;
use sqlx::Connection as _;
use tokio::process::Child;

use crate::fixture::{Fixture, lines};

async fn record(fixture: &Fixture, rows: &str) {
    let sql = format!(
        "INSERT INTO tide.events (relay_group_id, actor, kind, subject, reason, outcome, authenticated_by, at) VALUES {rows}"
    );
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql)
        .execute(&mut fixture.connection().await)
        .await
        .unwrap();
}

async fn kinds(fixture: &Fixture, filter: &[&str]) -> Vec<String> {
    let listed = fixture.json(&[&["events"], filter].concat()).await;
    let events = listed.as_array().unwrap().iter();
    events
        .map(|event| event["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn events_are_found_by_what_is_known_of_them() {
    let fixture = Fixture::migrated().await;
    record(
        &fixture,
        "('default', 'ana', 'drain.started', 'relay-1', 'kernel', '', '', now() - interval '3 hours'),
         ('default', 'ana', 'command.drain', 'relay-1', 'kernel', 'ok', 'token', now() - interval '2 hours'),
         ('', 'tom', 'pipeline.set', 'orders', '', '', '', now() - interval '1 hour'),
         ('default', 'tom', 'drainage', 'relay-2', '', '', '', now()),
         ('blue', 'tom', 'drain.started', 'relay-1', '', '', '', now())",
    )
    .await;
    for (filter, expected) in [
        (
            &[][..],
            &["drain.started", "command.drain", "pipeline.set", "drainage"][..],
        ),
        (&["--kind", "drain"], &["drain.started"]),
        (&["--kind", "command.drain"], &["command.drain"]),
        (&["--subject", "orders"], &["pipeline.set"]),
        (&["--by", "ana"], &["drain.started", "command.drain"]),
        (&["--since", "90m"], &["pipeline.set", "drainage"]),
        (&["--limit", "1"], &["drainage"]),
        (
            &["--relay-group-id", "blue"],
            &["pipeline.set", "drain.started"],
        ),
    ] {
        assert_eq!(kinds(&fixture, filter).await, expected, "{filter:?}");
    }
    let shown = fixture.run(&["events", "--limit", "3"]).await.expect(0);
    shown
        .says("the newest 3 of the past")
        .prints("ana (token)")
        .prints("kernel");
    let streamed = fixture
        .run(&["events", "-o", "ndjson"])
        .await
        .expect(0)
        .stdout;
    assert_eq!(streamed.lines().count(), 4, "{streamed}");
    let first: Value = serde_json::from_str(streamed.lines().next().unwrap()).unwrap();
    assert_eq!(first["database_user"], "postgres");
}

#[tokio::test]
async fn whoever_follows_misses_nothing_that_commits_late() {
    let fixture = Fixture::migrated().await;
    record(
        &fixture,
        "('default', 'ana', 'first', 'x', '', '', '', now())",
    )
    .await;
    let mut late = fixture.connection().await;
    let mut late = late.begin().await.unwrap();
    let insert = "INSERT INTO tide.events (relay_group_id, actor, kind, subject) VALUES ('default', 'ana', $1, 'x')";
    sqlx::query(insert)
        .bind("late")
        .execute(&mut *late)
        .await
        .unwrap();
    let mut command = fixture.command(&["events", "--follow", "-o", "json"]);
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let mut child: Child = command.spawn().unwrap();
    let mut printed = lines(child.stdout.take().unwrap());
    let kind = |line: String| {
        let event: Value = serde_json::from_str(&line).unwrap();
        event["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(printed.next().await), "first");
    // What is numbered later commits earlier, and is followed by what was numbered before it.
    record(
        &fixture,
        "('default', 'ana', 'second', 'x', '', '', '', now())",
    )
    .await;
    assert_eq!(kind(printed.next().await), "second");
    late.commit().await.unwrap();
    assert_eq!(kind(printed.next().await), "late");
    record(
        &fixture,
        "('default', 'ana', 'third', 'x', '', '', '', now())",
    )
    .await;
    assert_eq!(kind(printed.next().await), "third");
    child.kill().await.unwrap();
}
