//! What processes cost: processor time and memory, read from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// Ticks a second in which Linux counts processor time for everybody (`USER_HZ`).
const TICKS: f64 = 100.0;

/// One process, or a server with all the processes that it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    /// This one alone.
    Process(u32),
    /// This one and its children, those that have ended included.
    Family(u32),
}

impl Who {
    /// Processor time used so far, to 10 ms a process.
    pub(crate) fn busy(self) -> Result<Duration> {
        let ticks = match self {
            Self::Process(pid) => stat(pid)?.own,
            Self::Family(pid) => {
                let parent = stat(pid)?;
                // A child that ends meanwhile is counted with the parent from then on.
                let children = children(pid)?.into_iter();
                let living: u64 = children
                    .filter_map(|child| stat(child).ok())
                    .map(|child| child.own)
                    .sum();
                parent.own + parent.ended_children + living
            }
        };
        Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
    }
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: u64 = kibibytes.context("no VmRSS in its status")?.parse()?;
    Ok(kibibytes * 1024)
}

struct Stat {
    own: u64,
    ended_children: u64,
}

fn stat(pid: u32) -> Result<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse(&line).with_context(|| format!("/proc/{pid}/stat: {line}"))
}

/// See proc(5): fields are counted from 1, and the second may hold anything between its parentheses.
fn parse(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        own: field(14)? + field(15)?,
        ended_children: field(16)? + field(17)?,
    })
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("children");
        let text = fs::read_to_string(path).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 5";
        let stat = parse(line).unwrap();
        assert_eq!((stat.own, stat.ended_children), (120, 34));
        assert!(parse("7 (cut").is_none());
    }

    #[test]
    fn this_process_has_memory_and_a_past() {
        let me = std::process::id();
        assert!(resident(me).unwrap() > 100_000);
        assert!(Who::Family(me).busy().unwrap() >= Who::Process(me).busy().unwrap());
    }
}
