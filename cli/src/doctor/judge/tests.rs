//! One sound installation, and one change at a time.

use tide_catalog::{
    pipelines::StoredPipeline,
    preflight::{OpenTransaction, PreparedTransaction, ServerFacts, ServerState},
};
use tide_model::{
    Epoch, Incarnation, PipelineState,
    fleet::{AgentRow, DatabaseView, Hold, HoldKind, PipelineRow},
    hold::HoldTarget,
};
use time::{Duration, OffsetDateTime};

use super::judge;
use crate::{
    args::Part,
    doctor::{
        facts::{
            Answer, Asked, Clock, ControlPlane, Database, Facts, Fleet, LEASE, Pooler, Problem,
            Rights, Server,
        },
        finding::Status,
    },
};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn sound() -> Facts {
    let settings = [
        ("server_encoding", "UTF8"),
        ("server_version", "17.4"),
        ("max_connections", "100"),
        ("superuser_reserved_connections", "3"),
        ("max_locks_per_transaction", "64"),
        ("max_prepared_transactions", "0"),
        ("synchronous_commit", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("autovacuum", "on"),
        ("track_counts", "on"),
        ("default_transaction_read_only", "off"),
    ];
    let facts = ServerFacts {
        state: ServerState {
            version: 170_004,
            standby: false,
            user: "ana".to_owned(),
            sees_all: true,
            clock: NOW,
            connections: 20,
            locks: 10,
        },
        settings: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        open: Vec::new(),
        prepared: Vec::new(),
        slots: Vec::new(),
    };
    let clock = Clock {
        ahead: Duration::milliseconds(3),
        uncertainty: Duration::milliseconds(5),
    };
    let server = Server {
        clock,
        facts: Ok(facts),
        lease: Ok(LEASE.as_millis() as i64),
        catalog: Ok(()),
        rights: Some(Ok(Rights::default())),
        fleet: Some(Ok(fleet())),
    };
    Facts {
        group: "default".parse().unwrap(),
        part: None,
        database: (
            "db:5432/shop".to_owned(),
            Ok(Database {
                pooler: Pooler::None,
                server: Some(Box::new(server)),
            }),
        ),
        control_planes: vec![ControlPlane {
            address: "http://ctl:7900".to_owned(),
            answer: Answer::Active("default".parse().unwrap()),
        }],
    }
}

fn fleet() -> Fleet {
    let agent = AgentRow {
        name: "relay-1".parse().unwrap(),
        incarnation: Incarnation(uuid::Uuid::nil()),
        alive: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: "h".to_owned(),
        weight: 1,
        metrics_addr: None,
        started_at: NOW,
        last_seen_at: NOW,
        stopped_at: None,
        backend_pid: None,
        lease_ends_at: None,
    };
    let pipeline = PipelineRow {
        name: "orders".parse().unwrap(),
        outbox: "shop".to_owned(),
        sink: "null".to_owned(),
        enabled: true,
        revision: 1,
        weight: 1,
        lock_key: 1,
        owner: Some("relay-1".parse().unwrap()),
        owner_pid: Some(1),
        epoch: Some(Epoch(1)),
        last_change_id: 0,
        lag_rows: 0,
        lag: Duration::ZERO,
        state: Some(PipelineState::Running),
        state_reason: None,
        state_since: None,
        retry_at: None,
        reshard_to: None,
        settled: true,
    };
    Fleet {
        view: DatabaseView {
            pipelines: vec![pipeline],
            agents: vec![agent],
            ..DatabaseView::empty("default".parse().unwrap(), NOW)
        },
        pipelines: vec![StoredPipeline {
            name: "orders".to_owned(),
            outbox: "shop".to_owned(),
            relation: "tide.outbox_shop".to_owned(),
            config: serde_json::json!({"sink_type": "null"}),
            enabled: true,
            revision: 1,
        }],
        leader: Some(tide_catalog::leader::LeaderInfo {
            node_id: "ctl-a".parse().unwrap(),
            address: Some("http://ctl:7900".to_owned()),
            epoch: Epoch(2),
            backend_pid: 2,
            acquired_at: NOW,
            lease_until: NOW,
            lease_alive: true,
            lock_held: true,
        }),
    }
}

fn problem<T>(message: &str) -> Asked<T> {
    Err(Problem {
        message: message.to_owned(),
        hint: None,
    })
}

type Change = fn(&mut Facts);

fn database(facts: &mut Facts) -> &mut Database {
    facts.database.1.as_mut().unwrap()
}

fn server(facts: &mut Facts) -> &mut Server {
    database(facts).server.as_mut().unwrap()
}

fn state(facts: &mut Facts) -> &mut ServerFacts {
    server(facts).facts.as_mut().unwrap()
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    state(facts)
        .settings
        .insert(name.to_owned(), value.to_owned());
}

fn known(facts: &mut Facts) -> &mut Fleet {
    server(facts).fleet.as_mut().unwrap().as_mut().unwrap()
}

fn lacking(part: Option<Part>) -> Facts {
    let mut facts = sound();
    facts.part = part;
    let lacks = || vec!["SELECT ON tide.agents".to_owned()];
    server(&mut facts).rights = Some(Ok(Rights {
        agent: lacks(),
        operator: lacks(),
        publisher: Vec::new(),
    }));
    facts
}

fn status(facts: &Facts, check: &str) -> Status {
    let findings = judge(facts);
    let found = findings.iter().find(|finding| finding.check == check);
    found
        .unwrap_or_else(|| panic!("no {check} in {findings:?}"))
        .status
}

#[test]
fn a_sound_installation_has_nothing_to_say() {
    let findings = judge(&sound());
    let noted: Vec<_> = findings
        .iter()
        .filter(|one| one.status != Status::Ok || one.hint.is_some())
        .collect();
    assert!(noted.is_empty(), "{noted:#?}");
    let mut names: Vec<_> = findings.iter().map(|one| one.check).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), findings.len(), "each check once");
}

