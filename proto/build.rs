//! Compiles the protocol files without `protoc`, so that a plain `cargo build` is enough.

use std::{env, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 5] = [
    "tide/agent/v1/agent_service.proto",
    "tide/fleet/v1/fleet_service.proto",
    "tide/fleet/v1/hold_service.proto",
    "tide/fleet/v1/operation_service.proto",
    "tide/pipeline/v1/pipeline.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    fs::write(out.join("tide_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-changed=tide/fleet/v1/fleet.proto");
    Ok(())
}
