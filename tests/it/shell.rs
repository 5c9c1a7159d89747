//! What a shell is told about `tidectl`: completions and manual pages.

use anyhow::{Result, ensure};
use tide_tests::{SOON, command::run};

#[tokio::test]
async fn every_shell_has_its_script_and_every_command_its_page() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = run("tidectl", &["completion", shell], &[], SOON).await?;
        ensure!(script.code == Some(0), "{script:?}");
        ensure!(script.stdout.contains("undrain"), "{shell}: {script:?}");
    }
    let page = run("tidectl", &["man"], &[], SOON).await?;
    ensure!(page.code == Some(0), "{page:?}");
    ensure!(page.stdout.contains(".TH tidectl 1"), "{page:?}");
    let folder = tempfile::tempdir()?;
    let pages = folder.path().join("man1");
    let written = run(
        "tidectl",
        &["man", "--directory", &pages.display().to_string()],
        &[],
        SOON,
    )
    .await?;
    ensure!(written.code == Some(0), "{written:?}");
    for page in ["tidectl.1", "tidectl-drain.1", "tidectl-pipeline-apply.1"] {
        let text = std::fs::read_to_string(pages.join(page))?;
        ensure!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_named() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().display().to_string();
    let refused = run("tidectl", &["man", "--directory", &path], &[], SOON).await?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains(&path), "{refused:?}");
    Ok(())
}
