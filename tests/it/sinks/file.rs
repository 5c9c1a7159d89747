//! Files.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tide_model::PipelineState;
use tide_sandbox::{envelope::Delivery, files::FileReader, leftovers::Scratch};
use tide_tests::{Fleet, FleetOptions, by_hand::publish, fleet::Tap, proof};

use super::{bench::Bench, contract};

struct FileBench {
    directory: PathBuf,
    /// What a pipeline is configured with besides its path.
    more: Value,
}

impl FileBench {
    fn path(&self, place: &str) -> PathBuf {
        self.directory.join(place).join("out.jsonl")
    }

    /// How many files of a place have a name that ends so.
    fn files(&self, place: &str, end: &str) -> Result<usize> {
        let entries = fs::read_dir(self.directory.join(place))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.iter().filter(|name| name.ends_with(end)).count())
    }
}

impl Bench for FileBench {
    const KIND: &'static str = "file";

    async fn start(scratch: &Scratch) -> Result<Self> {
        Ok(Self {
            directory: scratch.path().to_owned(),
            more: json!({}),
        })
    }

    fn config(&self, place: &str) -> Value {
        let mut config = self.more.clone();
        config["path"] = json!(self.path(place));
        config
    }

    async fn create(&mut self, place: &str) -> Result<()> {
        Ok(fs::create_dir(self.directory.join(place))?)
    }

    async fn spoil(&mut self, _: &str) -> Result<&'static str> {
        Ok("No such file or directory")
    }

    async fn deliveries(&mut self, place: &str) -> Result<Vec<Delivery>> {
        Ok(FileReader::new(self.path(place)).records()?)
    }
}

async fn bench() -> Result<(FileBench, Scratch)> {
    let scratch = Scratch::create("files").await?;
    Ok((FileBench::start(&scratch).await?, scratch))
}

/// Files of a few lines each, all but the newest compressed.
async fn rotating(compression: &str) -> Result<(FileBench, Scratch)> {
    let (mut bench, scratch) = bench().await?;
    bench.more = json!({"rotate_bytes": 4_096, "compression": compression});
    Ok((bench, scratch))
}

#[tokio::test]
async fn keeps_the_order_of_every_key() -> Result<()> {
    contract::keeps_the_order_of_every_key(&mut bench().await?.0).await
}

#[tokio::test]
async fn repeats_ids_after_a_crash() -> Result<()> {
    contract::repeats_ids_after_a_crash(&mut bench().await?.0).await
}

#[tokio::test]
async fn names_the_missing_directory_and_heals() -> Result<()> {
    contract::names_what_is_missing_and_heals(&mut bench().await?.0).await
}

#[tokio::test]
async fn keeps_the_order_of_every_key_over_rotations() -> Result<()> {
    let (mut bench, _scratch) = rotating("zstd").await?;
    contract::keeps_the_order_of_every_key(&mut bench).await?;
    let compressed = bench.files("ordered", ".zst")?;
    ensure!(compressed > 1, "{compressed} files were compressed");
    Ok(())
}

#[tokio::test]
async fn repeats_ids_after_a_crash_in_the_middle_of_rotations() -> Result<()> {
    let (mut bench, _scratch) = rotating("gzip").await?;
    contract::repeats_ids_after_a_crash(&mut bench).await?;
    let compressed = bench.files("crashed", ".gz")?;
    ensure!(compressed > 1, "{compressed} files were compressed");
    let half = bench.files("crashed", ".partial")?;
    ensure!(half <= 1, "{half} files were begun and never ended");
    Ok(())
}

/// A file system of its own, and how it is filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; `None` where that is not permitted.
    fn mount(at: PathBuf) -> Result<Option<Self>> {
        fs::create_dir(&at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tide-tests"])
            .arg(&at)
            .output()
            .context("running mount")?;
        Ok(mounted.status.success().then(|| Self(at)))
    }

    fn path(&self) -> PathBuf {
        self.0.join("out.jsonl")
    }

    fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.0.join("filler"))?;
        while filler.write_all(&[0; 1_024]).is_ok() {}
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A directory that stays mounted is visible enough.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// How large the files of a process may get, from now on.
fn limit_files(process: u32, bytes: &str) -> Result<()> {
    let status = Command::new("prlimit")
        .arg(format!("--pid={process}"))
        .arg(format!("--fsize={bytes}:"))
        .status()
        .context("running prlimit")?;
    ensure!(status.success(), "prlimit ended with {status}");
    Ok(())
}

