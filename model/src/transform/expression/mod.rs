//! Expressions: CEL, checked when they are compiled, as far as that can be done without a message.
//!
//! **Cost.** CEL has no loops but over what is there, and a loop within a loop is refused, as are
//! regular expressions. What is read of a message is bounded, less with a loop than without one. So
//! no publisher makes an expression slow; its owner can, by writing a silly one.

mod check;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
    thread,
};

use cel::{Context, Env, ExecutionError, ParseErrors, Program, Value, objects::Key};

use crate::{
    format::Event,
    template::{self, lookup},
};

use super::{
    path::Root,
    view::{self, Budget},
};

/// Longer is a program, not an expression.
const LONGEST: usize = 2_000;
/// Values and bytes of text that an expression reads of a message, at most.
const READS: (usize, usize) = (50_000, 1 << 20);
/// The same of an expression with a loop, which may look at everything once for each element.
const READS_IN_LOOPS: (usize, usize) = (1_000, 64 << 10);
/// Bytes that the value of an expression takes as JSON, at most.
const LARGEST_RESULT: usize = 1 << 20;

/// What the parser descends into, at most, and a stack on which it comes back: it knows no limit of
/// its own there, and would bring the process down.
const MOST_BRACKETS: usize = 60;
const STACK: usize = 32 << 20;

static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    program: Arc<Program>,
    reads: check::Reads,
}

/// What an expression can name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    pub(super) event: Event<'s>,
    pub(super) outbox: &'s str,
}

impl Expression {
    /// Compiles a text. The error says what is wrong, and where in it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("is longer than {LONGEST} bytes"));
        }
        // Wherever they stand: what closes which is the parser's to say.
        let opens = |c: &char| matches!(c, '(' | '[' | '{' | '?');
        if text.chars().filter(opens).count() > MOST_BRACKETS {
            return Err(format!(
                "has more than {MOST_BRACKETS} brackets and question marks"
            ));
        }
        let program = thread::scope(|scope| {
            let parser = thread::Builder::new().stack_size(STACK);
            let parsed = parser.spawn_scoped(scope, || ENVIRONMENT.compile(text).map_err(mistake));
            let parsed = parsed.map_err(|error| format!("could not be compiled: {error}"))?;
            parsed
                .join()
                .unwrap_or_else(|_| Err("could not be compiled".to_owned()))
        })?;
        let reads = check::check(&program)?;
        Ok(Self {
            program: Arc::new(program),
            reads,
        })
    }

    /// Whether a condition is true of a message.
    pub(super) fn holds(&self, scope: &Scope<'_>) -> Result<bool, String> {
        match self.run(scope)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("is {}, not true or false", other.type_of())),
        }
    }

    /// The value as JSON text. A field that is named and nothing else keeps its exact text.
    pub(super) fn value(&self, scope: &Scope<'_>) -> Result<String, String> {
        if let Some((root, steps)) = &self.reads.copies {
            let text = match root {
                Root::Payload => scope.event.payload,
                Root::Headers => scope.event.headers,
            };
            let found = lookup::value(text, steps);
            return found
                .map(ToOwned::to_owned)
                .ok_or_else(|| missing(&shown(*root, steps)));
        }
        let value = self.run(scope)?;
        let mut out = String::new();
        write(&mut out, &value)?;
        Ok(out)
    }

    fn run(&self, scope: &Scope<'_>) -> Result<Value, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        let (values, bytes) = if self.reads.loops {
            READS_IN_LOOPS
        } else {
            READS
        };
        let budget = Budget::new(values, bytes);
        let Scope { event, outbox } = scope;
        for (root, wanted, text) in [
            (Root::Payload, &self.reads.payload, event.payload),
            (Root::Headers, &self.reads.headers, event.headers),
        ] {
            if !wanted.is_empty() {
                let value = view::read(text, wanted, &budget)
                    .map_err(|problem| format!("{root} could not be read: {problem}"))?;
                context.add_variable_from_value(root.to_string(), value);
            }
        }
        let text = |text: &str| Value::String(Arc::new(text.to_owned()));
        context.add_variable_from_value("key", event.key.map_or(Value::Null, text));
        context.add_variable_from_value("event_id", text(&event.event_id.to_string()));
        context.add_variable_from_value("outbox", text(outbox));
        guarded(|| self.program.execute(&context))
    }
}

