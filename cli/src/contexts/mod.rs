//! Contexts: fleets with a name, so that nobody types addresses and nobody drains the wrong one.
//!
//! ```toml
//! current = "prod"
//!
//! [context.prod]
//! control-plane = "https://tide.example:7900"
//! ca-cert = "/etc/tide/ca.pem"
//! token = "${file:/home/ana/.tide-token}"
//! ```
//!
//! The file is `$XDG_CONFIG_HOME/tide/contexts.toml`, readable by its owner alone. Secrets are not in
//! it: it says where they are.

mod reference;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::reference::{is_reference, resolve};
use crate::error::CliError;

/// The file's whole content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub context: BTreeMap<String, Entry>,
}

/// One fleet: settings that hold where no flag and no variable says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    /// As `--control-plane`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// As `--postgres-url`; with a password only by reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_url: Option<String>,
    /// As `--relay-group-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_group_id: Option<String>,
    /// As `--source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// As `--token`; only by reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// As `--ca-cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<PathBuf>,
    /// As `--client-cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// As `--client-key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
}

/// What of a context can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Of [`Entry`], as are the others.
    ControlPlane,
    /// The database.
    PostgresUrl,
    /// The group.
    RelayGroupId,
    /// Whom to ask.
    Source,
    /// The token.
    Token,
    /// The CA.
    CaCert,
    /// The certificate.
    ClientCert,
    /// Its key.
    ClientKey,
}

impl Key {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 8] = [
        ("control-plane", Self::ControlPlane),
        ("postgres-url", Self::PostgresUrl),
        ("relay-group-id", Self::RelayGroupId),
        ("source", Self::Source),
        ("token", Self::Token),
        ("ca-cert", Self::CaCert),
        ("client-cert", Self::ClientCert),
        ("client-key", Self::ClientKey),
    ];
}

/// One `KEY=VALUE`; an empty value takes the setting away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    key: Key,
    value: Option<String>,
}

impl std::str::FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or("write it as KEY=VALUE; an empty value takes the setting away")?;
        let known = Key::ALL.iter().find(|(known, _)| *known == name);
        let (_, key) = known.ok_or_else(|| {
            let names = Key::ALL.map(|(name, _)| name).join(", ");
            format!("{name:?} is no setting; there are {names}")
        })?;
        let value = (!value.is_empty()).then(|| value.to_owned());
        if let Some(value) = &value {
            admissible(*key, value)?;
        }
        Ok(Self { key: *key, value })
    }
}

/// Keeps secrets out of the file.
fn admissible(key: Key, value: &str) -> Result<(), String> {
    let by_reference = "write ${env:NAME} or ${file:PATH} instead, in single quotes";
    match key {
        Key::Token if !is_reference(value) => Err(format!(
            "a token is a secret and is not kept here: {by_reference}"
        )),
        Key::PostgresUrl if has_password(value) => Err(format!(
            "the URL holds a password, which is not kept here: {by_reference}"
        )),
        Key::Source if !["auto", "control-plane", "database"].contains(&value) => {
            Err("source is auto, control-plane or database".to_owned())
        }
        _ => Ok(()),
    }
}

fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let in_user = user
        .and_then(|user| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty() && !is_reference(password));
    in_user || url.contains("password=")
}

impl Entry {
    /// Changes one setting.
    pub fn assign(&mut self, Assignment { key, value }: Assignment) {
        let path = || value.clone().map(PathBuf::from);
        match key {
            Key::ControlPlane => self.control_plane = value,
            Key::PostgresUrl => self.postgres_url = value,
            Key::RelayGroupId => self.relay_group_id = value,
            Key::Source => self.source = value,
            Key::Token => self.token = value,
            Key::CaCert => self.ca_cert = path(),
            Key::ClientCert => self.client_cert = path(),
            Key::ClientKey => self.client_key = path(),
        }
    }
}

