//! How text looks: colours for people, none for programs.

/// Whether colours are used, and how wide a table may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
    width: Width,
}

/// How wide a table may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As wide as the terminal is at the moment.
    Terminal,
    /// This many columns.
    Fixed(u16),
}

/// What a word says about the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be, but it may be on its way.
    Uneasy,
    /// Needs attention.
    Bad,
    /// A heading.
    Strong,
    /// Less important than its surroundings.
    Faint,
}

/// The width of tables that go to a file or another program.
const PLAIN_WIDTH: u16 = 100;

impl Style {
    /// For files and programs.
    pub fn plain() -> Self {
        Self {
            colour: false,
            width: Width::Fixed(PLAIN_WIDTH),
        }
    }

    /// For people.
    pub fn terminal(colour: bool) -> Self {
        Self {
            colour,
            width: Width::Terminal,
        }
    }

    /// Whether colours are used.
    pub fn has_colour(self) -> bool {
        self.colour
    }

    pub(super) fn width(self) -> Width {
        self.width
    }

    /// Text in a tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            _ if !self.colour => return text.to_owned(),
            Tone::Good => "32",
            Tone::Uneasy => "33",
            Tone::Bad => "1;31",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
