//! Why a pipeline is where it is, and what an agent takes; straight from PostgreSQL.

use tide_catalog::fleet::{Lag, read_view};
use tide_model::{
    AgentName, UnitName,
    drain::Progress,
    explain::{AgentExplanation, Code, PipelineExplanation, explain_agent, explain_pipeline},
};
use time::OffsetDateTime;

use crate::{
    args::ExplainArgs,
    context::Context,
    error::CliError,
    exit::Exit,
    output::{Cell, Style, Table, Tone, humanize::listed, views},
    source::Session,
};

pub(super) async fn run(context: &Context, args: &ExplainArgs) -> Result<Exit, CliError> {
    let settings = &context.settings;
    let mut session = Session::open(settings.server()?, settings.timeout).await?;
    let group = &settings.group;
    let read = async |connection: &mut tide_catalog::PgConnection| {
        Ok(read_view(connection, group, Lag::Skip).await?)
    };
    let view = session.run(read).await?;
    let pipeline: Option<UnitName> = args.name.parse().ok().filter(|_| !args.agent);
    if let Some(explained) = pipeline.and_then(|name| explain_pipeline(&view, &name)) {
        let now = OffsetDateTime::now_utc();
        context
            .screen
            .show(&explained, |style| pipeline_text(style, &explained, now))?;
        return Ok(match explained.progress {
            Progress::Blocked => Exit::Blocked,
            Progress::Progressing | Progress::Waiting | Progress::Done => Exit::Done,
        });
    }
    let agent: Option<AgentName> = args.name.parse().ok();
    if let Some(explained) = agent.and_then(|name| explain_agent(&view, &name)) {
        context
            .screen
            .show(&explained, |style| agent_text(style, &explained))?;
        return Ok(Exit::Done);
    }
    let agents = view.agents.iter().map(|row| row.name.as_str());
    let pipelines = view.pipelines.iter().map(|row| row.name.as_str());
    let known: Vec<&str> = if args.agent {
        agents.collect()
    } else {
        pipelines.chain(agents).collect()
    };
    let what = if args.agent {
        "agent"
    } else {
        "pipeline or agent"
    };
    let advice = "there is nothing yet; start tide-agent, or: tidectl pipeline apply -f FILE";
    Err(CliError::unknown(what, &args.name, &known, advice))
}

fn pipeline_text(style: Style, explained: &PipelineExplanation, now: OffsetDateTime) -> String {
    let dash = |agent: &Option<AgentName>| {
        agent
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let mut facts = vec![
        ("pipeline", explained.pipeline.to_string()),
        ("owner", dash(&explained.owner)),
        ("wanted", dash(&explained.wanted)),
        (
            "progress",
            views::waiting(explained.progress, explained.until, now),
        ),
        ("because", explained.because.clone()),
    ];
    if let Some(hint) = &explained.hint {
        facts.push(("hint", hint.clone()));
    }
    let mut table = Table::new(style, &["AGENT", "VERDICT", "DETAIL"]).with_words_in("DETAIL");
    for verdict in &explained.agents {
        table.row([
            Cell::from(verdict.agent.as_str()),
            Cell::toned(verdict.code.as_str(), tone(verdict.code)),
            Cell::from(verdict.detail.as_str()),
        ]);
    }
    format!("{}\n{}", views::facts(style, &facts), table.print())
}

fn agent_text(style: Style, explained: &AgentExplanation) -> String {
    let names = |units: &[UnitName]| {
        let names: Vec<&str> = units.iter().map(UnitName::as_str).collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            listed(&names)
        }
    };
    let verdict = &explained.verdict;
    let word = style.paint(tone(verdict.code), verdict.code.as_str());
    views::facts(
        style,
        &[
            ("agent", explained.agent.to_string()),
            ("verdict", format!("{word}, {}", verdict.detail)),
            (
                "load",
                format!("{} of {} wanted", explained.load, explained.wanted_load),
            ),
            ("leaving", names(&explained.leaving)),
            ("coming", names(&explained.coming)),
        ],
    )
}

fn tone(code: Code) -> Tone {
    match code {
        Code::Owner | Code::Wanted | Code::Eligible => Tone::Good,
        Code::Standby | Code::Stopped => Tone::Faint,
        Code::Draining | Code::Cordoned | Code::Unreachable => Tone::Uneasy,
        Code::Lost => Tone::Bad,
    }
}
