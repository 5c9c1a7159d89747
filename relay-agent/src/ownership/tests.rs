use std::{collections::BTreeMap, time::Duration};

use tide_model::{AgentName, Epoch, UnitName};
use tokio::time::Instant;

use super::{Effect, Event, Holder, Ownership, PREPARATION, Wanted, WorkerEnd};

fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

fn agent(text: &str) -> AgentName {
    text.parse().unwrap()
}

fn wanted(assignee: Option<&str>, holder: Holder, revision: i64) -> BTreeMap<UnitName, Wanted> {
    BTreeMap::from([(
        name("p"),
        Wanted {
            assignee: assignee.map(agent),
            holder,
            revision,
        },
    )])
}

/// An agent "me" with a session.
struct Machine {
    ownership: Ownership,
    now: Instant,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self {
            ownership: Ownership::new(agent("me")),
            now: Instant::now(),
        };
        assert!(machine.step(Event::SessionUp).is_empty());
        machine
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.ownership.step(event, self.now)
    }

    fn discover(&mut self, wanted: BTreeMap<UnitName, Wanted>) -> Vec<Effect> {
        self.step(Event::Discovered {
            wanted,
            may_step_in: true,
        })
    }

    /// Holding "p" at revision 1.
    fn holding() -> Self {
        let mut machine = Self::new();
        machine.discover(wanted(Some("me"), Holder::Nobody, 1));
        let claimed = BTreeMap::from([(name("p"), Epoch(7))]);
        let effects = machine.step(Event::Acquired {
            claimed,
            refused: Vec::new(),
        });
        assert_eq!(effects, [Effect::Start(name("p"), Epoch(7))]);
        machine
    }

    /// "p" is to move to "other", which is asked to make ready.
    fn moving_to_other(&mut self) {
        let effects = self.discover(wanted(Some("other"), Holder::Agent, 1));
        assert_eq!(effects, [Effect::Prepare(name("p"), agent("other"))]);
    }

    fn ready(&mut self, who: &str) -> Vec<Effect> {
        self.step(Event::Ready(agent(who), vec![name("p")]))
    }

    fn ended(&mut self, end: WorkerEnd) -> Vec<Effect> {
        self.step(Event::WorkerEnded(name("p"), end))
    }
}

#[test]
fn the_assignee_tries_at_once() {
    let effects = Machine::new().discover(wanted(Some("me"), Holder::Nobody, 1));
    assert_eq!(effects, [Effect::Acquire(vec![name("p")])]);
}

#[test]
fn others_wait_for_a_grace_and_then_step_in() {
    let mut machine = Machine::new();
    let free = || wanted(Some("other"), Holder::Nobody, 1);
    assert_eq!(
        machine.discover(free()),
        [Effect::LookAgainIn(Duration::from_secs(1))]
    );
    machine.now += Duration::from_millis(1_001);
    assert_eq!(machine.discover(free()), [Effect::Acquire(vec![name("p")])]);
}

#[test]
fn a_held_agent_never_steps_in() {
    let mut machine = Machine::new();
    for _ in 0..3 {
        let event = Event::Discovered {
            wanted: wanted(Some("other"), Holder::Nobody, 1),
            may_step_in: false,
        };
        assert!(machine.step(event).is_empty());
        machine.now += Duration::from_secs(2);
    }
}

#[test]
fn a_refusal_is_tried_again_soon_while_nobody_seems_to_hold_it() {
    let mut machine = Machine::new();
    machine.discover(wanted(Some("me"), Holder::Nobody, 1));
    let refused = |machine: &mut Machine| {
        machine.step(Event::Acquired {
            claimed: BTreeMap::new(),
            refused: vec![name("p")],
        })
    };
    assert_eq!(
        refused(&mut machine),
        [Effect::LookAgainIn(Duration::from_millis(5))]
    );
    assert_eq!(
        machine.discover(wanted(Some("me"), Holder::Nobody, 1)),
        [Effect::Acquire(vec![name("p")])]
    );
    assert_eq!(
        refused(&mut machine),
        [Effect::LookAgainIn(Duration::from_millis(10))]
    );
    // A live agent has it after all.
    assert!(
        machine
            .discover(wanted(Some("me"), Holder::Agent, 1))
            .is_empty()
    );
}

