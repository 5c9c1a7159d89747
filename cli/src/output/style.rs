//! How text looks: colours for people, none for programs.

/// Whether colours are used, how wide a table may be, and whether it has all its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
    width: Width,
    wide: bool,
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
/// As good as any width: nobody asked for all columns in order to have them broken.
const ALL_COLUMNS_WIDTH: u16 = 2_000;

impl Style {
    /// For files and programs.
    pub fn plain() -> Self {
        Self {
            colour: false,
            width: Width::Fixed(PLAIN_WIDTH),
            wide: false,
        }
    }

    /// For people.
    pub fn terminal(colour: bool) -> Self {
        Self {
            colour,
            width: Width::Terminal,
            wide: false,
        }
    }

    /// With all columns that a list has, each as wide as it is.
    #[must_use]
    pub fn with_all_columns(self, wide: bool) -> Self {
        let width = if wide {
            Width::Fixed(ALL_COLUMNS_WIDTH)
        } else {
            self.width
        };
        Self {
            width,
            wide,
            ..self
        }
    }

    /// Whether lists have all their columns.
    pub fn is_wide(self) -> bool {
        self.wide
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