/// A check, its verdict, and what brings that about.
const TROUBLES: &[(&str, Status, Change)] = &[
    ("database.pooler", Status::Fail, |f| {
        database(f).pooler = Pooler::Unknown(problem::<()>("no").unwrap_err());
    }),
    ("database.version", Status::Fail, |f| {
        state(f).state.version = 130_000;
    }),
    ("database.version", Status::Fail, |f| {
        state(f).state.version = 190_000;
    }),
    ("database.encoding", Status::Fail, |f| {
        set(f, "server_encoding", "SQL_ASCII");
    }),
    ("database.primary", Status::Fail, |f| {
        state(f).state.standby = true;
    }),
    ("database.primary", Status::Fail, |f| {
        set(f, "default_transaction_read_only", "on");
    }),
    ("settings.idle_session_timeout", Status::Fail, |f| {
        server(f).lease = Ok(0);
    }),
    ("settings.idle_session_timeout", Status::Fail, |f| {
        server(f).lease = problem("no");
    }),
    // 100 less 3 reserved: 11 are free, 10 are, none is.
    ("settings.max_connections", Status::Warn, |f| {
        state(f).state.connections = 87;
    }),
    ("settings.max_connections", Status::Fail, |f| {
        state(f).state.connections = 97;
    }),
    ("settings.max_connections", Status::Fail, |f| {
        state(f).state.connections = 87;
        set(f, "reserved_connections", "10");
    }),
    ("settings.max_locks_per_transaction", Status::Warn, |f| {
        state(f).state.locks = 5_121;
    }),
    ("settings.max_locks_per_transaction", Status::Fail, |f| {
        state(f).state.locks = 6_401;
    }),
    ("settings.durability", Status::Fail, |f| {
        set(f, "fsync", "off");
    }),
    ("settings.durability", Status::Warn, |f| {
        set(f, "full_page_writes", "off");
    }),
    ("settings.durability", Status::Warn, |f| {
        set(f, "synchronous_commit", "off");
    }),
    ("settings.autovacuum", Status::Warn, |f| {
        set(f, "autovacuum", "off");
    }),
    ("settings.autovacuum", Status::Warn, |f| {
        set(f, "track_counts", "off");
    }),
    ("horizon.open_transactions", Status::Warn, |f| {
        state(f).open = vec![OpenTransaction {
            pid: 7,
            user: "bo".to_owned(),
            application: "report".to_owned(),
            state: "idle in transaction".to_owned(),
            seconds: 300.0,
        }];
    }),
    ("horizon.open_transactions", Status::Warn, |f| {
        state(f).state.sees_all = false;
    }),
    ("horizon.prepared_transactions", Status::Warn, |f| {
        state(f).prepared = vec![PreparedTransaction {
            gid: "it's".to_owned(),
            database: "shop".to_owned(),
            seconds: 300.0,
        }];
    }),
    ("horizon.replication_slots", Status::Warn, |f| {
        state(f).slots = vec!["old".to_owned()];
    }),
    ("clock", Status::Warn, |f| {
        server(f).clock.ahead = Duration::seconds(-3);
    }),
    ("clock", Status::Warn, |f| {
        server(f).clock.ahead = Duration::seconds(3);
    }),
    ("rights", Status::Fail, |f| {
        server(f).rights = Some(problem("no"));
    }),
    ("control_plane.reachable", Status::Fail, |f| {
        f.control_planes[0].answer = Answer::Active("blue".parse().unwrap());
    }),
    ("control_plane.leader", Status::Warn, |f| {
        known(f).leader = None;
    }),
    ("control_plane.leader", Status::Warn, |f| {
        known(f).leader.as_mut().unwrap().lock_held = false;
    }),
    ("agents.alive", Status::Warn, |f| {
        known(f).view.agents[0].last_seen_at = NOW - Duration::seconds(31);
    }),
    ("agents.alive", Status::Fail, |f| {
        known(f).view.agents[0].alive = false;
    }),
    ("agents.versions", Status::Warn, |f| {
        known(f).view.agents[0].version = "0.0.1".to_owned();
    }),
    ("pipelines.owned", Status::Fail, |f| {
        known(f).view.pipelines[0].owner = None;
    }),
    ("pipelines.configuration", Status::Fail, |f| {
        known(f).pipelines[0].config = serde_json::json!({"sink_type": "nul"});
    }),
    ("pipelines.configuration", Status::Fail, |f| {
        known(f).view.pipelines[0].state = Some(PipelineState::Misconfigured);
    }),
    ("holds", Status::Warn, |f| {
        known(f).view.holds = vec![Hold {
            id: tide_model::HoldId(uuid::Uuid::nil()),
            name: "ana".to_owned(),
            target: HoldTarget::Agent("relay-1".parse().unwrap()),
            to: None,
            drain: None,
            kind: HoldKind::Cordon,
            actor: "ana".to_owned(),
            reason: "kernel".to_owned(),
            operation: None,
            is_running: false,
            deadline_at: None,
            created_at: NOW - Duration::hours(25),
            expires_at: None,
        }];
    }),
];

