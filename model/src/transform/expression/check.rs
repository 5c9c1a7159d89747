//! What can be said about an expression before there is a message: that all names in it exist, that
//! its functions get as many arguments as they take, that its cost has a bound, and what it reads.

use cel::{
    IdedExpr, Program,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators},
};

use crate::{closest::closest, template::Step};

use super::super::{branch::Branch, path::Root, view::All};

/// What an expression reads of a message.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    pub(super) payload: Branch<All>,
    pub(super) headers: Branch<All>,
    /// The field that it is, if it is nothing else.
    pub(super) copies: Option<(Root, Vec<Step>)>,
    /// Whether it goes through lists.
    pub(super) loops: bool,
}

const NAMES: [&str; 5] = ["payload", "headers", "key", "event_id", "outbox"];
const TYPES: [&str; 10] = [
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
];

/// Functions, and how many arguments they take, the text or list before the dot included.
const FUNCTIONS: [(&str, usize); 12] = [
    ("bool", 1),
    ("bytes", 1),
    ("contains", 2),
    ("double", 1),
    ("dyn", 1),
    ("endsWith", 2),
    ("int", 1),
    ("size", 1),
    ("startsWith", 2),
    ("string", 1),
    ("type", 1),
    ("uint", 1),
];
/// Those that stand behind a dot alone.
const MEMBERS: [&str; 3] = ["contains", "endsWith", "startsWith"];
/// Expanded by the parser; here they are only names.
const LOOPS: [&str; 6] = ["all", "exists", "exists_one", "filter", "has", "map"];

const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];

/// Evaluating descends into an expression, on whatever stack there is.
const DEEPEST: usize = 32;

pub(super) fn check(program: &Program) -> Result<Reads, String> {
    if !fits(program.expression(), DEEPEST) {
        return Err(format!(
            "has more than {DEEPEST} operations within each other; make several steps of it"
        ));
    }
    let mut checker = Checker {
        program,
        reads: Reads::default(),
        bound: Vec::new(),
        looping: false,
    };
    checker.walk(program.expression())?;
    checker.reads.copies = copies(program.expression());
    Ok(checker.reads)
}

struct Checker<'p> {
    program: &'p Program,
    reads: Reads,
    /// Names of elements, inside of a loop.
    bound: Vec<&'p str>,
    looping: bool,
}

impl<'p> Checker<'p> {
    fn walk(&mut self, at: &'p IdedExpr) -> Result<(), String> {
        if let Some((root, names)) = field(at) {
            let branch = match root {
                Root::Payload => &mut self.reads.payload,
                Root::Headers => &mut self.reads.headers,
            };
            branch.cover(&names, All);
            return Ok(());
        }
        match &at.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.walk(&select.operand),
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => list
                .elements
                .iter()
                .try_for_each(|element| self.walk(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key)?;
                    self.walk(&entry.value)
                }
                EntryExpr::StructField(_) => self.wrong(at, "has a message type; there are none"),
            }),
            Expr::Comprehension(comprehension) => self.comprehension(at, comprehension),
            Expr::Struct(structure) => self.wrong(
                at,
                &format!("names {:?}, which is no type", structure.type_name),
            ),
            Expr::Unspecified => self.wrong(at, "is incomplete"),
        }
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<(), String> {
        if self.bound.contains(&name) || NAMES.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        let known: Vec<&str> = NAMES.iter().chain(&self.bound).copied().collect();
        let meant = closest(name, &known).map_or_else(
            || format!("there are {}", NAMES.join(", ")),
            |meant| format!("did you mean {meant:?}?"),
        );
        self.wrong(at, &format!("names {name:?}, which there is not; {meant}"))
    }

    fn call(&mut self, at: &'p IdedExpr, call: &'p CallExpr) -> Result<(), String> {
        let name = call.func_name.as_str();
        let given = call.args.len() + usize::from(call.target.is_some());
        let is_operator = OPERATORS.contains(&name)
            || [operators::IN, operators::NOT_STRICTLY_FALSE].contains(&name);
        if !is_operator {
            let Some((_, takes)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
                return self.unknown_function(at, name);
            };
            if *takes != given {
                return self.wrong(
                    at,
                    &format!("calls {name} with {given} arguments; it takes {takes}"),
                );
            }
            if MEMBERS.contains(&name) && call.target.is_none() {
                return self.wrong(
                    at,
                    &format!("calls {name} without a text before it: TEXT.{name}(…)"),
                );
            }
            if call.target.is_some() && !MEMBERS.contains(&name) && name != "size" {
                return self.wrong(at, &format!("calls {name} behind a dot: {name}(…)"));
            }
        }
        if let Some(target) = &call.target {
            self.walk(target)?;
        }
        call.args
            .iter()
            .try_for_each(|argument| self.walk(argument))
    }

    fn unknown_function(&self, at: &IdedExpr, name: &str) -> Result<(), String> {
        if name == "matches" {
            return self.wrong(at, "calls matches; there are no regular expressions");
        }
        if LOOPS.contains(&name) {
            return self.wrong(
                at,
                &format!("calls {name} in a way that it cannot be called"),
            );
        }
        let known: Vec<&str> = FUNCTIONS
            .iter()
            .map(|(name, _)| *name)
            .chain(LOOPS)
            .collect();
        let meant = closest(name, &known).map_or_else(
            || format!("there are {}", known.join(", ")),
            |meant| format!("did you mean {meant}?"),
        );
        self.wrong(at, &format!("calls {name}, which there is not; {meant}"))
    }

    fn comprehension(
        &mut self,
        at: &'p IdedExpr,
        comprehension: &'p ComprehensionExpr,
    ) -> Result<(), String> {
        self.walk(&comprehension.iter_range)?;
        if self.looping {
            return self.wrong(at, "has a loop within a loop, whose cost has no bound");
        }
        self.reads.loops = true;
        let before = self.bound.len();
        self.bound.extend([
            comprehension.iter_var.as_str(),
            comprehension.accu_var.as_str(),
        ]);
        self.bound.extend(comprehension.iter_var2.as_deref());
        if let Some(hidden) = self.bound[before..]
            .iter()
            .find(|name| NAMES.contains(name))
        {
            return self.wrong(
                at,
                &format!("calls an element {hidden:?}, which hides the message's"),
            );
        }
        self.looping = true;
        for part in [
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ] {
            self.walk(part)?;
        }
        self.looping = false;
        self.bound.truncate(before);
        Ok(())
    }

    fn wrong(&self, at: &IdedExpr, problem: &str) -> Result<(), String> {
        let column = self.program.source_info().offset_for(at.id);
        Err(match column {
            Some((start, _)) => format!("{problem} (at character {})", start + 1),
            None => problem.to_owned(),
        })
    }
}

