//! What each method needs. A method that is not here is served to nobody.

use super::Role;

/// One method of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// As in the path: package and service.
    pub(crate) service: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
}

/// What a caller must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Not even a name: load balancers have none.
    Nothing,
    /// A role, for looking.
    Reading(Role),
    /// A role, for what changes something and is recorded.
    Command(Role),
}

const AGENT: &str = "tide.agent.v1.AgentService";
const FLEET: &str = "tide.fleet.v1.FleetService";
const OPERATION: &str = "tide.fleet.v1.OperationService";
const HOLD: &str = "tide.fleet.v1.HoldService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

const fn row(service: &'static str, name: &'static str, needs: Needs) -> Method {
    Method {
        service,
        name,
        needs,
    }
}

const LOOK: Needs = Needs::Reading(Role::Viewer);
const CHANGE: Needs = Needs::Command(Role::Operator);

/// Every method that is served.
pub(crate) const METHODS: [Method; 28] = [
    row(AGENT, "Report", Needs::Reading(Role::Agent)),
    row(FLEET, "GetFleet", LOOK),
    row(FLEET, "ListAgents", LOOK),
    row(FLEET, "GetAgent", LOOK),
    row(FLEET, "ListPipelines", LOOK),
    row(FLEET, "GetPipeline", LOOK),
    row(FLEET, "WatchFleet", LOOK),
    row(OPERATION, "Drain", CHANGE),
    row(OPERATION, "Undrain", CHANGE),
    row(HOLD, "SetHold", CHANGE),
    row(HOLD, "LiftHold", CHANGE),
    row(HOLD, "RemoveHold", CHANGE),
    row(HOLD, "ListHolds", LOOK),
    row(OPERATION, "Move", CHANGE),
    row(OPERATION, "PlanRebalance", LOOK),
    row(OPERATION, "GetRebalancePlan", LOOK),
    row(OPERATION, "ApplyRebalance", CHANGE),
    row(OPERATION, "PauseRebalance", CHANGE),
    row(OPERATION, "ResumeRebalance", CHANGE),
    row(OPERATION, "GetRebalanceStatus", LOOK),
    row(OPERATION, "GetOperation", LOOK),
    row(OPERATION, "ListOperations", LOOK),
    row(OPERATION, "WatchOperation", LOOK),
    row(OPERATION, "CancelOperation", CHANGE),
    row(HEALTH, "Check", Needs::Nothing),
    row(HEALTH, "Watch", Needs::Nothing),
    row(REFLECTION, "ServerReflectionInfo", LOOK),
    row(REFLECTION_ALPHA, "ServerReflectionInfo", LOOK),
];

impl Method {
    /// The method that a path names.
    pub(crate) fn of(path: &str) -> Option<&'static Self> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        METHODS
            .iter()
            .find(|method| method.service == service && method.name == name)
    }

    /// Whether it is Tide's own, as opposed to health and reflection.
    pub(crate) fn is_ours(&self) -> bool {
        self.service.starts_with("tide.")
    }

    /// The names of Tide's own. Only these become labels, whatever a client asks for.
    pub(crate) fn our_names() -> Vec<&'static str> {
        let ours = METHODS.iter().filter(|method| method.is_ours());
        ours.map(|method| method.name).collect()
    }

    /// Whether a stream of an agent is what it opens.
    pub(crate) fn is_agents(&self) -> bool {
        self.needs == Needs::Reading(Role::Agent)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn declared(descriptors: &[u8]) -> BTreeSet<(String, String)> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut methods = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    methods.insert((full.clone(), method.name().to_owned()));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_of_every_service_has_its_row_and_every_row_its_method() {
        let mut served = declared(tide_proto::DESCRIPTORS);
        served.extend(declared(tonic_health::pb::FILE_DESCRIPTOR_SET));
        served.extend(declared(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET));
        served.extend(declared(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET));
        let rows: BTreeSet<(String, String)> = METHODS
            .iter()
            .map(|row| (row.service.to_owned(), row.name.to_owned()))
            .collect();
        assert_eq!(rows.len(), METHODS.len(), "a row comes twice");
        let missing: Vec<_> = served.difference(&rows).collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
        let gone: Vec<_> = rows.difference(&served).collect();
        assert!(gone.is_empty(), "only in the table: {gone:?}");
    }

    #[test]
    fn whatever_changes_something_needs_more_than_looking() {
        for method in METHODS {
            let verb = ["Get", "List", "Watch", "Plan", "Check", "Server", "Report"];
            let looks = verb.iter().any(|verb| method.name.starts_with(verb));
            let command = matches!(method.needs, Needs::Command(role) if role >= Role::Operator);
            assert_eq!(command, !looks, "{method:?}");
        }
    }

    #[test]
    fn a_path_names_one_method_or_none() {
        let drain = Method::of("/tide.fleet.v1.OperationService/Drain").unwrap();
        assert_eq!((drain.name, drain.needs), ("Drain", CHANGE));
        for path in [
            "/tide.fleet.v1.OperationService/Nonsense",
            "/grpc.health.v1.Health/Drain",
            "nonsense",
            "/",
        ] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }
}
