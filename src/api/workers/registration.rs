//! What a worker declares of itself, checked field by field.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::decode::{self, Int};
use crate::api::params::{Kind, PEER_ID, Param};
use crate::api::text;
use crate::domain::worker::{Capabilities, Location, Tee};
use crate::domain::{Command, WorkerId};
use crate::submission::{Fault, FieldError, NAME, integer, invalid, names, names_schema, number, small};

/// What a worker declares.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The worker's peer id: its ed25519 key.
    #[schema(schema_with = peer_id_schema)]
    id: String,
    #[serde(default, deserialize_with = "decode::object")]
    #[schema(required, nullable = false)]
    capabilities: Option<CapabilitiesIn>,
    #[serde(default, deserialize_with = "decode::object")]
    location: Option<LocationIn>,
    #[schema(max_length = 64)]
    version: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CapabilitiesIn {
    #[schema(value_type = u32, minimum = 1, maximum = 65536)]
    cpu_cores: Int,
    #[schema(minimum = 0, maximum = 1048576)]
    ram_gb: Option<f64>,
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1024)]
    gpu_count: Option<Int>,
    #[schema(max_length = 64)]
    gpu_model: Option<String>,
    #[schema(minimum = 0, maximum = 1048576)]
    gpu_memory_gb: Option<f64>,
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 1073741824)]
    storage_gb: Option<Int>,
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 1073741824)]
    network_bandwidth_mbps: Option<Int>,
    /// The job types it runs.
    #[schema(schema_with = job_types_schema)]
    job_types: Vec<String>,
    #[schema(schema_with = names_schema)]
    frameworks: Option<Vec<String>>,
    #[schema(schema_with = names_schema)]
    accelerators: Option<Vec<String>>,
    /// Of references to inputs that it fetches, such as https.
    #[schema(schema_with = names_schema)]
    input_schemes: Option<Vec<String>>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 4096, default = 1)]
    max_parallel_jobs: Option<Int>,
    #[schema(max_length = 64)]
    cuda_compute_capability: Option<String>,
    /// Trusted execution: none, cpu or full.
    #[schema(pattern = "^(none|cpu|full)$", default = "none")]
    tee: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LocationIn {
    #[schema(max_length = 64)]
    region: Option<String>,
    #[schema(max_length = 64)]
    country: Option<String>,
    #[schema(minimum = -90, maximum = 90)]
    latitude: Option<f64>,
    #[schema(minimum = -180, maximum = 180)]
    longitude: Option<f64>,
}

impl Registration {
    /// Checks every field.
    pub fn check(self) -> Result<(WorkerId, Command), FieldError> {
        let worker: WorkerId =
            self.id.parse().map_err(|_| invalid("id", "id must be a peer id (12D3KooW…)".to_owned()))?;
        let capabilities = self.capabilities.ok_or_else(|| FieldError {
            fault: Fault::Missing,
            field: "capabilities",
            detail: "capabilities is required".to_owned(),
            hint: None,
        })?;
        let command = Command::RegisterWorker {
            worker,
            capabilities: Box::new(capabilities.check()?),
            location: self.location.map_or_else(|| Ok(Location::default()), LocationIn::check)?,
            version: short("version", self.version, 64)?,
        };
        Ok((worker, command))
    }
}

impl CapabilitiesIn {
    fn check(self) -> Result<Capabilities, FieldError> {
        let gb = 0.0..=1_048_576.0;
        let large = 0..=1 << 30;
        let cpu_cores = integer("capabilities.cpu_cores", Some(self.cpu_cores), 1..=65_536, 1)?;
        let parallel = integer("capabilities.max_parallel_jobs", self.max_parallel_jobs, 1..=4_096, 1)?;
        Ok(Capabilities {
            cpu_cores: small(cpu_cores),
            ram_mb: text::mb(number("capabilities.ram_gb", self.ram_gb, gb.clone(), 0.0)?),
            gpu_count: small(integer("capabilities.gpu_count", self.gpu_count, 0..=1_024, 0)?),
            gpu_model: short("capabilities.gpu_model", self.gpu_model, 64)?,
            gpu_memory_mb: text::mb(number("capabilities.gpu_memory_gb", self.gpu_memory_gb, gb, 0.0)?),
            storage_gb: integer("capabilities.storage_gb", self.storage_gb, large.clone(), 0)?,
            network_bandwidth_mbps: integer(
                "capabilities.network_bandwidth_mbps",
                self.network_bandwidth_mbps,
                large,
                0,
            )?,
            job_types: job_types(self.job_types)?,
            frameworks: names("capabilities.frameworks", self.frameworks, 32)?,
            accelerators: names("capabilities.accelerators", self.accelerators, 32)?,
            max_parallel_jobs: small(parallel),
            cuda_compute_capability: short("capabilities.cuda_compute_capability", self.cuda_compute_capability, 64)?,
            tee: tee(self.tee.as_deref())?,
            input_schemes: names("capabilities.input_schemes", self.input_schemes, 8)?,
            // Who is paid is said by the worker's own key, over the mesh; what it said stays.
            payout_address: None,
        })
    }
}