/// Each change turns exactly the check that it is about, and says what to do.
#[test]
fn each_trouble_is_found_by_its_check_and_by_no_other() {
    for (row, (check, expected, change)) in TROUBLES.iter().enumerate() {
        let mut facts = sound();
        change(&mut facts);
        let noted: Vec<_> = judge(&facts)
            .into_iter()
            .filter(|one| one.status != Status::Ok)
            .collect();
        let verdicts: Vec<_> = noted.iter().map(|one| (one.check, one.status)).collect();
        assert_eq!(verdicts, [(*check, *expected)], "row {row}: {noted:#?}");
        assert!(noted[0].hint.as_ref().is_some_and(|hint| !hint.is_empty()));
    }
}

#[test]
fn what_is_disabled_young_or_just_enough_is_no_trouble() {
    let changes: &[Change] = &[
        |f| {
            state(f).state.connections = 86;
        },
        |f| {
            state(f).state.locks = 5_120;
        },
        |f| {
            let row = &mut known(f).view.pipelines[0];
            (row.enabled, row.owner) = (false, None);
        },
        |f| {
            let stored = &mut known(f).pipelines[0];
            (stored.enabled, stored.config) = (false, serde_json::json!(7));
        },
        // As far as the way there and back lets one tell, both may agree.
        |f| {
            server(f).clock = Clock {
                ahead: Duration::seconds(4),
                uncertainty: Duration::seconds(2),
            };
        },
        |f| {
            f.control_planes[0].answer = Answer::Standby("http://ctl-b:7900".to_owned());
        },
    ];
    for (row, change) in changes.iter().enumerate() {
        let mut facts = sound();
        change(&mut facts);
        let noted: Vec<_> = judge(&facts)
            .into_iter()
            .filter(|one| one.status != Status::Ok)
            .collect();
        assert!(noted.is_empty(), "row {row}: {noted:#?}");
    }
}

