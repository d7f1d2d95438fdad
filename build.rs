//! Compiles the schemas in `proto/` with protox, so that no system `protoc` is needed.
//!
//! Also lists what `proto/kafka.proto` declares, line by line: a test compares
//! that with what was released.

use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/job.proto", "proto/mesh.proto", "proto/kafka.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let mut declared = String::new();
    for file in descriptors.file.iter().filter(|file| file.package() == "ciro.kafka.v1") {
        for message in &file.message_type {
            for field in &message.field {
                let label = if field.proto3_optional() { "optional" } else { field.label().as_str_name() };
                let label = label.trim_start_matches("LABEL_").to_lowercase();
                // Without a label of its own, proto3 calls a field optional as well: presence is what tells them apart.
                let label = if label == "optional" && !field.proto3_optional() { "plain" } else { &label };
                let kind = match field.type_name() {
                    "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
                    name => name.trim_start_matches('.').to_owned(),
                };
                writeln!(declared, "{}.{} = {} {label} {kind}", message.name(), field.name(), field.number())?;
            }
        }
        for choice in &file.enum_type {
            for value in &choice.value {
                writeln!(declared, "{}.{} = {}", choice.name(), value.name(), value.number())?;
            }
        }
    }
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("kafka.fields"), declared)?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}
