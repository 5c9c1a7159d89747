//! Tells on stderr what happens, each line with the time since the start, and remembers it.

use std::{fmt::Display, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::output::Screen;

/// The clock, and what was told so far.
#[derive(Debug)]
pub(super) struct Story {
    screen: Screen,
    began: Instant,
    lines: Vec<Line>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    /// Seconds since the start.
    pub(super) at_seconds: f64,
    /// What happened.
    pub(super) what: String,
}

impl Story {
    /// Begins now.
    pub(super) fn begin(screen: &Screen) -> Self {
        Self {
            screen: screen.clone(),
            began: Instant::now(),
            lines: Vec::new(),
        }
    }

    /// Tells one line.
    pub(super) fn tell(&mut self, what: impl Display) {
        let what = what.to_string();
        let at_seconds = self.elapsed().as_secs_f64();
        self.screen.say_over("");
        self.screen.say(format_args!("[{at_seconds:5.1}s] {what}"));
        self.lines.push(Line { at_seconds, what });
    }

    /// Shows a line until the next one, if a person looks.
    pub(super) fn meanwhile(&self, what: impl Display) {
        if self.screen.shows_progress() {
            let elapsed = self.elapsed().as_secs_f64();
            self.screen.say_over(&format!("[{elapsed:5.1}s] {what}"));
        }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Everything that was told.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }
}
