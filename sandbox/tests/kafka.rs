//! Mock brokers in this process and in their own, and the reader on both.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tide_sandbox::{
    kafka::{KafkaError, MockBroker, MockKafka, Topic, TopicReader},
    leftovers::Scratch,
    process::ProcessSpec,
};

const SOON: Duration = Duration::from_secs(30);

fn producer(bootstrap: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()
        .expect("the configuration is valid")
}

fn envelope(id: i64, key: &str) -> String {
    format!(
        r#"{{"event_id":"6c1f7c0a-4f5c-4b59-9d57-{id:012}","outbox":"o","id":{id},"key":"{key}","headers":{{"tide-epoch":"3"}},"payload":1,"created_at":"2026-11-21T10:00:00Z"}}"#
    )
}

async fn send(producer: &FutureProducer, topic: &str, key: &str, value: &str) {
    let headers = OwnedHeaders::new().insert(Header {
        key: "tide-epoch",
        value: Some("3"),
    });
    let record = FutureRecord::to(topic)
        .key(key)
        .payload(value)
        .headers(headers);
    let sent = producer.send(record, SOON).await;
    assert!(sent.is_ok(), "{sent:?}");
}

#[tokio::test]
async fn every_partition_is_read_from_its_beginning() {
    let kafka = MockKafka::start(&[Topic::new("a", 3), Topic::new("b", 1)]).unwrap();
    let producer = producer(&kafka.bootstrap());
    send(&producer, "b", "k", &envelope(100, "k")).await;
    let reader = TopicReader::start(&kafka.bootstrap(), &["a", "b"])
        .await
        .unwrap();
    for id in 0..20 {
        let key = format!("k{}", id % 7);
        send(&producer, "a", &key, &envelope(id, &key)).await;
    }
    reader
        .wait_until(SOON, "21 records", |records| records.len() >= 21)
        .await
        .unwrap();
    let a = reader.records_of("a").unwrap();
    for key in 0..7 {
        let key = format!("k{key}");
        let of_key = a
            .iter()
            .filter(|one| one.envelope.key.as_deref() == Some(&key));
        assert!(of_key.map(|one| one.envelope.id).is_sorted(), "{key}");
    }
    let orders: Vec<u64> = a.iter().map(|one| one.order).collect();
    assert_eq!(orders, (0..20).collect::<Vec<u64>>());
    assert_eq!(reader.records_of("b").unwrap()[0].envelope.epoch(), Some(3));
}

#[tokio::test]
async fn a_message_whose_key_differs_from_its_envelope_is_told() {
    let kafka = MockKafka::start(&[Topic::new("a", 1)]).unwrap();
    let reader = TopicReader::start(&kafka.bootstrap(), &["a"])
        .await
        .unwrap();
    send(
        &producer(&kafka.bootstrap()),
        "a",
        "other",
        &envelope(1, "k"),
    )
    .await;
    reader
        .wait_until(SOON, "the message", |_| false)
        .await
        .unwrap();
    assert!(matches!(
        reader.records(),
        Err(KafkaError::Malformed { offset: 0, .. })
    ));
}

#[tokio::test]
async fn a_topic_that_does_not_exist_is_not_made_up() {
    let kafka = MockKafka::start(&[]).unwrap();
    let error = TopicReader::start(&kafka.bootstrap(), &["ghost"])
        .await
        .unwrap_err();
    assert!(matches!(error, KafkaError::NoTopic { .. }), "{error:?}");
}

#[tokio::test]
async fn a_broker_that_comes_back_still_has_its_log() {
    let kafka = MockKafka::start(&[Topic::new("a", 1)]).unwrap();
    let producer = producer(&kafka.bootstrap());
    let reader = TopicReader::start(&kafka.bootstrap(), &["a"])
        .await
        .unwrap();
    send(&producer, "a", "k", &envelope(1, "k")).await;
    kafka.down().unwrap();
    let value = envelope(2, "k");
    let ((), up) = tokio::join!(send(&producer, "a", "k", &value), async { kafka.up() });
    up.unwrap();
    reader
        .wait_until(SOON, "both records", |records| records.len() == 2)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_broker_in_its_own_process_serves_until_it_is_told_to_end() {
    let scratch = Scratch::create("kafka").await.unwrap();
    let spec = ProcessSpec {
        args: vec!["orders:2".into()],
        ..ProcessSpec::new("broker", env!("CARGO_BIN_EXE_tide-mock-broker"), &scratch)
    };
    let mut broker = MockBroker::spawn(spec).await.unwrap();
    let reader = TopicReader::start(broker.bootstrap(), &["orders"])
        .await
        .unwrap();
    send(
        &producer(broker.bootstrap()),
        "orders",
        "k",
        &envelope(1, "k"),
    )
    .await;
    reader
        .wait_until(SOON, "the record", |records| records.len() == 1)
        .await
        .unwrap();
    broker.process().terminate().unwrap();
    assert!(broker.process().wait(SOON).await.unwrap().success());
}

#[tokio::test]
async fn a_broker_that_cannot_start_says_why() {
    let scratch = Scratch::create("kafka").await.unwrap();
    let spec = ProcessSpec {
        args: vec!["orders:none".into()],
        // A backtrace would push the reason out of the log's tail.
        env: vec![("RUST_BACKTRACE".into(), "0".into())],
        ..ProcessSpec::new("broker", env!("CARGO_BIN_EXE_tide-mock-broker"), &scratch)
    };
    let error = MockBroker::spawn(spec).await.unwrap_err();
    let KafkaError::Process(source) = error else {
        panic!("{error:?}")
    };
    assert!(
        source.to_string().contains("`orders:none` is no topic"),
        "{source}"
    );
}
