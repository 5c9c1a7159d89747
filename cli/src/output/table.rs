//! Tables without borders: columns for people, and still fields for `awk`.

use comfy_table::{Attribute, Cell as Drawn, Color, ColumnConstraint, ContentArrangement, presets};

use super::{Style, Tone, style::Width};

/// Blanks between two columns.
const GAP: u16 = 2;
/// The narrowest that a column of words is squeezed to.
const NARROWEST: u16 = 20;

/// Rows under a heading.
#[derive(Debug)]
pub struct Table {
    style: Style,
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    words: Option<usize>,
}

/// One field of a row.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Table {
    /// A table with these columns.
    pub fn new(style: Style, heading: &[&'static str]) -> Self {
        Self {
            style,
            heading: heading.to_vec(),
            rows: Vec::new(),
            words: None,
        }
    }

    /// The column of this title holds sentences and may be broken into lines. All others hold
    /// names and numbers, which stay whole.
    #[must_use]
    pub fn with_words_in(mut self, title: &str) -> Self {
        self.words = self.heading.iter().position(|heading| *heading == title);
        self
    }

    /// Adds a row; it has a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text that ends with a new line; only the heading if there are no rows.
    pub fn print(&self) -> String {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(self.heading.iter().map(|title| {
                let cell = Drawn::new(title);
                if self.style.has_colour() {
                    cell.add_attribute(Attribute::Bold)
                } else {
                    cell
                }
            }));
        match self.style.width() {
            Width::Fixed(width) => {
                table.set_width(width);
            }
            // A terminal that does not tell its width gets lines as long as they are.
            Width::Terminal => {}
        }
        if self.style.has_colour() {
            table.enforce_styling();
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.draw(self.style)));
        }
        let last = self.heading.len().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { GAP }));
            column.set_constraint(if self.words == Some(index) {
                ColumnConstraint::LowerBoundary(comfy_table::Width::Fixed(self.width_of(index)))
            } else {
                ColumnConstraint::ContentWidth
            });
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }

    /// The width that a column of words keeps: its own if that is small.
    fn width_of(&self, column: usize) -> u16 {
        let texts = self.rows.iter().filter_map(|row| row.get(column));
        let longest = texts
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or(0);
        // The gap counts as part of the column.
        (longest as u16 + GAP).min(NARROWEST)
    }
}

impl Cell {
    /// Text in a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// A dash for what is not known or does not apply.
    pub fn or_dash(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::from("-"), |text| Self::from(text.to_string()))
    }

    fn draw(&self, style: Style) -> Drawn {
        let cell = Drawn::new(&self.text);
        if !style.has_colour() {
            return cell;
        }
        match self.tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Uneasy => cell.fg(Color::DarkYellow),
            Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<Cell> {
        texts.iter().map(|text| Cell::from(*text)).collect()
    }

    #[test]
    fn a_plain_table_has_no_borders_and_no_trailing_blanks() {
        let mut table = Table::new(Style::plain(), &["NAME", "LAG"]);
        table.row(cells(&["a-long-name", "1"]));
        table.row(cells(&["b", "22"]));
        assert_eq!(
            table.print(),
            "NAME         LAG\na-long-name  1\nb            22\n"
        );
    }

    #[test]
    fn a_table_without_rows_still_has_its_heading() {
        assert_eq!(
            Table::new(Style::plain(), &["NAME", "LAG"]).print(),
            "NAME  LAG\n"
        );
    }

    #[test]
    fn words_wrap_at_a_hundred_columns_and_names_never() {
        let name = "n".repeat(120);
        let mut table = Table::new(Style::plain(), &["NAME", "REASON"]).with_words_in("REASON");
        table.row(cells(&["short", &"word ".repeat(30)]));
        let fits = table.print();
        assert!(
            fits.lines().count() > 2 && fits.lines().all(|line| line.len() <= 100),
            "{fits}"
        );
        table.row(cells(&[&name, "-"]));
        assert!(table.print().contains(&name));
    }

    #[test]
    fn colours_are_only_used_where_they_are_wanted() {
        let mut table = Table::new(Style::terminal(true), &["STATE"]);
        table.row([Cell::toned("LOST", Tone::Bad)]);
        assert!(table.print().contains("\x1b["));
        let mut table = Table::new(Style::terminal(false), &["STATE"]);
        table.row([Cell::toned("LOST", Tone::Bad)]);
        assert!(!table.print().contains("\x1b["));
    }
}