impl LocationIn {
    fn check(self) -> Result<Location, FieldError> {
        let degrees = |field, value: Option<f64>, most: f64| -> Result<Option<i32>, FieldError> {
            let Some(value) = value else { return Ok(None) };
            number(field, Some(value), -most..=most, 0.0).map(|value| Some(micro(value)))
        };
        Ok(Location {
            region: short("location.region", self.region, 64)?,
            country: short("location.country", self.country, 64)?,
            latitude_e6: degrees("location.latitude", self.latitude, 90.0)?,
            longitude_e6: degrees("location.longitude", self.longitude, 180.0)?,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "degrees are at most 180")]
fn micro(degrees: f64) -> i32 {
    (degrees * 1_000_000.0).round() as i32
}

fn job_types(kinds: Vec<String>) -> Result<Vec<String>, FieldError> {
    let kinds = names("capabilities.job_types", Some(kinds), 64)?;
    let pattern = Param::new("job_types", Kind::Name, "");
    match kinds.iter().position(|kind| pattern.check(kind).is_err()) {
        None => Ok(kinds),
        Some(index) => {
            let wanted = "a lower-case letter, then at most 63 of a–z, 0–9 and _";
            let detail = format!("capabilities.job_types[{index}] must be {wanted}");
            Err(invalid("capabilities.job_types", detail))
        }
    }
}

fn tee(tee: Option<&str>) -> Result<Tee, FieldError> {
    match tee {
        None | Some("none") => Ok(Tee::None),
        Some("cpu") => Ok(Tee::Cpu),
        Some("full") => Ok(Tee::Full),
        Some(_) => Err(invalid("capabilities.tee", "capabilities.tee must be none, cpu or full".to_owned())),
    }
}

fn short(field: &'static str, value: Option<String>, most: usize) -> Result<String, FieldError> {
    let value = value.unwrap_or_default();
    let chars = value.chars().count();
    if chars <= most {
        return Ok(value);
    }
    Err(invalid(field, format!("{field} must have at most {most} characters, not {chars}")))
}

fn job_types_schema() -> utoipa::openapi::schema::Array {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some(NAME));
    ArrayBuilder::new().items(name).max_items(Some(64)).build()
}

fn peer_id_schema() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{ObjectBuilder, Type};
    let example = crate::domain::PeerId([7; 32]).to_string();
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(PEER_ID)).examples([example]).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::Problem;
    use crate::domain::PeerId;

    fn check(fields: &str) -> Result<Command, Problem> {
        let id = PeerId([7; 32]);
        let body = format!(r#"{{"id":"{id}",{fields}}}"#);
        Ok(decode::json::<Registration>(body.as_bytes())?.check()?.1)
    }

    #[test]
    fn a_worker_declares_itself() {
        let body = r#""capabilities":{"cpu_cores":8,"ram_gb":1.5,"job_types":["sha256"],"tee":"cpu"},"location":{"region":"eu","latitude":52.5}"#;
        let Command::RegisterWorker { worker, capabilities, location, .. } = check(body).unwrap() else {
            panic!("another command");
        };
        assert_eq!(worker, PeerId([7; 32]));
        assert_eq!((capabilities.cpu_cores, capabilities.ram_mb, capabilities.tee), (8, 1_536, Tee::Cpu));
        assert_eq!(capabilities.max_parallel_jobs, 1);
        assert_eq!((location.region.as_str(), location.latitude_e6), ("eu", Some(52_500_000)));
    }

    #[test]
    fn faults_name_the_field() {
        let cases = [
            (r#""version":"1""#, "capabilities"),
            (r#""capabilities":{"cpu_cores":0,"job_types":[]}"#, "capabilities.cpu_cores"),
            (r#""capabilities":{"cpu_cores":1}"#, "capabilities.job_types"),
            (r#""capabilities":{"cpu_cores":1,"job_types":["A"]}"#, "capabilities.job_types"),
            (r#""capabilities":{"cpu_cores":1,"job_types":[],"gpu":1}"#, "capabilities.gpu"),
            (r#""capabilities":{"cpu_cores":1,"job_types":[],"tee":"sgx"}"#, "capabilities.tee"),
            (r#""capabilities":{"cpu_cores":1,"job_types":[]},"location":{"latitude":91}"#, "location.latitude"),
        ];
        for (body, field) in cases {
            let problem = check(body).expect_err(body);
            assert_eq!((problem.code.status(), problem.field.as_deref()), (422, Some(field)), "{body}");
        }
        let problem = decode::json::<Registration>(br#"{"id":"x","capabilities":{"cpu_cores":1,"job_types":[]}}"#);
        assert_eq!(
            problem.ok().and_then(|registration| registration.check().err()).map(|error| error.field),
            Some("id")
        );
    }
}
