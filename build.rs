//! Compiles the protobuf files with protox, which needs no protoc on the machine.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let api = ["types", "collections", "records", "cluster", "snapshots"];
    let internal = ["entry", "peer", "bulk"];
    let files: Vec<String> = api
        .iter()
        .map(|name| format!("proto/ratoon/v1/{name}.proto"))
        .chain(internal.iter().map(|name| format!("proto/ratoon/internal/v1/{name}.proto")))
        .collect();
    let descriptors = protox::compile(&files, ["proto"])?;
    // Reflection serves the public API only.
    let public = protox::compile(&files[..api.len()], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("api_descriptors.bin"), prost::Message::encode_to_vec(&public))?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::codec::BoundedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