/// Two pipelines with files of the same outbox: the one that is judged for its patience, and a
/// neighbour.
async fn fleet_with_neighbour(path: &Path) -> Result<Fleet> {
    let mut fleet = Fleet::start(FleetOptions::agents(1)).await?;
    let config = json!({"sink_type": "file", "path": path});
    let tap = Tap::File(FileReader::new(path));
    fleet.add("waiting", "events", config, tap).await?;
    fleet.add_file_pipeline("neighbour", "events").await?;
    fleet.wait_until_running().await?;
    Ok(fleet)
}

async fn publish_some(fleet: &mut Fleet, count: usize) -> Result<()> {
    let mut connection = fleet.connection().await?;
    for number in 0..count {
        let entry = fleet.drafts.draw("events", &format!("key-{}", number % 5));
        publish(&mut connection, &entry).await?;
    }
    Ok(())
}

/// Publishes while there is no room and looks what the pipeline says about that; the neighbour goes
/// on meanwhile.
async fn waits(fleet: &mut Fleet, before: usize, word: &str) -> Result<()> {
    publish_some(fleet, 50).await?;
    let row = fleet
        .wait_for_state("waiting", PipelineState::Retrying)
        .await?;
    let (reason, since) = (row.state_reason.unwrap_or_default(), row.state_since);
    ensure!(reason.contains(word), "{word:?} is not in {reason:?}");
    ensure!(reason.contains("once there is room"), "{reason}");
    publish_some(fleet, 50).await?;
    fleet.wait_for_deliveries("neighbour", before + 100).await?;
    // And it is told since when, however often it was tried meanwhile.
    let row = fleet
        .wait_until("the circuit to be open", |view| {
            view.pipelines.iter().any(|row| {
                let reason = row.state_reason.as_deref().unwrap_or_default();
                row.name.as_str() == "waiting" && reason.contains("circuit is open")
            })
        })
        .await?;
    let row = row
        .pipelines
        .iter()
        .find(|row| row.name.as_str() == "waiting");
    let told = row.and_then(|row| row.state_since);
    ensure!(told.is_some() && told == since, "{told:?} is not {since:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_waited_out_and_told() -> Result<()> {
    // GIVEN a pipeline on a disk of its own
    let scratch = Scratch::create("disk").await?;
    let Some(disk) = SmallDisk::mount(scratch.path().join("small"))? else {
        eprintln!(
            "not shown: nothing may be mounted here; the limit of file sizes is shown instead"
        );
        return Ok(());
    };
    let mut fleet = fleet_with_neighbour(&disk.path()).await?;
    publish_some(&mut fleet, 20).await?;
    fleet.wait_for_deliveries("waiting", 20).await?;
    // WHEN the disk is full THEN it waits, says why, and its neighbour goes on
    disk.fill()?;
    waits(&mut fleet, 20, "No space left on device").await?;
    // and WHEN there is room THEN everything arrives, once
    disk.make_room()?;
    proof::exactly_once(&fleet.settle_and_check().await?)
}

#[tokio::test]
async fn a_limit_of_file_sizes_ends_no_agent() -> Result<()> {
    // GIVEN a pipeline whose file is as large as the agent's files may be
    let scratch = Scratch::create("limit").await?;
    let path = scratch.path().join("out.jsonl");
    let mut fleet = fleet_with_neighbour(&path).await?;
    publish_some(&mut fleet, 200).await?;
    fleet.wait_for_deliveries("waiting", 200).await?;
    let large = fs::metadata(&path)?.len();
    let agent = fleet.agent("relay-1").process.pid();
    // The neighbour's file is to be small enough to go on.
    fleet.wait_for_deliveries("neighbour", 200).await?;
    fs::write(fleet.file("neighbour"), "")?;
    limit_files(agent, &(large + 100).to_string())?;
    // WHEN more is to be written THEN it waits, and the agent lives
    publish_some(&mut fleet, 50).await?;
    let row = fleet
        .wait_for_state("waiting", PipelineState::Retrying)
        .await?;
    let reason = row.state_reason.unwrap_or_default();
    ensure!(reason.contains("File too large"), "{reason}");
    fleet.wait_for_deliveries("neighbour", 50).await?;
    // and WHEN files may be larger THEN everything arrives, once
    limit_files(agent, "unlimited")?;
    fleet.wait_for_deliveries("waiting", 250).await?;
    let ids: Vec<_> = FileReader::new(&path)
        .records()?
        .iter()
        .map(|record| record.envelope.id)
        .collect();
    assert_eq!(ids, (1..=250).collect::<Vec<_>>());
    Ok(())
}
