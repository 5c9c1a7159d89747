//! Somebody is killed at every step of a drain. Afterwards the agent is drained or it is untouched;
//! nobody has to look after it, and no message is lost, or comes twice but for the crash of its owner.

use anyhow::{Context as _, Result};
use tide_tests::proof;

use super::scene::{Scene, Step, Through};

/// Nobody of this name is dead.
const NOBODY: &str = "";

/// Comes to the end of a scenario in which nobody who carries messages has died.
async fn judged(mut scene: Scene) -> Result<()> {
    if scene.is_written().await? {
        scene.is_drained().await?;
    } else {
        scene.is_untouched().await?;
    }
    proof::exactly_once(&scene.fleet.settle_and_check().await?)
}

async fn command_killed(step: Step, through: Through) -> Result<()> {
    let mut scene = Scene::set(through).await?;
    scene.drain_up_to(step).await?;
    scene.command().kill9()?;
    scene.said().await?;
    scene.go_on(NOBODY).await?;
    judged(scene).await
}

async fn control_plane_killed(step: Step) -> Result<()> {
    let mut scene = Scene::set(Through::ControlPlane).await?;
    scene.drain_up_to(step).await?;
    let control_plane = scene.control_plane.as_mut().context("there is one")?;
    control_plane.process.kill9()?;
    scene.go_on(NOBODY).await?;
    // What the command says is what is so: done, or that it does not know.
    let (code, words) = scene.said().await?;
    anyhow::ensure!(
        code != Some(0) || scene.is_written().await?,
        "it says that it is done, and it is not: {words}"
    );
    judged(scene).await
}

async fn agent_killed(step: Step, through: Through) -> Result<()> {
    let mut scene = Scene::set(through).await?;
    scene.drain_up_to(step).await?;
    // Nobody watches, so that it is the fleet that finds the end.
    scene.command().kill9()?;
    let leaving = scene.leaving.clone();
    scene.fleet.crash(&leaving).await?;
    scene.go_on(&leaving).await?;
    if scene.is_written().await? {
        scene.is_drained().await?;
        // And it stays empty when it comes back.
        scene.fleet.start_agent(&leaving).await?;
        scene
            .fleet
            .wait_for_sql(
                "the agent to have seen its hold",
                &format!(
                    "SELECT a.acknowledged_generation >= h.generation FROM tide.agents a JOIN tide.holds h ON h.agent = a.name WHERE a.name = '{leaving}'"
                ),
            )
            .await?;
        scene.stays_drained().await?;
    } else {
        scene.fleet.start_agent(&leaving).await?;
        scene.is_untouched().await?;
    }
    proof::clean(&scene.fleet.settle_and_check().await?)
}

#[tokio::test]
async fn the_command_dies_at_any_step() -> Result<()> {
    for step in Step::ALL {
        command_killed(step, Through::ControlPlane)
            .await
            .with_context(|| format!("killed when it was {step:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_command_dies_at_any_step_without_a_control_plane() -> Result<()> {
    for step in Step::ALL {
        command_killed(step, Through::Database)
            .await
            .with_context(|| format!("killed when it was {step:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_control_plane_dies_at_any_step() -> Result<()> {
    for step in Step::ALL {
        control_plane_killed(step)
            .await
            .with_context(|| format!("killed when it was {step:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_agent_dies_at_any_step() -> Result<()> {
    for step in Step::ALL {
        agent_killed(step, Through::ControlPlane)
            .await
            .with_context(|| format!("killed when it was {step:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_agent_dies_at_any_step_without_a_control_plane() -> Result<()> {
    for step in Step::ALL {
        agent_killed(step, Through::Database)
            .await
            .with_context(|| format!("killed when it was {step:?}"))?;
    }
    Ok(())
}