#[test]
fn a_dying_session_is_waited_for_at_growing_intervals() {
    let mut machine = Machine::new();
    let dying = || wanted(Some("me"), Holder::Stranger, 1);
    assert_eq!(
        machine.discover(dying()),
        [Effect::LookAgainIn(Duration::from_millis(5))]
    );
    assert_eq!(
        machine.discover(dying()),
        [Effect::LookAgainIn(Duration::from_millis(10))]
    );
    assert_eq!(
        machine.discover(wanted(Some("me"), Holder::Nobody, 1)),
        [Effect::Acquire(vec![name("p")])]
    );
}

#[test]
fn moving_away_finishes_the_batch_then_names_the_successor() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    assert_eq!(
        machine.ready("other"),
        [Effect::Stop(name("p"))],
        "the worker runs until the successor is ready"
    );
    assert_eq!(
        machine.ended(WorkerEnd::Stopped),
        [Effect::Release(name("p"), Some(agent("other")))]
    );
    assert_eq!(
        machine.ownership.owned(),
        1,
        "held until the server has unlocked it"
    );
    machine.step(Event::Released(vec![name("p")]));
    assert_eq!(machine.ownership.owned(), 0);
}

#[test]
fn an_offer_is_taken_without_looking_first() {
    let mut machine = Machine::new();
    machine.discover(wanted(Some("me"), Holder::Agent, 1));
    assert_eq!(
        machine.step(Event::Offered(vec![name("p")])),
        [
            Effect::Acquire(vec![name("p")]),
            Effect::LookAgainIn(Duration::from_millis(500))
        ]
    );
    assert!(
        machine.step(Event::Offered(vec![name("p")])).is_empty(),
        "already on its way"
    );
}

#[test]
fn an_offer_of_the_unknown_makes_us_look() {
    let mut machine = Machine::new();
    let look = [Effect::LookAgainIn(Duration::ZERO)];
    assert_eq!(machine.step(Event::Offered(vec![name("p")])), look);
}

#[test]
fn an_offer_to_an_agent_that_believes_itself_drained_makes_it_look() {
    let mut machine = Machine::new();
    machine.step(Event::Discovered {
        wanted: wanted(Some("other"), Holder::Agent, 1),
        may_step_in: false,
    });
    let look = [Effect::LookAgainIn(Duration::ZERO)];
    assert_eq!(machine.step(Event::Offered(vec![name("p")])), look);
}

#[test]
fn a_changed_config_restarts_under_the_same_lock_and_a_new_claim() {
    let mut machine = Machine::holding();
    assert_eq!(
        machine.discover(wanted(Some("me"), Holder::Agent, 2)),
        [Effect::Stop(name("p"))]
    );
    assert!(
        machine
            .discover(wanted(Some("me"), Holder::Agent, 3))
            .is_empty(),
        "already stopping"
    );
    assert_eq!(
        machine.ended(WorkerEnd::Stopped),
        [Effect::Acquire(vec![name("p")])]
    );
    let claimed = BTreeMap::from([(name("p"), Epoch(8))]);
    let effects = machine.step(Event::Acquired {
        claimed,
        refused: Vec::new(),
    });
    assert_eq!(effects, [Effect::Start(name("p"), Epoch(8))]);
    assert!(
        machine
            .discover(wanted(Some("me"), Holder::Agent, 3))
            .is_empty(),
        "runs the newest revision"
    );
}

#[test]
fn disabling_stops_and_releases_to_nobody() {
    let mut machine = Machine::holding();
    assert_eq!(machine.discover(BTreeMap::new()), [Effect::Stop(name("p"))]);
    assert_eq!(
        machine.ended(WorkerEnd::Stopped),
        [Effect::Release(name("p"), None)]
    );
}

#[test]
fn what_arrives_too_late_is_released_again() {
    let mut machine = Machine::new();
    machine.discover(wanted(Some("me"), Holder::Nobody, 1));
    machine.step(Event::Leave);
    let claimed = BTreeMap::from([(name("p"), Epoch(7))]);
    let effects = machine.step(Event::Acquired {
        claimed,
        refused: Vec::new(),
    });
    assert_eq!(effects, [Effect::Release(name("p"), None)]);
    assert!(!machine.ownership.has_left());
    machine.step(Event::Released(vec![name("p")]));
    assert!(machine.ownership.has_left());
}

