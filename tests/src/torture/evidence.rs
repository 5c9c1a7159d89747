//! What a violation leaves behind: the plan, the accounts, and the logs of all processes.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    execute::Run,
    plan::Plan,
    verdict::{Record, Verdict},
};

impl Run<'_> {
    /// Ends everything and keeps its directory, with the accounts beside the logs.
    pub(super) fn keep_evidence(
        self,
        plan: &Plan,
        record: &Record,
        verdict: &Verdict,
    ) -> Result<PathBuf> {
        let scratch = self.fleet.scratch.clone();
        let directory = scratch.path();
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("plan.json", plan.to_text())?;
        write("verdict.txt", verdict.to_string())?;
        write("story.txt", self.narrator.told())?;
        write("published.txt", lines(&record.published)?)?;
        write("disturbances.txt", lines(&record.disturbances)?)?;
        write("positions.txt", lines(&record.positions)?)?;
        write("postgres.log", self.fleet.postgres.log_tail(usize::MAX))?;
        for stream in &record.streams {
            let name = format!("delivered-{}.txt", stream.pipeline);
            write(&name, delivered(stream)?)?;
        }
        // Whatever still runs in it ends with the run.
        drop(self);
        let kept: PathBuf = scratch.keep()?;
        Ok(kept)
    }
}

fn lines<T: std::fmt::Debug>(records: &[T]) -> Result<String> {
    records.iter().try_fold(String::new(), |mut text, record| {
        writeln!(text, "{record:?}")?;
        Ok(text)
    })
}

/// One line a delivery, short enough to be read.
fn delivered(stream: &tide_sandbox::history::Stream) -> Result<String> {
    stream
        .deliveries
        .iter()
        .try_fold(String::new(), |mut text, delivery| {
            let envelope = &delivery.envelope;
            writeln!(
                text,
                "{} id={} epoch={:?} key={:?} payload={} {} {:?}",
                delivery.order,
                envelope.id,
                envelope.epoch(),
                envelope.key,
                envelope.payload["sequence"],
                envelope.event_id,
                delivery.at.map(|at| at.to_string()),
            )?;
            Ok(text)
        })
}
