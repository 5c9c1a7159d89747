//! What of `OperationService` is about evening out the load with nobody asking: paused, resumed,
//! looked at.

use tide_proto::fleet::v1::{
    GetRebalanceStatusResponse, PauseRebalanceRequest, PauseRebalanceResponse,
    ResumeRebalanceRequest, ResumeRebalanceResponse,
};
use tonic::{Request, Response, Status};

use super::{
    operation::OperationApi,
    request::{actor, asking, deadline},
    status::refused,
};
use crate::audit::Command;

impl OperationApi {
    pub(super) async fn rebalance_paused(
        &self,
        request: Request<PauseRebalanceRequest>,
    ) -> Result<Response<PauseRebalanceResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "PauseRebalance",
            subject: "fleet".to_owned(),
            reason: request.reason.clone(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let actor = actor(&asking.caller, &request.actor, request.reason)?;
            let lasting = deadline(request.lasting)?;
            let paused = self.commands.rebalance_pause(&actor, lasting).await;
            let response = PauseRebalanceResponse {
                pause: Some((&paused.map_err(refused)?).into()),
            };
            Ok((response, None))
        };
        self.audit.recorded(&command, done).await
    }

    pub(super) async fn rebalance_resumed(
        &self,
        request: Request<ResumeRebalanceRequest>,
    ) -> Result<Response<ResumeRebalanceResponse>, Status> {
        let asking = asking(&request);
        let request = request.into_inner();
        let command = Command {
            method: "ResumeRebalance",
            subject: "fleet".to_owned(),
            reason: String::new(),
            claimed: request.actor.clone(),
            asking: asking.clone(),
        };
        let done = async {
            let actor = actor(&asking.caller, &request.actor, String::new())?;
            let breaking = request.breaking.into();
            let resumed = self.commands.rebalance_resume(&actor.name, breaking).await;
            let ended = resumed.map_err(refused)?;
            Ok((ResumeRebalanceResponse { ended }, None))
        };
        self.audit.recorded(&command, done).await
    }

    pub(super) async fn rebalance_stands(
        &self,
    ) -> Result<Response<GetRebalanceStatusResponse>, Status> {
        let status = self.commands.rebalance_status().await.map_err(refused)?;
        Ok(Response::new((&status).into()))
    }
}