#[test]
fn a_fenced_worker_gives_the_lock_back_and_looks_again() {
    let mut machine = Machine::holding();
    let effects = machine.ended(WorkerEnd::Fenced);
    assert_eq!(effects[0], Effect::Release(name("p"), None));
    assert!(matches!(effects[1], Effect::LookAgainIn(_)));
}

#[test]
fn a_failed_worker_starts_again_under_a_new_epoch() {
    assert_eq!(
        Machine::holding().ended(WorkerEnd::Failed),
        [Effect::Acquire(vec![name("p")])]
    );
}

#[test]
fn without_a_session_nothing_is_held_or_tried() {
    let mut machine = Machine::holding();
    assert!(machine.step(Event::SessionLost).is_empty());
    assert_eq!(machine.ownership.owned(), 0);
    assert!(
        machine
            .discover(wanted(Some("me"), Holder::Nobody, 1))
            .is_empty()
    );
    assert!(machine.ended(WorkerEnd::Revoked).is_empty());
    assert_eq!(
        machine.step(Event::SessionUp),
        [Effect::Acquire(vec![name("p")])]
    );
}

#[test]
fn leaving_gives_everything_to_whom_discovery_names() {
    let mut machine = Machine::holding();
    machine.discover(wanted(Some("me"), Holder::Agent, 1));
    machine.step(Event::Discovered {
        wanted: wanted(Some("other"), Holder::Agent, 1),
        may_step_in: false,
    });
    machine.step(Event::Leave);
    assert_eq!(machine.ready("other"), [Effect::Stop(name("p"))]);
    assert_eq!(
        machine.ended(WorkerEnd::Stopped),
        [Effect::Release(name("p"), Some(agent("other")))]
    );
}

#[test]
fn a_pipeline_that_nobody_may_take_is_given_up_only_by_a_held_agent() {
    let mut machine = Machine::holding();
    assert!(machine.discover(wanted(None, Holder::Agent, 1)).is_empty());
    let event = Event::Discovered {
        wanted: wanted(None, Holder::Agent, 1),
        may_step_in: false,
    };
    assert_eq!(machine.step(event), [Effect::Stop(name("p"))]);
}

#[test]
fn a_successor_that_says_nothing_is_not_waited_for_longer_than_it_takes_to_prepare() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    machine.now += PREPARATION / 2;
    assert!(machine.step(Event::Overdue).is_empty());
    machine.now += PREPARATION / 2;
    assert_eq!(machine.step(Event::Overdue), [Effect::Stop(name("p"))]);
}

#[test]
fn only_the_successor_can_say_that_it_is_ready() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    assert!(machine.ready("third").is_empty());
    let another = wanted(Some("third"), Holder::Agent, 1);
    assert_eq!(
        machine.discover(another),
        [Effect::Prepare(name("p"), agent("third"))],
        "the successor changed"
    );
    assert!(machine.ready("other").is_empty(), "the former successor");
    assert_eq!(machine.ready("third"), [Effect::Stop(name("p"))]);
}

#[test]
fn a_move_that_is_taken_back_while_it_is_prepared_stops_nothing() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    let back = wanted(Some("me"), Holder::Agent, 1);
    assert!(machine.discover(back).is_empty());
    assert!(machine.ready("other").is_empty(), "too late");
    let changed = wanted(Some("me"), Holder::Agent, 2);
    assert_eq!(machine.discover(changed), [Effect::Stop(name("p"))]);
}

#[test]
fn what_is_disabled_while_it_is_prepared_is_released_to_nobody() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    assert_eq!(machine.discover(BTreeMap::new()), [Effect::Stop(name("p"))]);
    assert_eq!(
        machine.ended(WorkerEnd::Stopped),
        [Effect::Release(name("p"), None)]
    );
}

#[test]
fn a_worker_that_breaks_off_while_its_successor_prepares_is_not_started_again() {
    let mut machine = Machine::holding();
    machine.moving_to_other();
    assert_eq!(
        machine.ended(WorkerEnd::Failed),
        [Effect::Release(name("p"), Some(agent("other")))]
    );
}
