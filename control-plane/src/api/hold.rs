//! `HoldService`: named reasons to do less.

use tide_catalog::holds::{HoldTerms, NewHold};
use tide_model::{HoldId, fleet::HoldKind, hold::HoldTarget};
use tide_proto::{
    convert::hold_target,
    fleet::v1::{
        self as wire, LiftHoldRequest, LiftHoldResponse, ListHoldsRequest, ListHoldsResponse,
        RemoveHoldRequest, RemoveHoldResponse, SetHoldRequest, SetHoldResponse,
        hold_service_server::HoldService,
    },
};
use tonic::{Request, Response, Status};

use super::{
    request::{actor, asking, deadline, parse},
    status::{invalid, invalid_field, refused},
};
use crate::{
    audit::{Audit, Command},
    operations::commands::Commands,
};

/// A name longer than this is no name.
const LONGEST_NAME: usize = 200;

/// Adapter over the commands.
pub(super) struct HoldApi {
    commands: Commands,
    audit: Audit,
}

impl HoldApi {
    pub(super) fn new(commands: Commands, audit: Audit) -> Self {
        Self { commands, audit }
    }
}

#[tonic::async_trait]
impl HoldService for HoldApi {
    async fn set_hold(
        &self,
        request: Request<SetHoldRequest>,
    ) -> Result<Response<SetHoldResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "SetHold",
            subject: request.target.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let hold = new_hold(&request)?;
            let terms = HoldTerms {
                name: name(&request.name)?,
                lasting: deadline(request.lasting)?,
            };
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let set = self.commands.hold_set(&hold, &terms, &actor).await;
            let hold = Some((&set.map_err(refused)?).into());
            Ok((SetHoldResponse { hold }, None))
        };
        self.audit.recorded(&command, done).await
    }

    async fn lift_hold(
        &self,
        request: Request<LiftHoldRequest>,
    ) -> Result<Response<LiftHoldResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "LiftHold",
            subject: request.target.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let kind = kind(request.kind())?;
            if kind == HoldKind::Drain {
                return Err(invalid("kind", "is a drain, which Undrain ends"));
            }
            let target = target(kind, &request.target)?;
            let breaking = request.breaking.into();
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let lifted = self.commands.hold_lift(kind, &target, breaking, &actor);
            let ended = lifted.await.map_err(refused)?;
            Ok((LiftHoldResponse { ended }, None))
        };
        self.audit.recorded(&command, done).await
    }

    async fn remove_hold(
        &self,
        request: Request<RemoveHoldRequest>,
    ) -> Result<Response<RemoveHoldResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "RemoveHold",
            subject: request.id.clone(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let id: HoldId = parse("id", &request.id)?;
            let breaking = request.breaking.into();
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let removed = self.commands.hold_remove(id, breaking, &actor).await;
            let hold = Some((&removed.map_err(refused)?).into());
            Ok((RemoveHoldResponse { hold }, None))
        };
        self.audit.recorded(&command, done).await
    }

    async fn list_holds(
        &self,
        _request: Request<ListHoldsRequest>,
    ) -> Result<Response<ListHoldsResponse>, Status> {
        let holds = self.commands.hold_list().await.map_err(refused)?;
        Ok(Response::new(ListHoldsResponse {
            holds: holds.iter().map(Into::into).collect(),
        }))
    }
}

fn kind(kind: wire::HoldKind) -> Result<HoldKind, Status> {
    kind.try_into().map_err(|error| invalid_field(&error))
}

fn target(kind: HoldKind, name: &str) -> Result<HoldTarget, Status> {
    hold_target(kind, name).map_err(|error| invalid_field(&error))
}

fn new_hold(request: &SetHoldRequest) -> Result<NewHold, Status> {
    let kind = kind(request.kind())?;
    if kind != HoldKind::Pin && !request.to.is_empty() {
        return Err(invalid("to", "belongs to a pin"));
    }
    Ok(match (kind, target(kind, &request.target)?) {
        (HoldKind::Cordon, HoldTarget::Agent(agent)) => NewHold::Cordon(agent),
        (HoldKind::Pin, HoldTarget::Pipeline(pipeline)) => {
            NewHold::Pin(pipeline, parse("to", &request.to)?)
        }
        (HoldKind::Freeze, HoldTarget::Pipeline(pipeline)) => NewHold::Freeze(pipeline),
        (HoldKind::Pause, HoldTarget::Pipeline(pipeline)) => NewHold::Pause(pipeline),
        _ => return Err(invalid("kind", "is a drain, which Drain begins")),
    })
}

fn name(name: &str) -> Result<Option<String>, Status> {
    if name.len() > LONGEST_NAME || name.contains('\0') {
        return Err(invalid(
            "name",
            format_args!("is no name of {LONGEST_NAME} bytes at most"),
        ));
    }
    Ok((!name.is_empty()).then(|| name.to_owned()))
}
