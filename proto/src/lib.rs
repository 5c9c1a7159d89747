//! The wire contract of Tide: generated messages and services, and their conversions.
//!
//! Generated types stop at [`convert`]: servers and clients speak the model's types everywhere
//! else. The `.proto` files are the reference; their comments say who sets a field and what its
//! absence means.

pub mod convert;

/// Serialized descriptors of every service, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tide_descriptor.bin"));

/// The compiler's output, as the packages nest.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::pedantic,
    reason = "generated code"
)]
mod generated {
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("tide.agent.v1");
        }
    }
    pub mod fleet {
        pub mod v1 {
            tonic::include_proto!("tide.fleet.v1");
        }
    }
    pub mod pipeline {
        pub mod v1 {
            tonic::include_proto!("tide.pipeline.v1");
        }
    }
}

pub use generated::{agent, fleet, pipeline};
