//! What was measured so far, as text and as JSON; and progress on standard error.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
};

use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use crate::distribution::Distribution;

/// How often progress is written where lines cannot be overwritten.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One kind of disturbance, and every gap that it caused.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Its name in JSON.
    pub(super) key: &'static str,
    /// What was done and what was measured, in words.
    pub(super) title: String,
    /// How many times it is to be done.
    pub(super) planned: usize,
    /// How many times it was done.
    pub(super) done: usize,
    /// Milliseconds, one a pipeline.
    pub(super) gaps: Vec<f64>,
    /// What the design wants the largest, or the 99th percentile, to be.
    pub(super) target: Option<Target>,
}

/// A number of the design.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// For the 99th percentile, in milliseconds.
    P99(f64),
    /// For every gap, in milliseconds.
    Max(f64),
}

impl Scene {
    fn text(&self) -> String {
        let gaps = Distribution::of(&self.gaps);
        let cut_short = if self.done < self.planned {
            format!(" of {}", self.planned)
        } else {
            String::new()
        };
        let mut text = format!(
            "{}\n  {}{cut_short} times, {} pipelines changed hands\n{}",
            self.title,
            self.done,
            gaps.count(),
            gaps.render()
        );
        let written = match self.target {
            Some(Target::P99(limit)) => {
                let p99 = gaps.quantile(0.99);
                write!(text, "\n  p99 {p99:.1} ms, wanted: {limit:.0} ms")
            }
            Some(Target::Max(limit)) => {
                let within = gaps.within(limit);
                write!(
                    text,
                    "\n  {within} of {} within {limit:.0} ms",
                    gaps.count()
                )
            }
            None => Ok(()),
        };
        written.expect("writing to a string cannot fail");
        text
    }
}

/// Every scene so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    scenes: Vec<Scene>,
    said: Option<Instant>,
}

impl Report {
    /// Begins a scene; what follows counts for it.
    pub(super) fn begin(
        &mut self,
        key: &'static str,
        title: String,
        planned: usize,
        target: Option<Target>,
    ) {
        self.scenes.push(Scene {
            key,
            title,
            planned,
            done: 0,
            gaps: Vec::new(),
            target,
        });
        self.said = None;
    }

    /// One disturbance more.
    pub(super) fn add(&mut self, gaps: impl IntoIterator<Item = f64>) {
        let Some(scene) = self.scenes.last_mut() else {
            return;
        };
        scene.done += 1;
        scene.gaps.extend(gaps);
        let now = Instant::now();
        let errors = std::io::stderr();
        let overwrites = errors.is_terminal();
        let is_last = scene.done == scene.planned;
        if !overwrites && !is_last && self.said.is_some_and(|said| now - said < LINE_EVERY) {
            return;
        }
        self.said = Some(now);
        let so_far = Distribution::of(&scene.gaps);
        let (begin, end) = if overwrites {
            ("\r\x1b[K", if is_last { "\n" } else { "" })
        } else {
            ("", "\n")
        };
        // Progress that nobody can read is no reason to stop measuring.
        let _ = write!(
            &errors,
            "{begin}{} {}/{}: p50 {:.1} ms, max {:.1} ms so far{end}",
            scene.key,
            scene.done,
            scene.planned,
            so_far.quantile(0.5),
            so_far.max()
        );
    }