/// Whether an expression is so deep at most.
fn fits(at: &IdedExpr, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match &at.expr {
        Expr::Literal(_) | Expr::Ident(_) | Expr::Unspecified => true,
        Expr::Select(select) => fits(&select.operand, depth),
        Expr::Call(call) => {
            let target = call.target.as_deref();
            target
                .into_iter()
                .chain(&call.args)
                .all(|part| fits(part, depth))
        }
        Expr::List(list) => list.elements.iter().all(|element| fits(element, depth)),
        Expr::Map(map) => map
            .entries
            .iter()
            .all(|entry| fits_entry(&entry.expr, depth)),
        Expr::Struct(structure) => {
            let mut entries = structure.entries.iter();
            entries.all(|entry| fits_entry(&entry.expr, depth))
        }
        Expr::Comprehension(comprehension) => [
            &comprehension.iter_range,
            &comprehension.accu_init,
            &comprehension.loop_cond,
            &comprehension.loop_step,
            &comprehension.result,
        ]
        .into_iter()
        .all(|part| fits(part, depth)),
    }
}

fn fits_entry(entry: &EntryExpr, depth: usize) -> bool {
    match entry {
        EntryExpr::MapEntry(entry) => fits(&entry.key, depth) && fits(&entry.value, depth),
        EntryExpr::StructField(field) => fits(&field.value, depth),
    }
}

/// The names that lead to a field of the message; a number in the way ends them.
fn field(mut at: &IdedExpr) -> Option<(Root, Vec<String>)> {
    let mut names = Vec::new();
    loop {
        match &at.expr {
            Expr::Ident(name) => {
                names.reverse();
                return Some((root(name)?, names));
            }
            Expr::Select(select) => {
                names.push(select.field.clone());
                at = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [outer, index] = call.args.as_slice() else {
                    return None;
                };
                let Expr::Literal(LiteralValue::String(name)) = &index.expr else {
                    return None;
                };
                names.push(name.inner().to_owned());
                at = outer;
            }
            _ => return None,
        }
    }
}

fn root(name: &str) -> Option<Root> {
    match name {
        "payload" => Some(Root::Payload),
        "headers" => Some(Root::Headers),
        _ => None,
    }
}

/// The field that an expression is, if it is nothing else.
fn copies(at: &IdedExpr) -> Option<(Root, Vec<Step>)> {
    match &at.expr {
        Expr::Ident(name) => Some((root(name)?, Vec::new())),
        Expr::Select(select) if !select.test => {
            let (root, mut steps) = copies(&select.operand)?;
            steps.push(Step::Name(select.field.clone()));
            Some((root, steps))
        }
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let [outer, index] = call.args.as_slice() else {
                return None;
            };
            let (root, mut steps) = copies(outer)?;
            steps.push(match &index.expr {
                Expr::Literal(LiteralValue::String(name)) => Step::Name(name.inner().to_owned()),
                Expr::Literal(LiteralValue::Int(index)) => {
                    Step::Index(usize::try_from(*index.inner()).ok()?)
                }
                _ => return None,
            });
            Some((root, steps))
        }
        _ => None,
    }
}
