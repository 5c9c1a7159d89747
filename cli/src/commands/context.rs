//! Contexts: list, show, choose, set, forget. None of them touches a network.

use serde_json::json;

use crate::{
    args::ContextCommand,
    context::Context,
    contexts::{self, Contexts, Entry},
    error::CliError,
    exit::Exit,
    output::{Cell, Table, views},
};

pub(super) fn run(context: &Context, command: ContextCommand) -> Result<Exit, CliError> {
    let path = contexts::file()?;
    let mut all = Contexts::read(&path)?;
    match command {
        ContextCommand::List => list(context, &all),
        ContextCommand::Show { name } => show(context, &all, name),
        ContextCommand::Use { name } => {
            all.get(&name)?;
            let before = all.current.replace(name.clone());
            all.write(&path)?;
            let before = before.unwrap_or_else(|| "-".to_owned());
            said(
                context,
                &name,
                format!("current context: {before} > {name}"),
            )
        }
        ContextCommand::Set { name, settings } => {
            named(&name)?;
            let entry = all.context.entry(name.clone()).or_default();
            for assignment in settings {
                entry.assign(assignment);
            }
            let first = all.current.is_none();
            if first {
                all.current = Some(name.clone());
            }
            all.write(&path)?;
            let current = if first {
                ", and it is the current one"
            } else {
                ""
            };
            said(context, &name, format!("context {name} is set{current}"))
        }
        ContextCommand::Remove { name } => {
            all.get(&name)?;
            all.context.remove(&name);
            let current = all.current.as_ref() == Some(&name);
            if current {
                all.current = None;
            }
            all.write(&path)?;
            let none = if current {
                "; there is no current one now"
            } else {
                ""
            };
            said(context, &name, format!("context {name} is forgotten{none}"))
        }
    }
}

fn list(context: &Context, all: &Contexts) -> Result<Exit, CliError> {
    context.screen.show(all, |style| {
        let mut table = Table::new(style, &["CURRENT", "CONTEXT", "CONTROL PLANE", "GROUP"]);
        for (name, entry) in &all.context {
            let current = all.current.as_ref() == Some(name);
            table.row([
                Cell::from(if current { "*" } else { "" }),
                Cell::from(name.as_str()),
                Cell::or_dash(entry.control_plane.as_deref()),
                Cell::or_dash(entry.relay_group_id.as_deref()),
            ]);
        }
        table.print()
    })?;
    Ok(Exit::Done)
}

fn show(context: &Context, all: &Contexts, name: Option<String>) -> Result<Exit, CliError> {
    let name = name.or_else(|| all.current.clone()).ok_or_else(|| {
        CliError::usage(
            "there is no current context",
            "name one, or choose one with: tidectl context use NAME",
        )
    })?;
    let entry = all.get(&name)?;
    let data =
        json!({"name": name, "current": all.current.as_ref() == Some(&name), "settings": entry});
    context.screen.show(&data, |style| {
        let mut facts = vec![("context", name.clone())];
        facts.extend(settings(entry));
        views::facts(style, &facts)
    })?;
    Ok(Exit::Done)
}

fn settings(entry: &Entry) -> Vec<(&'static str, String)> {
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    [
        ("control plane", entry.control_plane.clone()),
        ("database", entry.postgres_url.clone()),
        ("group", entry.relay_group_id.clone()),
        ("source", entry.source.clone()),
        ("token", entry.token.clone()),
        ("CA", path(&entry.ca_cert)),
        ("certificate", path(&entry.client_cert)),
        ("key", path(&entry.client_key)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn named(name: &str) -> Result<(), CliError> {
    let fits = !name.is_empty()
        && name.len() <= 100
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits {
        return Ok(());
    }
    Err(CliError::usage(
        format!("{name:?} cannot be a context's name"),
        "use letters, digits, dashes, dots and underscores",
    ))
}

fn said(context: &Context, name: &str, sentence: String) -> Result<Exit, CliError> {
    context
        .screen
        .show(&json!({"context": name}), |_| sentence)?;
    Ok(Exit::Done)
}
