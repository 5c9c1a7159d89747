//! The fleet as the control plane knows it, over gRPC. Wire types end here.

use std::time::Duration;

use tide_catalog::holds::Breaking;
use tide_model::{
    AgentName, OperationId, UnitName,
    operation::{Move, Operation},
};
use tide_proto::{
    convert::from_duration,
    fleet::v1::{
        self as wire, fleet_service_client::FleetServiceClient,
        hold_service_client::HoldServiceClient, operation_service_client::OperationServiceClient,
    },
};
use tokio::time::timeout;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    Drain, Intent, OperationView, OperationWatch, StartedDrain, Stranding,
    reads::Cited,
    refusal,
    rpc::{answer, converted, label, present, silent},
};
use crate::{
    access::{Access, Bearer},
    error::CliError,
};

/// The largest page that servers give.
pub(super) const PAGE: u32 = 1_000;
/// A fleet of 1,000 agents and 100,000 pipelines is some 20 MB in one message.
const LARGEST_MESSAGE: usize = 256 << 20;
/// A stream that stays silent is asked for a sign of life this often, and given up this long
/// after one that was not answered.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A control plane.
#[derive(Debug)]
pub struct ControlPlane {
    pub(super) label: String,
    pub(super) deadline: Duration,
    pub(super) holds: Box<HoldServiceClient<Asker>>,
    pub(super) fleet: FleetServiceClient<Asker>,
    pub(super) operations: OperationServiceClient<Asker>,
    /// Of which view the newest list was.
    pub(super) cited: Option<Cited>,
}

/// Says with every call who asks.
pub(super) type Asker = InterceptedService<Channel, Bearer>;

impl ControlPlane {
    /// Connects within `deadline`, which also bounds every later answer.
    pub async fn connect(
        address: &Uri,
        access: &Access,
        deadline: Duration,
    ) -> Result<Self, CliError> {
        let label = label(address);
        let unreachable = |error: tonic::transport::Error| refusal::on_the_way(&label, &error);
        let bearer = access.bearer(address)?;
        let (every, patience) = KEEP_ALIVE;
        let mut endpoint = Endpoint::from(address.clone())
            .connect_timeout(deadline)
            .http2_keep_alive_interval(every)
            .keep_alive_timeout(patience);
        if address.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(access.tls()?).map_err(unreachable)?;
        }
        let channel = match timeout(deadline, endpoint.connect()).await {
            Ok(channel) => channel.map_err(unreachable)?,
            Err(_) => return Err(silent(&label, deadline)),
        };
        let fleet = FleetServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let holds = HoldServiceClient::with_interceptor(channel.clone(), bearer.clone());
        let operations = OperationServiceClient::with_interceptor(channel, bearer);
        Ok(Self {
            fleet: fleet.max_decoding_message_size(LARGEST_MESSAGE),
            holds: Box::new(holds.max_decoding_message_size(LARGEST_MESSAGE)),
            operations: operations.max_decoding_message_size(LARGEST_MESSAGE),
            label,
            deadline,
            cited: None,
        })
    }

    /// Scheme, host and port.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The same control plane with another patience.
    #[must_use]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// A small question, to learn whether this one answers questions at all: a standby does not.
    pub(super) async fn probe(&mut self) -> Result<(), CliError> {
        let request = wire::ListAgentsRequest {
            page_size: 1,
            ..Default::default()
        };
        let call = self.fleet.list_agents(request);
        answer(&self.label, self.deadline, call).await.map(drop)
    }

    pub(super) async fn drain_plan(
        &mut self,
        drain: &Drain,
        intent: &Intent,
    ) -> Result<Vec<Move>, CliError> {
        let call = self.operations.drain(wire::DrainRequest {
            validate_only: true,
            ..drain_request(drain, intent)
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        converted(answered.plan)
    }

    pub(super) async fn drain(
        &mut self,
        drain: &Drain,
        intent: &Intent,
    ) -> Result<StartedDrain, CliError> {
        let call = self.operations.drain(drain_request(drain, intent));
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(StartedDrain {
            operation: present("operation", answered.operation)?.try_into()?,
            plan: converted(answered.plan)?,
        })
    }

    pub(super) async fn undrain(
        &mut self,
        agent: &AgentName,
        breaking: Breaking,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        let call = self.operations.undrain(wire::UndrainRequest {
            agent: agent.to_string(),
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            breaking: breaking == Breaking::Allowed,
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("operation", answered.operation)?.try_into()?)
    }

    pub(super) async fn move_pipeline(
        &mut self,
        pipeline: &UnitName,
        to: &AgentName,
        intent: &Intent,
    ) -> Result<Operation, CliError> {
        let call = self.operations.r#move(wire::MoveRequest {
            pipeline: pipeline.to_string(),
            to: to.to_string(),
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            deadline: intent.deadline.map(from_duration),
        });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("operation", answered.operation)?.try_into()?)
    }

    pub(super) async fn operation(&mut self, id: OperationId) -> Result<OperationView, CliError> {
        let call = self
            .operations
            .get_operation(wire::GetOperationRequest { id: id.to_string() });
        let answered = answer(&self.label, self.deadline, call).await?;
        operation_view(answered.operation, answered.steps)
    }

    pub(super) async fn operation_watch(
        &mut self,
        id: OperationId,
    ) -> Result<OperationWatch<'_>, CliError> {
        let request = wire::WatchOperationRequest { id: id.to_string() };
        let call = self.operations.watch_operation(request);
        let stream = answer(&self.label, self.deadline, call).await?;
        Ok(OperationWatch::stream(stream, &self.label))
    }

    pub(super) async fn operations(&mut self, limit: u32) -> Result<Vec<Operation>, CliError> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let missing = limit - found.len() as u32;
            let call = self
                .operations
                .list_operations(wire::ListOperationsRequest {
                    page_size: missing.min(PAGE),
                    page_token,
                });
            let page = answer(&self.label, self.deadline, call).await?;
            found.extend(page.operations.into_iter().take(missing as usize));
            page_token = page.next_page_token;
            if page_token.is_empty() || found.len() == limit as usize {
                return converted(found);
            }
        }
    }

    pub(super) async fn operation_cancel(
        &mut self,
        id: OperationId,
        actor: &str,
    ) -> Result<Operation, CliError> {
        let call = self
            .operations
            .cancel_operation(wire::CancelOperationRequest {
                id: id.to_string(),
                actor: actor.to_owned(),
            });
        let answered = answer(&self.label, self.deadline, call).await?;
        Ok(present("operation", answered.operation)?.try_into()?)
    }
}

fn drain_request(drain: &Drain, intent: &Intent) -> wire::DrainRequest {
    wire::DrainRequest {
        agent: drain.agent.to_string(),
        actor: intent.actor.clone(),
        reason: intent.reason.clone(),
        deadline: intent.deadline.map(from_duration),
        force: drain.stranding == Stranding::Accept,
        validate_only: false,
        terms: Some(drain.terms.into()),
        together_with: drain
            .together_with
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// Reads what the two calls that show an operation answer.
pub(super) fn operation_view(
    operation: Option<wire::Operation>,
    steps: Vec<wire::OperationStep>,
) -> Result<OperationView, CliError> {
    Ok(OperationView {
        operation: present("operation", operation)?.try_into()?,
        steps: converted(steps)?,
    })
}
