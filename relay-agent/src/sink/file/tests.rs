use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
    sync::atomic::AtomicBool,
};

use proptest::prelude::*;
use tide_catalog::messages::Message;
use tide_model::sink_spec::Compression;

use super::{
    super::Progress,
    names::{Form, list},
    *,
};
use crate::{boot_clock::Moment, trust::Trust};

static GO_ON: AtomicBool = AtomicBool::new(false);

/// An owner that may publish.
fn context() -> Context {
    let now = Moment::now();
    Context {
        trust: Trust::new(now, now + std::time::Duration::from_hours(1)),
        ..Context::example("orders")
    }
}

struct Place {
    directory: tempfile::TempDir,
    /// The next message's id.
    next: i64,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            next: 1,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("events.jsonl")
    }

    fn settings(&self, rotation: Option<Rotation>) -> FileSpec {
        FileSpec {
            path: self.path(),
            rotation,
        }
    }

    async fn open(&self, rotation: Option<Rotation>) -> FileSink {
        let context = context();
        FileSink::open(&self.settings(rotation), &context)
            .await
            .unwrap()
    }

    /// Delivers so many messages, in one batch.
    async fn deliver(&mut self, sink: &mut FileSink, count: i64) -> Result<(), SinkError> {
        let messages: Vec<Message> = (self.next..self.next + count).map(message).collect();
        self.next += count;
        let batch = Batch {
            messages: &messages,
            routes: &[],
            progress: &Progress::default(),
            place: None,
        };
        sink.deliver(&context(), &batch).await
    }

    /// The ids of all lines, from the oldest file on, as a reader of whole files gets them.
    fn ids(&self) -> Vec<i64> {
        let text = loop {
            match self.text() {
                Ok(text) => break text,
                // Compressed after it was listed: it has another name now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert!(text.is_empty() || text.ends_with('\n'), "a line is torn");
        text.lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["id"].as_i64().unwrap()
            })
            .collect()
    }

    fn text(&self) -> io::Result<String> {
        let mut text = String::new();
        let mut read = BTreeSet::new();
        let mut files = list(&self.path())?;
        // Of a file that is there twice the compressed one.
        files.sort_by_key(|file| (file.stamp.clone(), std::cmp::Reverse(file.form)));
        for file in files {
            if file.form == Form::Partial || !read.insert(file.stamp) {
                continue;
            }
            let mut source = File::open(&file.path)?;
            match file.path.extension().unwrap().to_str() {
                Some("gz") => flate2::read::GzDecoder::new(source).read_to_string(&mut text),
                Some("zst") => zstd::Decoder::new(source)?.read_to_string(&mut text),
                _ => source.read_to_string(&mut text),
            }?;
        }
        text.push_str(&fs::read_to_string(self.path())?);
        Ok(text)
    }

    fn forms(&self) -> Vec<Form> {
        let files = list(&self.path()).unwrap();
        files.iter().map(|file| file.form).collect()
    }
}

