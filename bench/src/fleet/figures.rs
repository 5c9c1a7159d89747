//! What was measured of one fleet, beside what the design wants.

use serde_json::{Value, json};

/// The design's limits, for 1,000 agents of 100 pipelines.
const SHARE: f64 = 0.25;
const MEMORY: u64 = 500_000_000;
const P99_MS: f64 = 200.0;
const WHOLE_SECONDS: f64 = 10.0;

/// One fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Agents.
    pub agents: usize,
    /// Pipelines of each.
    pub pipelines: usize,
    /// Part of a core that the control plane uses.
    pub control_share: f64,
    /// Part of a core that PostgreSQL uses.
    pub server_share: f64,
    /// Memory of the control plane in RAM, bytes.
    pub memory: u64,
    /// How many changes were followed.
    pub changes: usize,
    /// Half of the changes are seen within this, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 changes are seen within this, milliseconds.
    pub p99_ms: f64,
    /// All changes are seen within this, milliseconds.
    pub max_ms: f64,
    /// From the end of one control plane until the next one knows everything, seconds.
    pub whole_seconds: f64,
}

impl Figures {
    /// For people.
    pub(super) fn text(&self) -> String {
        format!(
            "{} agents × {} pipelines\n\
             \x20 control plane  {:>8.1} % of a core, wanted: {:.0} %\n\
             \x20 memory         {:>8.0} MB, wanted: {} MB\n\
             \x20 to a watcher   {:>8.0} ms p99, wanted: {P99_MS:.0} ms   (p50 {:.0} ms, max {:.0} ms, {} changes)\n\
             \x20 restart        {:>8.1} s until whole, wanted: {WHOLE_SECONDS:.0} s\n\
             \x20 PostgreSQL     {:>8.1} % of a core",
            self.agents,
            self.pipelines,
            self.control_share * 100.0,
            SHARE * 100.0,
            self.memory as f64 / 1e6,
            MEMORY / 1_000_000,
            self.p99_ms,
            self.p50_ms,
            self.max_ms,
            self.changes,
            self.whole_seconds,
            self.server_share * 100.0,
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "agents": self.agents,
            "pipelines_per_agent": self.pipelines,
            "control_plane_share": self.control_share,
            "control_plane_share_wanted": SHARE,
            "memory_bytes": self.memory,
            "memory_bytes_wanted": MEMORY,
            "changes": self.changes,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "p99_ms_wanted": P99_MS,
            "max_ms": self.max_ms,
            "whole_seconds": self.whole_seconds,
            "whole_seconds_wanted": WHOLE_SECONDS,
            "postgres_share": self.server_share,
        })
    }

    /// Every limit that was not kept.
    pub(super) fn missed(&self) -> Vec<String> {
        let limits = [
            (self.control_share > SHARE, "processor time"),
            (self.memory > MEMORY, "memory"),
            (self.p99_ms > P99_MS, "a change's way to a watcher"),
            (self.whole_seconds > WHOLE_SECONDS, "the restart"),
        ];
        let missed = limits.into_iter().filter(|(over, _)| *over);
        missed
            .map(|(_, what)| format!("{what} ({} × {})", self.agents, self.pipelines))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_judged_by_itself() {
        let good = Figures {
            agents: 1_000,
            pipelines: 100,
            control_share: SHARE,
            server_share: 9.0,
            memory: MEMORY,
            changes: 1,
            p50_ms: 1.0,
            p99_ms: P99_MS,
            max_ms: 1e6,
            whole_seconds: WHOLE_SECONDS,
        };
        assert!(good.missed().is_empty(), "{:?}", good.missed());
        let bad = Figures {
            memory: MEMORY + 1,
            p99_ms: P99_MS + 1.0,
            ..good
        };
        assert_eq!(bad.missed().len(), 2);
        assert!(bad.text().contains("wanted: 200 ms"), "{}", bad.text());
        assert_eq!(bad.json()["memory_bytes"], json!(MEMORY + 1));
    }
}