/// Where the file is; none if there is no home.
pub fn file() -> Result<PathBuf, CliError> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    config
        .or_else(|| Some(set("HOME")?.join(".config")))
        .map(|config| config.join("tide").join("contexts.toml"))
        .ok_or_else(|| {
            CliError::usage(
                "there is no place for contexts",
                "set HOME, or XDG_CONFIG_HOME to an absolute path",
            )
        })
}

impl Contexts {
    /// Reads the file; one that is not there holds nothing.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let shown = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(CliError::io(format!("read {shown}"), error)),
        };
        let mode = fs::metadata(path)
            .map_err(|error| CliError::io(format!("look at {shown}"), error))?
            .permissions()
            .mode();
        // Whoever can write it can send our tokens to a control plane of theirs.
        if mode & 0o022 != 0 {
            return Err(CliError::usage(
                format!("{shown} can be written by others"),
                format!("look at what it says, then: chmod 600 {shown}"),
            ));
        }
        toml_parsed(&text).map_err(|why| {
            CliError::usage(format!("{shown}: {why}"), "correct the file, or remove it")
        })
    }

    /// Writes the file, for its owner alone; whoever reads it meanwhile sees all of it or none.
    pub fn write(&self, path: &Path) -> Result<(), CliError> {
        let failed = |error| CliError::io(format!("write {}", path.display()), error);
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let fresh = path.with_extension(format!("toml.{}", std::process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            // What could not be finished is of no use to anybody.
            let _ = fs::remove_file(&fresh);
        }
        written.map_err(failed)
    }

    /// The one with this name.
    pub fn get(&self, name: &str) -> Result<&Entry, CliError> {
        self.context.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.context.keys().map(String::as_str).collect();
            let advice = "make one with: tidectl context set NAME control-plane=https://HOST:PORT";
            CliError::unknown("context", name, &known, advice)
        })
    }
}

fn toml_parsed(text: &str) -> Result<Contexts, String> {
    toml::from_str(text).map_err(|error| {
        // The whole text of a TOML error quotes the line.
        let before = error.span().map_or("", |span| &text[..span.start]);
        format!(
            "line {}: {}",
            before.matches('\n').count() + 1,
            error.message()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(text: &str) -> Result<Assignment, String> {
        text.parse()
    }

    #[test]
    fn secrets_stay_out() {
        for (text, why) in [
            ("token=s3cret", "a token is a secret"),
            ("token=x${env:A}", "a token is a secret"),
            (
                "postgres-url=postgres://ana:s3cret@db/tide",
                "holds a password",
            ),
            (
                "postgres-url=postgres://db/tide?password=s3cret",
                "holds a password",
            ),
            ("source=oracle", "source is auto"),
            ("colour=red", "there are control-plane, postgres-url"),
            ("token", "KEY=VALUE"),
        ] {
            let refused = assignment(text).unwrap_err();
            assert!(
                refused.contains(why) && !refused.contains("s3cret"),
                "{refused}"
            );
        }
        for text in [
            "token=${file:/run/token}",
            "postgres-url=postgres://ana@db/tide",
            "postgres-url=postgres://ana:${env:PW}@db/tide",
            "postgres-url=${env:TIDE_URL}",
            "token=",
        ] {
            assert!(assignment(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tide").join("contexts.toml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());
        let mut contexts = Contexts::default();
        let mut entry = Entry::default();
        entry.assign(assignment("control-plane=https://ctl:7900").unwrap());
        entry.assign(assignment("token=${env:TOKEN}").unwrap());
        entry.assign(assignment("ca-cert=/etc/ca.pem").unwrap());
        entry.assign(assignment("ca-cert=").unwrap());
        contexts.context.insert("prod".to_owned(), entry);
        contexts.current = Some("prod".to_owned());
        contexts.write(&path).unwrap();
        assert_eq!(Contexts::read(&path).unwrap(), contexts);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let refused = Contexts::read(&path).unwrap_err();
        assert!(refused.hint().unwrap().contains("chmod 600"), "{refused}");
    }
}
