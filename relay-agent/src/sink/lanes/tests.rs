use std::{cell::RefCell, collections::BTreeSet};

use proptest::prelude::*;
use time::OffsetDateTime;

use super::*;
use crate::sink::Progress;

fn messages(keys: &[Option<u8>]) -> Vec<Message> {
    let message = |(index, key): (usize, &Option<u8>)| Message {
        id: index as i64,
        event_id: Uuid::from_u128(index as u128 + 1),
        key: key.map(|key| key.to_string()),
        payload: "{}".to_owned(),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::UNIX_EPOCH,
    };
    keys.iter().enumerate().map(message).collect()
}

const LIMITS: Limits = Limits {
    width: 3,
    timeout: Duration::from_secs(1),
};

async fn run(
    messages: &[Message],
    ahead: &mut Ahead,
    publish: impl AsyncFn(usize) -> Result<(), Vec<Failure>>,
) -> (Result<(), SinkError>, usize) {
    let progress = Progress::default();
    let batch = Batch {
        messages,
        routes: &[],
        progress: &progress,
        place: None,
    };
    let outcome = deliver(&batch, ahead, LIMITS, async |index| Ok(publish(index))).await;
    (outcome, progress.delivered())
}

fn rejected(index: usize) -> Vec<Failure> {
    vec![Failure {
        index,
        error: SinkError::rejected("no"),
    }]
}

#[tokio::test]
async fn what_is_behind_a_failure_is_not_begun_and_what_is_before_it_is_ended() {
    let messages = messages(&[Some(1), Some(1), Some(2), Some(1), None]);
    let begun = RefCell::new(Vec::new());
    let mut ahead = Ahead::default();
    let (outcome, progress) = run(&messages, &mut ahead, async |index| {
        begun.borrow_mut().push(index);
        if index == 2 { Err(rejected(2)) } else { Ok(()) }
    })
    .await;
    assert_eq!(outcome.unwrap_err(), SinkError::rejected("no").after(2));
    assert_eq!(progress, 2);
    // The keyless one left together with the first; the third of the key had no right to.
    assert_eq!(*begun.borrow(), [0, 2, 4, 1]);

    // The rest: what is delivered already is not sent again.
    begun.borrow_mut().clear();
    let (outcome, progress) = run(&messages[3..], &mut ahead, async |index| {
        begun.borrow_mut().push(index);
        Ok(())
    })
    .await;
    assert_eq!((outcome, progress), (Ok(()), 2));
    assert_eq!(*begun.borrow(), [0]);
    assert!(ahead.0.is_empty());
}

#[tokio::test]
async fn a_message_may_learn_that_another_one_failed() {
    // The broker's word about one reaches the other, be it before or after.
    let messages = messages(&[None, None]);
    for (whose, who) in [(0, 1), (1, 0)] {
        let (outcome, _) = run(&messages, &mut Ahead::default(), async |index| {
            if index == who {
                Err(rejected(whose))
            } else {
                Ok(())
            }
        })
        .await;
        assert_eq!(outcome.unwrap_err(), SinkError::rejected("no").after(whose));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_waited_for_until_the_deadline() {
    let messages = messages(&[None, None, None]);
    let mut ahead = Ahead::default();
    let (outcome, progress) = run(&messages, &mut ahead, async |index| {
        if index == 1 {
            std::future::pending::<()>().await;
        }
        Ok(())
    })
    .await;
    let late = SinkError::transient("not acknowledged within 1s").after(1);
    assert_eq!((outcome, progress), (Err(late), 1));
    // What was behind it is known all the same.
    assert_eq!(ahead.0, HashSet::from([messages[2].event_id]));
}

proptest! {
    /// Whatever is answered in whatever order: of a key one is on the wire, in the order of the
    /// batch, and the prefix is what it says.
    #[test]
    fn lanes_keep_the_order_of_every_key(
        keys in prop::collection::vec(prop::option::of(0..4u8), 1..40),
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0..10u8), 0..200),
        width in 1..8usize,
    ) {
        let messages = messages(&keys);
        let mut lanes = Lanes::new(&messages, |_| false);
        let mut wire: Vec<usize> = Vec::new();
        let mut delivered = BTreeSet::new();
        let mut failed = BTreeSet::new();
        let mut choices = choices.into_iter();
        loop {
            while wire.len() < width && let Some(index) = lanes.begin() {
                prop_assert!(failed.iter().all(|failed| index < *failed));
                if let Some(key) = keys[index] {
                    prop_assert!(wire.iter().all(|other| keys[*other] != Some(key)));
                    let before = (0..index).filter(|other| keys[*other] == Some(key));
                    prop_assert!(before.into_iter().all(|other| delivered.contains(&other)));
                }
                wire.push(index);
            }
            if wire.is_empty() {
                break;
            }
            let (at, luck) = choices.next().map_or((0, 9), |(at, luck)| (at.index(wire.len()), luck));
            let index = wire.swap_remove(at);
            if luck == 0 {
                lanes.failed(index);
                failed.insert(index);
            } else {
                lanes.delivered(index);
                delivered.insert(index);
            }
            let prefix = (0..keys.len()).take_while(|index| delivered.contains(index)).count();
            prop_assert_eq!(lanes.prefix(), prefix);
        }
        // Everything before the first failure is delivered.
        prop_assert_eq!(lanes.prefix(), failed.first().copied().unwrap_or(keys.len()));
    }
}