fn message(id: i64) -> Message {
    Message {
        id,
        event_id: uuid::Uuid::from_u128(id as u128),
        key: None,
        payload: format!("{{\"text\": \"{}\"}}", "x".repeat(300)),
        headers: "{}".to_owned(),
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

/// Files of two messages each.
const SMALL: Rotation = Rotation {
    bytes: Some(1_200),
    age: None,
    compression: None,
    keep: None,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_file_is_larger_than_it_may_be_and_no_line_is_in_two() {
    let mut place = Place::new();
    let mut sink = place.open(Some(SMALL)).await;
    for count in [1, 7, 2, 1, 30] {
        place.deliver(&mut sink, count).await.unwrap();
    }
    assert_eq!(place.ids(), (1..=41).collect::<Vec<_>>());
    let files = list(&place.path()).unwrap();
    assert_eq!(files.len(), 20, "two lines in each of them");
    for file in &files {
        assert!(fs::metadata(&file.path).unwrap().len() <= 1_200);
        assert!(fs::read_to_string(&file.path).unwrap().ends_with('\n'));
    }
    // A line that fits nowhere has a file to itself.
    let tiny = Rotation {
        bytes: Some(10),
        ..SMALL
    };
    sink.rotation = Some(tiny);
    place.deliver(&mut sink, 2).await.unwrap();
    assert_eq!(place.ids(), (1..=43).collect::<Vec<_>>());
    assert_eq!(list(&place.path()).unwrap().len(), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_old_enough_gets_no_further_line() {
    let mut place = Place::new();
    let at_once = Rotation {
        bytes: None,
        age: Some(std::time::Duration::ZERO),
        ..SMALL
    };
    let mut sink = place.open(Some(at_once)).await;
    for _ in 0..3 {
        place.deliver(&mut sink, 2).await.unwrap();
    }
    assert_eq!(place.ids(), (1..=6).collect::<Vec<_>>());
    assert_eq!(place.forms(), [Form::Plain; 2]);
    // One that is young goes on.
    let later = Rotation {
        age: Some(std::time::Duration::from_hours(1)),
        ..at_once
    };
    let mut sink = place.open(Some(later)).await;
    place.deliver(&mut sink, 2).await.unwrap();
    assert_eq!(place.forms(), [Form::Plain; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_of_a_rotation_loses_nothing_and_doubles_nothing() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let rotation = Rotation {
            compression: Some(compression),
            ..SMALL
        };
        for point in 0..7 {
            // GIVEN a file of four lines, of which the last was being written
            let mut place = Place::new();
            let mut sink = place.open(None).await;
            place.deliver(&mut sink, 3).await.unwrap();
            drop(sink);
            let active = place.path();
            let aside = names::rotated(
                &active,
                &names::stamp_after(None, OffsetDateTime::now_utc()),
            );
            let whole = names::compressed(&aside, compression);
            let partial = names::partial(&whole);
            let lines = fs::read(&active).unwrap();
            match point {
                // WHEN the agent died in the middle of a line
                0 => fs::write(&active, [&lines[..], b"{\"id\": 4"].concat()).unwrap(),
                // after it was renamed
                1 => fs::rename(&active, &aside).unwrap(),
                // after the next one was made
                2 => {
                    fs::rename(&active, &aside).unwrap();
                    File::create(&active).unwrap();
                }
                // in the middle of compressing, even in the other format
                3 => {
                    fs::rename(&active, &aside).unwrap();
                    fs::write(&partial, &lines[..20]).unwrap();
                }
                4 => {
                    fs::rename(&active, &aside).unwrap();
                    for other in [Compression::Gzip, Compression::Zstd] {
                        let partial = names::partial(&names::compressed(&aside, other));
                        fs::write(partial, "half").unwrap();
                    }
                }
                // after that
                5 => {
                    fs::rename(&active, &aside).unwrap();
                    archive::tidy(&active, rotation, &GO_ON).unwrap();
                    fs::write(&aside, &lines).unwrap();
                }
                // and at its end
                _ => {
                    fs::rename(&active, &aside).unwrap();
                    archive::tidy(&active, rotation, &GO_ON).unwrap();
                    fs::write(&partial, "half").unwrap();
                }
            }
            // THEN whoever comes next goes on, and readers get each line once
            let mut sink = place.open(Some(rotation)).await;
            assert_eq!(place.ids(), [1, 2, 3], "{compression:?} {point}");
            place.deliver(&mut sink, 3).await.unwrap();
            sink.close().await;
            assert_eq!(place.ids(), [1, 2, 3, 4, 5, 6], "{compression:?} {point}");
            archive::tidy(&active, rotation, &GO_ON).unwrap();
            assert_eq!(place.ids(), [1, 2, 3, 4, 5, 6], "{compression:?} {point}");
            let forms: BTreeSet<_> = place.forms().into_iter().collect();
            assert_eq!(forms, BTreeSet::from([Form::Compressed]), "{point}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_to_stop_leaves_what_is_whole() {
    let mut place = Place::new();
    let mut sink = place.open(Some(SMALL)).await;
    place.deliver(&mut sink, 5).await.unwrap();
    let rotation = Rotation {
        compression: Some(Compression::Zstd),
        ..SMALL
    };
    archive::tidy(&place.path(), rotation, &AtomicBool::new(true)).unwrap();
    assert_eq!(place.forms(), [Form::Plain; 2]);
    // And what somebody else is at is left to them.
    let first = list(&place.path()).unwrap().remove(0);
    let other = File::open(&first.path).unwrap();
    other.lock().unwrap();
    archive::tidy(&place.path(), rotation, &GO_ON).unwrap();
    assert_eq!(place.forms(), [Form::Plain, Form::Compressed]);
    drop(other);
    archive::tidy(&place.path(), rotation, &GO_ON).unwrap();
    assert_eq!(place.forms(), [Form::Compressed; 2]);
    assert_eq!(place.ids(), [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_files_stay() {
    let mut place = Place::new();
    let mut sink = place.open(Some(SMALL)).await;
    place.deliver(&mut sink, 9).await.unwrap();
    let keeping = |keep, compression| Rotation {
        keep: Some(keep),
        compression,
        ..SMALL
    };
    let path = place.path();
    archive::tidy(&path, keeping(4, Some(Compression::Gzip)), &GO_ON).unwrap();
    assert_eq!(place.ids(), (1..=9).collect::<Vec<_>>());
    archive::tidy(&path, keeping(2, None), &GO_ON).unwrap();
    assert_eq!(place.ids(), [5, 6, 7, 8, 9]);
    archive::tidy(&path, keeping(1, Some(Compression::Gzip)), &GO_ON).unwrap();
    assert_eq!(place.ids(), [7, 8, 9]);
    assert_eq!(place.forms(), [Form::Compressed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_share_a_file_follow_each_other_to_the_next_one() {
    let mut place = Place::new();
    let mut one = place.open(Some(SMALL)).await;
    let mut other = place.open(Some(SMALL)).await;
    for _ in 0..4 {
        place.deliver(&mut one, 1).await.unwrap();
        place.deliver(&mut other, 2).await.unwrap();
    }
    assert_eq!(place.ids(), (1..=12).collect::<Vec<_>>());
    // An operator may set it aside as well.
    fs::rename(place.path(), place.directory.path().join("theirs")).unwrap();
    place.deliver(&mut one, 1).await.unwrap();
    place.deliver(&mut other, 1).await.unwrap();
    assert_eq!(fs::read_to_string(place.path()).unwrap().lines().count(), 2);
    // A file that was set aside is no hindrance to its former writers while it is compressed.
    let mut sink = place.open(Some(SMALL)).await;
    place.deliver(&mut sink, 1).await.unwrap();
    let aside = list(&place.path()).unwrap().pop().unwrap();
    let compressing = File::open(aside.path).unwrap();
    compressing.lock().unwrap();
    place.deliver(&mut one, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_writes_to_is_left_alone() {
    let mut place = Place::new();
    let mut sink = place.open(Some(SMALL)).await;
    let other = File::open(place.path()).unwrap();
    other.lock().unwrap();
    let refused = place.deliver(&mut sink, 1).await;
    assert!(matches!(refused, Err(SinkError::Transient { .. })));
}

fn repaired(content: &[u8]) -> (u64, Vec<u8>) {
    let place = Place::new();
    fs::write(place.path(), content).unwrap();
    let torn = Active::open(&place.path()).unwrap().repair().unwrap();
    (torn, fs::read(place.path()).unwrap())
}

#[test]
fn whole_files_stay_as_they_are() {
    for content in [&b""[..], b"{}\n", b"{}\n{}\n"] {
        assert_eq!(repaired(content), (0, content.to_vec()));
    }
}

#[test]
fn a_torn_line_goes_and_nothing_else() {
    assert_eq!(repaired(b"{}\n{\"a\":"), (5, b"{}\n".to_vec()));
    assert_eq!(repaired(b"{\"a\":"), (5, Vec::new()));
    let long = vec![b'x'; 200_000];
    let mut content = b"{}\n".to_vec();
    content.extend_from_slice(&long);
    assert_eq!(repaired(&content), (200_000, b"{}\n".to_vec()));
}

proptest! {
    /// Files are as full as they may be, and no fuller.
    #[test]
    fn lines_go_into_the_file_as_long_as_they_fit(
        lengths in prop::collection::vec(1_usize..2_000, 1..50), most in 1_024_u64..5_000,
    ) {
        let rotation = Rotation { bytes: Some(most), ..SMALL };
        let ends: Vec<usize> = lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }).collect();
        let (mut written, mut length) = (0, 0_u64);
        while written < ends.len() {
            let begin = written.checked_sub(1).map_or(0, |last| ends[last]);
            let fit = fitting(rotation, length, false, begin, &ends[written..]);
            if fit == 0 {
                prop_assert!(length + lengths[written] as u64 > most);
                length = 0;
                continue;
            }
            let bytes: usize = lengths[written..written + fit].iter().sum();
            length += bytes as u64;
            prop_assert!(length <= most || fit == 1 && bytes as u64 == length);
            written += fit;
        }
    }
}