#[test]
fn a_user_is_held_to_what_it_is_for() {
    let part = |part| {
        let facts = lacking(part);
        ["rights.agent", "rights.operator", "rights.publisher"].map(|check| status(&facts, check))
    };
    assert_eq!(part(None), [Status::Ok; 3], "a publisher, and no more");
    assert_eq!(
        part(Some(Part::Agent)),
        [Status::Fail, Status::Ok, Status::Ok]
    );
    assert_eq!(
        part(Some(Part::Operator)),
        [Status::Ok, Status::Fail, Status::Ok]
    );
    assert_eq!(part(Some(Part::Publisher)), [Status::Ok; 3]);
    let mut nobody = lacking(None);
    let rights = server(&mut nobody).rights.as_mut().unwrap();
    rights.as_mut().unwrap().publisher = vec!["USAGE ON SCHEMA tide".to_owned()];
    for check in ["rights.agent", "rights.operator", "rights.publisher"] {
        assert_eq!(status(&nobody, check), Status::Fail, "{check}");
    }
}

#[test]
fn what_cannot_be_asked_hides_nothing_else() {
    // GIVEN no database: the control planes are examined all the same
    let mut facts = sound();
    facts.database.1 = problem("connection refused");
    let checks: Vec<_> = judge(&facts).iter().map(|one| one.check).collect();
    assert_eq!(checks, ["database.reachable", "control_plane.reachable"]);
    assert_eq!(status(&facts, "database.reachable"), Status::Fail);
    // GIVEN a pooler: nothing is said of a server that was not asked
    let mut facts = sound();
    *database(&mut facts) = Database {
        pooler: Pooler::Found,
        server: None,
    };
    let checks: Vec<_> = judge(&facts).iter().map(|one| one.check).collect();
    let expected = [
        "database.reachable",
        "database.pooler",
        "control_plane.reachable",
    ];
    assert_eq!(checks, expected);
    assert_eq!(status(&facts, "database.pooler"), Status::Fail);
    // GIVEN no catalog: the server is examined all the same
    let mut facts = sound();
    let found = server(&mut facts);
    (found.catalog, found.rights, found.fleet) = (problem("no catalog"), None, None);
    assert_eq!(status(&facts, "catalog.version"), Status::Fail);
    assert_eq!(status(&facts, "settings.durability"), Status::Ok);
    // GIVEN no control plane: data flows on
    let mut facts = sound();
    facts.control_planes[0].answer = Answer::Trouble(problem::<()>("refused").unwrap_err());
    assert_eq!(status(&facts, "control_plane.reachable"), Status::Warn);
    assert_eq!(status(&facts, "control_plane.leader"), Status::Warn);
}

#[test]
fn the_clock_is_read_in_the_middle_of_the_way() {
    let clock = Clock::of(NOW, NOW + Duration::seconds(11), NOW + Duration::seconds(2));
    assert_eq!(
        (clock.ahead, clock.uncertainty),
        (Duration::seconds(10), Duration::seconds(1))
    );
}