    /// All that scenes of these keys measured, as one more.
    pub(super) fn together(
        &mut self,
        key: &'static str,
        title: &str,
        keys: &[&str],
        target: Option<Target>,
    ) {
        let parts = || self.scenes.iter().filter(|scene| keys.contains(&scene.key));
        let whole = Scene {
            key,
            title: title.to_owned(),
            planned: parts().map(|scene| scene.planned).sum(),
            done: parts().map(|scene| scene.done).sum(),
            gaps: parts().flat_map(|scene| scene.gaps.clone()).collect(),
            target,
        };
        self.scenes.push(whole);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.scenes.iter().all(|scene| scene.gaps.is_empty())
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut parts: Vec<String> = self.measured().map(Scene::text).collect();
        parts.extend(self.ratio().map(|(p50, p99)| {
            format!("without news, against with: p50 × {p50:.0}, p99 × {p99:.0}")
        }));
        parts.join("\n\n")
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let mut scenes: Map<String, Value> = Map::new();
        for scene in self.measured() {
            let gaps = Distribution::of(&scene.gaps);
            let histogram: Vec<Value> = gaps
                .buckets()
                .iter()
                .map(|row| json!({"from_ms": row.from, "below_ms": row.below, "count": row.count}))
                .collect();
            let mut value = json!({
                "planned": scene.planned, "done": scene.done, "samples": gaps.count(),
                "p50_ms": gaps.quantile(0.5), "p90_ms": gaps.quantile(0.9),
                "p99_ms": gaps.quantile(0.99), "max_ms": gaps.max(), "histogram": histogram,
            });
            match scene.target {
                Some(Target::P99(limit)) => value["p99_wanted_ms"] = json!(limit),
                Some(Target::Max(limit)) => {
                    value["max_wanted_ms"] = json!(limit);
                    value["within"] = json!(gaps.within(limit));
                }
                None => {}
            }
            scenes.insert(scene.key.to_owned(), value);
        }
        if let Some((p50, p99)) = self.ratio() {
            scenes.insert(
                "peers_to_crashes".to_owned(),
                json!({"p50": p50, "p99": p99}),
            );
        }
        Value::Object(scenes)
    }

    fn measured(&self) -> impl Iterator<Item = &Scene> {
        self.scenes.iter().filter(|scene| !scene.gaps.is_empty())
    }

    /// How many times longer a crash takes without news than with.
    fn ratio(&self) -> Option<(f64, f64)> {
        let of = |key| {
            let scene = self.measured().find(|scene| scene.key == key)?;
            Some(Distribution::of(&scene.gaps))
        };
        let (with, without) = (of("crashes")?, of("peers")?);
        let at = |share| without.quantile(share) / with.quantile(share);
        Some((at(0.5), at(0.99)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.begin("crashes", "kill -9".to_owned(), 2, Some(Target::P99(100.0)));
        report.add([10.0, 12.0]);
        report.add([11.0]);
        report.begin(
            "freezes",
            "SIGSTOP".to_owned(),
            5,
            Some(Target::Max(3_100.0)),
        );
        report.add([3_000.0, 3_200.0]);
        report
    }

    #[test]
    fn what_was_cut_short_says_so_and_what_was_not_measured_is_left_out() {
        let mut report = report();
        report.begin("cuts", "cut".to_owned(), 9, None);
        let text = report.text();
        assert!(text.contains("2 times, 3 pipelines"), "{text}");
        assert!(text.contains("1 of 5 times, 2 pipelines"), "{text}");
        assert!(text.contains("1 of 2 within 3100 ms"), "{text}");
        assert!(!text.contains("cut\n"), "{text}");
        assert_eq!(report.json().as_object().unwrap().len(), 2);
    }

    #[test]
    fn what_belongs_together_is_one_distribution() {
        let mut report = report();
        report.together("all", "all of them", &["crashes", "freezes", "none"], None);
        let all = &report.json()["all"];
        assert_eq!(all["samples"], json!(5));
        assert_eq!((&all["done"], &all["planned"]), (&json!(3), &json!(7)));
        assert_eq!(all["max_ms"], json!(3_200.0));
    }

    #[test]
    fn the_ratio_stands_when_both_were_measured() {
        let mut report = report();
        assert_eq!(report.json().get("peers_to_crashes"), None);
        report.begin("peers", "by interval".to_owned(), 1, None);
        report.add([2_200.0, 4_800.0]);
        assert_eq!(
            report.json()["peers_to_crashes"],
            json!({"p50": 200.0, "p99": 400.0})
        );
        assert!(report.text().ends_with("p50 × 200, p99 × 400"));
    }
}
