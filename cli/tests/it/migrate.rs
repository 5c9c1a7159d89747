use crate::fixture::{Fixture, finish, tidectl};

fn up_to_date() -> String {
    format!(
        "up to date: catalog version {}\n",
        tide_catalog::schema::version()
    )
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_second_run_finds_nothing_to_do() {
    let fixture = Fixture::empty().await;
    let dry = fixture.ok(&["migrate", "--dry-run"]).await;
    assert!(dry.starts_with("would apply 0001 catalog\n"), "{dry}");
    let applied = fixture.ok(&["migrate"]).await;
    assert_eq!(applied, dry.replace("would apply", "applied"));
    assert_eq!(fixture.ok(&["migrate"]).await, up_to_date());
    assert_eq!(fixture.ok(&["migrate", "--dry-run"]).await, up_to_date());
}

#[tokio::test]
async fn json_says_what_was_applied() {
    let fixture = Fixture::empty().await;
    let applied = fixture.json(&["migrate"]).await;
    assert_eq!(applied["migrations"][0]["name"], "catalog");
    assert_eq!(applied["dry_run"], false);
    assert_eq!(
        fixture.json(&["migrate"]).await["migrations"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn several_at_once_install_it_once() {
    let fixture = Fixture::empty().await;
    let (one, two, three) = tokio::join!(
        fixture.run(&["migrate"]),
        fixture.run(&["migrate"]),
        fixture.run(&["migrate"])
    );
    for run in [one, two, three] {
        run.expect(0);
    }
    assert_eq!(fixture.ok(&["migrate"]).await, up_to_date());
}

#[tokio::test]
async fn a_standby_is_refused() {
    let fixture = Fixture::empty().await;
    let standby = tide_sandbox::postgres::Postgres::start_standby(&fixture.postgres)
        .await
        .unwrap();
    let mut command = tidectl(&["migrate"]);
    command.env("TIDE_POSTGRES_URL", standby.url("shop"));
    finish(command, "")
        .await
        .expect(1)
        .says("error: the server is a standby")
        .says("hint: point");
}

#[tokio::test]
async fn without_a_url_it_says_where_to_put_one() {
    let run = finish(tidectl(&["migrate"]), "").await.expect(2);
    run.says("hint: pass --postgres-url postgres://")
        .says("TIDE_POSTGRES_URL");
}