/// Where a text is no expression, and why.
fn mistake(errors: ParseErrors) -> String {
    let Some(error) = errors.errors.into_iter().next() else {
        return "is no expression".to_owned();
    };
    let (line, column) = error.pos;
    let problem = error.msg.trim_start_matches("Syntax error: ");
    let problem = problem.split(" expecting {").next().unwrap_or_default();
    format!(
        "is no expression at line {line}, column {}: {problem}",
        column + 1
    )
}

/// A mistake of the interpreter is the fault of one message, not the end of all pipelines.
fn guarded(run: impl FnOnce() -> Result<Value, ExecutionError>) -> Result<Value, String> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| "could not be evaluated".to_owned())?
        .map_err(|error| problem(&error))
}

/// Why an expression failed, without what the message holds: reasons are logged.
fn problem(error: &ExecutionError) -> String {
    let operator = |name: &str| match name {
        "add" => "+".to_owned(),
        "sub" => "-".to_owned(),
        "mul" => "*".to_owned(),
        "div" => "/".to_owned(),
        "rem" => "%".to_owned(),
        other => other.trim_matches('_').to_owned(),
    };
    match error {
        ExecutionError::NoSuchKey(name) => missing(name),
        ExecutionError::NoSuchOverload(error) => format!(
            "{} does not go with ({})",
            operator(error.function()),
            error.argument_types().join(", ")
        ),
        ExecutionError::UnsupportedBinaryOperator(name, left, right) => format!(
            "{} does not go with ({}, {})",
            operator(name),
            left.type_of(),
            right.type_of()
        ),
        ExecutionError::ValuesNotComparable(left, right) => {
            format!(
                "{} and {} cannot be compared",
                left.type_of(),
                right.type_of()
            )
        }
        ExecutionError::UnexpectedType { got, want } => format!("is {got} where {want} is needed"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "divides by zero".to_owned()
        }
        ExecutionError::Overflow(name, ..) => {
            format!("the result of {} is out of range", operator(name))
        }
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        ExecutionError::DuplicateKey(_) => "a key is there twice".to_owned(),
        ExecutionError::FunctionError { function, .. } => {
            format!("{function}() cannot take what it was given")
        }
        _ => "could not be evaluated".to_owned(),
    }
}

fn missing(field: &str) -> String {
    format!("{field} is missing; has(…) would ask for it")
}

fn shown(root: Root, steps: &[template::Step]) -> String {
    let mut shown = root.to_string();
    for step in steps {
        match step {
            template::Step::Name(name) => shown.extend([".", name]),
            template::Step::Index(index) => shown.extend(["[", &index.to_string(), "]"]),
        }
    }
    shown
}

/// Appends a value as PostgreSQL would print it, save that members are in the order of their names.
fn write(out: &mut String, value: &Value) -> Result<(), String> {
    if out.len() > LARGEST_RESULT {
        return Err(format!("is larger than {LARGEST_RESULT} bytes"));
    }
    let quote = |text: &str| serde_json::to_string(text).expect("a string serializes");
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::UInt(value) => out.push_str(&value.to_string()),
        Value::Float(value) => match serde_json::Number::from_f64(*value) {
            Some(number) => out.push_str(&number.to_string()),
            None => return Err("is no finite number".to_owned()),
        },
        Value::String(text) if text.len() > LARGEST_RESULT => {
            return Err(format!("is larger than {LARGEST_RESULT} bytes"));
        }
        // No text in PostgreSQL's jsonb either.
        Value::String(text) if text.contains('\0') => {
            return Err("holds a NUL character".to_owned());
        }
        Value::String(text) => out.push_str(&quote(text)),
        Value::List(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write(out, value)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut members = Vec::with_capacity(map.map.len());
            for (key, value) in map.map.iter() {
                let Key::String(name) = key else {
                    return Err("has a key that is no text, which JSON does not know".to_owned());
                };
                members.push((name, value));
            }
            members.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&quote(name));
                out.push_str(": ");
                write(out, value)?;
            }
            out.push('}');
        }
        other => return Err(format!("is {}, which JSON does not know", other.type_of())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_interpreter_is_an_error() {
        assert_eq!(
            guarded(|| panic!("a mistake of ours")),
            Err("could not be evaluated".to_owned())
        );
    }
}
