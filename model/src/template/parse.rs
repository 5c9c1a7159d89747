//! The syntax of templates.

use super::{Field, Part, Root, Step};

/// More text than that is no name of anything.
const LONGEST: usize = 2_000;

const FIELDS: &str = "a field is key, event_id, outbox, headers.NAME or payload.PATH";

pub(super) fn parts(text: &str) -> Result<Vec<Part>, String> {
    if text.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once("{{") {
        if literal.contains("}}") {
            return Err("has a }} without its {{".to_owned());
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        let mut reader = Reader(after);
        parts.push(Part::Field(reader.field()?));
        rest = reader.0;
    }
    if rest.contains("}}") {
        return Err("has a }} without its {{".to_owned());
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

/// What is left to read.
struct Reader<'t>(&'t str);

impl<'t> Reader<'t> {
    /// After the opening braces, up to and with the closing ones.
    fn field(&mut self) -> Result<Field, String> {
        self.space();
        let begin = self.0;
        let root = match self.word() {
            "key" => Root::Key,
            "event_id" => Root::EventId,
            "outbox" => Root::Outbox,
            "headers" => Root::Headers,
            "payload" => Root::Payload,
            "" => return Err(format!("has braces without a field ({FIELDS})")),
            other => return Err(format!("names {other:?}, which is no field ({FIELDS})")),
        };
        let steps = self.steps()?;
        let text = begin[..begin.len() - self.0.len()].to_owned();
        match root {
            Root::Headers if steps.is_empty() => {
                return Err("names headers as a whole; name one: headers.tenant".to_owned());
            }
            Root::Key | Root::EventId | Root::Outbox if !steps.is_empty() => {
                return Err(format!("has {text:?}, and there is nothing within"));
            }
            _ => {}
        }
        let mut field = Field {
            text,
            root,
            steps,
            default: None,
            levels: false,
        };
        loop {
            self.space();
            if self.take("}}") {
                return Ok(field);
            }
            if !self.take("|") {
                return Err(format!("is not closed by }}}} after {:?}", field.text));
            }
            self.space();
            match self.word() {
                "levels" => field.levels = true,
                "default" => field.default = Some(self.argument()?),
                other => {
                    return Err(format!(
                        "has | {other:?}, which is neither default('TEXT') nor levels"
                    ));
                }
            }
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if self.take(".") {
                match self.word() {
                    "" => return Err("has a dot without a name after it".to_owned()),
                    name => steps.push(Step::Name(name.to_owned())),
                }
            } else if self.take("[") {
                let step = match self.quoted()? {
                    Some(name) => Step::Name(name),
                    None => self
                        .word()
                        .parse()
                        .map(Step::Index)
                        .map_err(|_| "has [ ] without a number or a quoted name".to_owned())?,
                };
                if !self.take("]") {
                    return Err("has a [ that is not closed".to_owned());
                }
                steps.push(step);
            } else {
                return Ok(steps);
            }
        }
    }

    fn argument(&mut self) -> Result<String, String> {
        let usage = || "has a default that is not written default('TEXT')".to_owned();
        self.space();
        if !self.take("(") {
            return Err(usage());
        }
        self.space();
        let text = self.quoted()?.ok_or_else(usage)?;
        self.space();
        if !self.take(")") {
            return Err(usage());
        }
        if text.is_empty() {
            return Err("has an empty default, which is no name".to_owned());
        }
        Ok(text)
    }

    /// Text in single or double quotes, which holds none of the same.
    fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(quote) = self.0.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            return Ok(None);
        };
        let (text, rest) = self.0[1..]
            .split_once(quote)
            .ok_or_else(|| format!("has a {quote} that is not closed"))?;
        self.0 = rest;
        Ok(Some(text.to_owned()))
    }

    fn word(&mut self) -> &'t str {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn space(&mut self) {
        self.0 = self.0.trim_start();
    }
}
