//! Reads pipeline files: YAML or JSON, one document, several, or lists of them. Every problem of
//! every file is found and named with file, document and key, before anything is changed.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize as _;
use serde_json::Value;
use tide_model::{PipelineName, pipeline::PipelineFile};

use crate::error::CliError;

/// Reads and checks all files; `-` is standard input.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<PipelineFile>, CliError> {
    let mut contents = Vec::new();
    for path in paths {
        contents.push((label(path), read(path)?));
    }
    parse_all(&contents)
}

fn label(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    read.map_err(|error| CliError::io(format!("read {}", label(path)), error))
}

/// Checks the contents of named files. Either all are good, or every problem is named.
fn parse_all(contents: &[(String, String)]) -> Result<Vec<PipelineFile>, CliError> {
    let mut pipelines = Vec::new();
    let mut problems = Vec::new();
    let mut first_place: BTreeMap<PipelineName, String> = BTreeMap::new();
    for (file, text) in contents {
        let documents = documents(file, text);
        if documents.is_empty() {
            problems.push(format!("{file}: holds no pipeline"));
        }
        for (place, document) in documents {
            match document
                .and_then(|value| PipelineFile::parse(&value).map_err(|error| error.to_string()))
            {
                Err(problem) => problems.push(format!("{place}: {problem}")),
                Ok(pipeline) => {
                    if let Some(first) = first_place.get(&pipeline.name) {
                        problems.push(format!(
                            "{place}: key \"name\" is \"{}\", as in {first}",
                            pipeline.name
                        ));
                    } else {
                        first_place.insert(pipeline.name.clone(), place);
                        pipelines.push(pipeline);
                    }
                }
            }
        }
    }
    if problems.is_empty() {
        Ok(pipelines)
    } else {
        Err(CliError::Files { problems })
    }
}

/// The documents of a file with their places; lists are taken apart, empty documents left out.
/// What follows a syntax error cannot be read.
fn documents(file: &str, text: &str) -> Vec<(String, Result<Value, String>)> {
    let mut found = Vec::new();
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let place = format!("{file}, document {}", index + 1);
        match Value::deserialize(document) {
            Err(error) => {
                found.push((place, Err(error.to_string())));
                break;
            }
            Ok(Value::Null) => {}
            Ok(Value::Array(items)) => {
                for (index, item) in items.into_iter().enumerate() {
                    found.push((format!("{place}, item {}", index + 1), Ok(item)));
                }
            }
            Ok(value) => found.push((place, Ok(value))),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<PipelineFile>, Vec<String>> {
        parse_all(&[("p.yaml".to_owned(), text.to_owned())]).map_err(|error| match error {
            CliError::Files { problems } => problems,
            other => panic!("{other}"),
        })
    }

    fn names(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .iter()
            .map(|pipeline| pipeline.name.to_string())
            .collect()
    }

    #[test]
    fn one_document_many_or_a_list_in_yaml_or_json() {
        let yaml = "name: a\noutbox: o\nconfig: {sink_type: stdout}\n";
        let json = r#"{"name": "b", "outbox": "o", "config": {"sink_type": "null"}}"#;
        assert_eq!(names(yaml), ["a"]);
        assert_eq!(names(json), ["b"]);
        assert_eq!(names(&format!("---\n{yaml}---\n{json}\n---\n")), ["a", "b"]);
        assert_eq!(names(&format!("[{json}]")), ["b"]);
        assert_eq!(
            names("- name: c\n  outbox: o\n  config:\n    sink_type: stdout\n"),
            ["c"]
        );
        let tabs = "{\n\t\"name\": \"t\",\n\t\"outbox\": \"o\",\n\t\"config\": {\"sink_type\": \"null\"}\n}";
        assert_eq!(names(tabs), ["t"]);
    }

    #[test]
    fn values_keep_their_types() {
        let text = "name: a\noutbox: o\nconfig:\n  sink_type: webhook\n  url: https://x.example/\n  batch: true\n  timeout_ms: 500\n  headers: {X-On: \"yes\"}\n";
        let config = &parse(text).unwrap()[0].config;
        assert_eq!(config["batch"], Value::Bool(true));
        assert_eq!(config["timeout_ms"], Value::from(500));
        assert_eq!(config["headers"]["X-On"], Value::from("yes"));
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let text = "\
name: a
outbox: o
config: {sink_type: kafak}
---
name: b
outbox: o
config: {sink_type: file, path: /x, batchsize: 5}
---
- {name: c, outbox: o, config: {sink_type: stdout}}
- {name: c, outbox: o, config: {sink_type: stdout}}
- {nam: d, outbox: o, config: {sink_type: stdout}}
- just words
";
        insta::assert_snapshot!(parse(text).unwrap_err().join("\n"));
    }

    #[test]
    fn a_file_without_a_pipeline_is_no_success() {
        for empty in ["", "---\n---\n", "# nothing\n", "[]"] {
            assert_eq!(
                parse(empty).unwrap_err(),
                ["p.yaml: holds no pipeline"],
                "{empty:?}"
            );
        }
    }

    #[test]
    fn a_syntax_error_has_a_line() {
        let problems =
            parse("name: a\noutbox: o\nconfig: {sink_type: stdout}\n---\nname: [\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].starts_with("p.yaml, document 2: "),
            "{problems:?}"
        );
        assert!(problems[0].contains("line "), "{problems:?}");
    }

    #[test]
    fn a_name_in_two_files_is_found() {
        let one = "name: a\noutbox: o\nconfig: {sink_type: stdout}\n".to_owned();
        let files = [
            ("x.yaml".to_owned(), one.clone()),
            ("y.yaml".to_owned(), one),
        ];
        let error = parse_all(&files).unwrap_err();
        assert_eq!(
            error.to_string(),
            "y.yaml, document 1: key \"name\" is \"a\", as in x.yaml, document 1"
        );
    }
}
