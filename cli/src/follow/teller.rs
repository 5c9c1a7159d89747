//! Tells on stderr how an operation goes.

use tide_model::{UnitName, drain::Step};
use time::OffsetDateTime;

use super::progress::{Change, Progress};
use crate::{
    context::Context,
    error::CliError,
    output::{Style, humanize::counted, views},
};

/// Tells on stderr what changes.
pub(super) struct Teller<'a> {
    context: &'a Context,
    pub(super) progress: Progress,
    told: Option<(usize, usize)>,
    lost: bool,
}

impl<'a> Teller<'a> {
    /// Nothing is told yet.
    pub(super) fn new(context: &'a Context, planned: Vec<UnitName>) -> Self {
        Self {
            context,
            progress: Progress::new(planned),
            told: None,
            lost: false,
        }
    }

    /// Tells where the pipelines of a running operation stand, if that is news.
    pub(super) fn tell(&mut self, steps: &[Step]) {
        let screen = &self.context.screen;
        if std::mem::take(&mut self.lost) {
            screen.say("found it again");
        }
        let changes = self.progress.observe(steps);
        let count = (self.progress.moved(), self.progress.total());
        if changes.is_empty() && self.told == Some(count) {
            return;
        }
        screen.say_over("");
        for change in changes {
            match change {
                Change::Step(step) => {
                    let now = OffsetDateTime::now_utc();
                    screen.say(views::step_line(Style::plain(), &step, now));
                }
                Change::More(more) => {
                    screen.say(format_args!("and {} more", counted(more, "pipeline")));
                }
            }
        }
        let line = format!("{}/{} moved", count.0, count.1);
        if screen.shows_progress() {
            screen.say_over(&line);
        } else if self.told != Some(count) {
            screen.say(line);
        }
        self.told = Some(count);
    }

    /// Tells once that nobody can be asked for the moment.
    pub(super) fn lost_sight(&mut self, error: &CliError) {
        if !std::mem::replace(&mut self.lost, true) {
            self.context.screen.say_over("");
            self.context.screen.say(format_args!(
                "lost sight of the operation, which goes on; looking for it again: {error}"
            ));
        }
    }

    /// Leaves the terminal's last line clean.
    pub(super) fn finish(&self) {
        self.context.screen.say_over("");
    }
}
