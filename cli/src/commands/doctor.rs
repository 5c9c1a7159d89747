//! Examines everything that Tide depends on, and says what to do about it.

use crate::{
    args::DoctorArgs,
    context::Context,
    doctor::{Finding, Status, collect, judge},
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table, Tone, humanize::counted},
};

pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<Exit, CliError> {
    let findings = judge(&collect(context, args.part).await?);
    context
        .screen
        .show(&findings, |style| text(style, &findings))?;
    let worst = findings.iter().map(|finding| finding.status).max();
    Ok(match worst {
        Some(Status::Fail) => Exit::Blocked,
        Some(Status::Ok | Status::Warn) | None => Exit::Done,
    })
}

fn text(style: Style, findings: &[Finding]) -> String {
    let mut table = Table::new(style, &["CHECK", "STATUS", "DETAIL"]).with_words_in("DETAIL");
    for finding in findings {
        let status = Cell::toned(finding.status.as_str(), tone(finding.status));
        let detail = Cell::from(finding.detail.as_str());
        table.row([Cell::from(finding.check), status, detail]);
        if let Some(hint) = &finding.hint {
            let hint = Cell::toned(format!("hint: {hint}"), Tone::Strong);
            table.row([Cell::from(""), Cell::from(""), hint]);
        }
    }
    let count = |status| findings.iter().filter(|one| one.status == status).count();
    format!(
        "{}\n{}, {}, {}\n",
        table.print(),
        counted(findings.len(), "check"),
        counted(count(Status::Warn), "warning"),
        counted(count(Status::Fail), "failure"),
    )
}

fn tone(status: Status) -> Tone {
    match status {
        Status::Ok => Tone::Good,
        Status::Warn => Tone::Uneasy,
        Status::Fail => Tone::Bad,
    }
}
