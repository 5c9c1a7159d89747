use tide_model::{
    Incarnation,
    fleet::{AgentState, AgentView},
};
use time::{Duration, OffsetDateTime};

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(30)
}

fn agent(name: &str, state: AgentState, pipelines: u32, lag: f64) -> AgentView {
    AgentView {
        name: name.parse().unwrap(),
        state,
        incarnation: Incarnation(uuid::Uuid::nil()),
        version: "1.0".to_owned(),
        hostname: "node".to_owned(),
        weight: 1,
        metrics_addr: None,
        pipelines,
        unhealthy: 0,
        lag_p95_seconds: lag,
        lag_worst_seconds: lag,
        holds: Vec::new(),
        started_at: now() - Duration::hours(i64::from(pipelines)),
        last_seen_at: now(),
        reporting: true,
        backend_pid: None,
        last_drain: None,
    }
}

fn fleet() -> Vec<AgentView> {
    let mut agents = vec![
        agent("relay-1", AgentState::Active, 3, 0.5),
        agent("relay-2", AgentState::Draining, 1, 90.0),
        agent("edge-1", AgentState::Active, 0, 0.0),
    ];
    agents[1].holds = vec!["drain by ana: kernel".to_owned()];
    agents[1].backend_pid = Some(7);
    agents[2].metrics_addr = Some("10.0.0.1:9090".to_owned());
    agents
}

fn args(filter: Option<&str>, sort: Option<&str>) -> SelectArgs {
    SelectArgs {
        filter: filter.map(ToOwned::to_owned),
        sort: sort.map(ToOwned::to_owned),
    }
}

fn chosen(filter: Option<&str>, sort: Option<&str>) -> Vec<String> {
    let selection = Selection::<AgentView>::parse(&args(filter, sort)).unwrap();
    let mut agents = fleet();
    selection.apply(&mut agents, now());
    agents.iter().map(|agent| agent.name.to_string()).collect()
}

#[test]
fn a_filter_leaves_the_rows_for_which_every_condition_holds() {
    for (filter, names) in [
        ("name=relay-1", &["relay-1"][..]),
        ("name!=relay-1", &["relay-2", "edge-1"]),
        ("name~relay-*", &["relay-1", "relay-2"]),
        ("state=active", &["relay-1", "edge-1"]),
        ("state!=ACTIVE", &["relay-2"]),
        ("lag>5s", &["relay-2"]),
        ("lag>1m", &["relay-2"]),
        ("lag<=500ms", &["relay-1", "edge-1"]),
        ("pipelines>=1,pipelines<3", &["relay-2"]),
        ("age>2h", &["relay-1"]),
        ("holds~*ana*", &["relay-2"]),
        ("holds=-", &["relay-1", "edge-1"]),
        ("metrics!=-", &["edge-1"]),
        ("pid=7", &["relay-2"]),
        ("pid!=7", &["relay-1", "edge-1"]),
        ("pid<100", &["relay-2"]),
        ("safe-to-stop=yes", &[]),
        ("reports=no", &[]),
        (" name ~ *-1 , state = active ", &["relay-1", "edge-1"]),
    ] {
        assert_eq!(chosen(Some(filter), None), names, "{filter}");
    }
}

#[test]
fn a_list_is_ordered_by_any_field_and_what_is_unknown_comes_last() {
    for (sort, names) in [
        ("name", ["edge-1", "relay-1", "relay-2"]),
        ("name:desc", ["relay-2", "relay-1", "edge-1"]),
        ("lag:desc", ["relay-2", "relay-1", "edge-1"]),
        ("pipelines:asc", ["edge-1", "relay-2", "relay-1"]),
        ("age:desc", ["relay-1", "relay-2", "edge-1"]),
        ("pid", ["relay-2", "relay-1", "edge-1"]),
        ("pid:desc", ["relay-2", "relay-1", "edge-1"]),
        // Rows that are alike stay as they were.
        ("version:desc", ["relay-1", "relay-2", "edge-1"]),
    ] {
        assert_eq!(chosen(None, Some(sort)), names, "{sort}");
    }
}

#[test]
fn what_cannot_be_understood_is_refused_with_what_can() {
    for (filter, sort, says, hint) in [
        (
            Some("stat=active"),
            None,
            "have no field \"stat\"",
            "did you mean state?",
        ),
        (
            Some("colour=red"),
            None,
            "have no field \"colour\"",
            "the fields are name, state",
        ),
        (
            Some("active"),
            None,
            "\"active\" is no condition",
            "write FIELD=VALUE",
        ),
        (
            Some("state=active,"),
            None,
            "\"\" is no condition",
            "commas between",
        ),
        (
            Some("state="),
            None,
            "\"state=\" is no condition",
            "write FIELD=VALUE",
        ),
        (
            Some("name<relay-2"),
            None,
            "name<relay-2 cannot be",
            "it is a text",
        ),
        (Some("lag>soon"), None, "lag>soon cannot be", "30s, 5m, 1h"),
        (Some("lag~5*"), None, "lag~5* cannot be", "it is a duration"),
        (
            Some("pipelines=many"),
            None,
            "pipelines=many cannot be",
            "it is a number",
        ),
        (
            Some("reports=maybe"),
            None,
            "reports=maybe cannot be",
            "yes or no",
        ),
        (
            None,
            Some("lags"),
            "--sort: agents have no field \"lags\"",
            "did you mean lag?",
        ),
        (
            None,
            Some("lag:down"),
            "\"down\" is no direction",
            "--sort lag:desc",
        ),
    ] {
        let error = Selection::<AgentView>::parse(&args(filter, sort)).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        let told = error.hint().unwrap();
        assert!(told.contains(hint), "{told}");
        assert_eq!(error.exit(), crate::exit::Exit::Usage);
    }
}
