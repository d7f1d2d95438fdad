//! Field by field between the schemas and the domain.

use bytes::Bytes;

use super::proto::job::v1 as proto;
use crate::domain::job::Requirements;
use crate::domain::worker::{Capabilities, Location, Tee};
use crate::domain::{Digest, JobId, Price};

/// Longest text and longest list accepted in what a worker declares.
const TEXT_MAX: usize = 256;
const LIST_MAX: usize = 64;

/// A job id from its 16 bytes.
pub fn job_id(bytes: &[u8]) -> Option<JobId> {
    bytes.try_into().ok().map(JobId)
}

/// A digest from its 32 bytes.
pub fn digest(bytes: &[u8]) -> Option<Digest> {
    bytes.try_into().ok().map(Digest)
}

/// Big endian without leading zero bytes.
pub fn price_to_bytes(price: Price) -> Bytes {
    let all = price.0.to_be_bytes();
    let zeros = price.0.leading_zeros() as usize / 8;
    Bytes::copy_from_slice(&all[zeros..])
}

pub fn price_from_bytes(bytes: &[u8]) -> Option<Price> {
    let mut all = [0u8; 16];
    let start = all.len().checked_sub(bytes.len())?;
    all[start..].copy_from_slice(bytes);
    Some(Price(u128::from_be_bytes(all)))
}

pub fn requirements_to_proto(from: &Requirements) -> proto::Requirements {
    proto::Requirements {
        min_cpu_cores: from.min_cpu_cores,
        min_ram_mb: from.min_ram_mb,
        min_gpu_memory_mb: from.min_gpu_memory_mb,
        required_frameworks: from.required_frameworks.clone(),
        preferred_regions: from.preferred_regions.clone(),
        max_network_latency_ms: from.max_network_latency_ms,
        max_worker_load_permille: from.max_worker_load_permille,
        min_reputation: from.min_reputation,
    }
}

pub fn capabilities_to_proto(from: &Capabilities) -> proto::Capabilities {
    let tee = match from.tee {
        Tee::None => proto::Tee::None,
        Tee::Cpu => proto::Tee::Cpu,
        Tee::Full => proto::Tee::Full,
    };
    proto::Capabilities {
        cpu_cores: from.cpu_cores,
        ram_mb: from.ram_mb,
        gpu_count: from.gpu_count,
        gpu_model: from.gpu_model.clone(),
        gpu_memory_mb: from.gpu_memory_mb,
        storage_gb: from.storage_gb,
        network_bandwidth_mbps: from.network_bandwidth_mbps,
        job_types: from.job_types.clone(),
        frameworks: from.frameworks.clone(),
        accelerators: from.accelerators.clone(),
        max_parallel_jobs: from.max_parallel_jobs,
        cuda_compute_capability: from.cuda_compute_capability.clone(),
        tee: tee.into(),
        input_schemes: from.input_schemes.clone(),
        payout_address: from.payout_address.map(|address| address.to_string()).unwrap_or_default(),
    }
}

/// `None` if a text or a list is longer than anyone needs, or the address is none.
pub fn capabilities_from_proto(from: proto::Capabilities) -> Option<Capabilities> {
    let tee = match from.tee() {
        proto::Tee::None => Tee::None,
        proto::Tee::Cpu => Tee::Cpu,
        proto::Tee::Full => Tee::Full,
    };
    let texts = [&from.gpu_model, &from.cuda_compute_capability];
    let lists = [&from.job_types, &from.frameworks, &from.accelerators, &from.input_schemes];
    let sane = texts.iter().all(|text| text.len() <= TEXT_MAX) && lists.iter().all(|list| sane_list(list));
    let payout_address = match from.payout_address.as_str() {
        "" => None,
        address => Some(address.parse().ok()?),
    };
    sane.then_some(Capabilities {
        cpu_cores: from.cpu_cores,
        ram_mb: from.ram_mb,
        gpu_count: from.gpu_count,
        gpu_model: from.gpu_model,
        gpu_memory_mb: from.gpu_memory_mb,
        storage_gb: from.storage_gb,
        network_bandwidth_mbps: from.network_bandwidth_mbps,
        job_types: from.job_types,
        frameworks: from.frameworks,
        accelerators: from.accelerators,
        max_parallel_jobs: from.max_parallel_jobs,
        cuda_compute_capability: from.cuda_compute_capability,
        tee,
        input_schemes: from.input_schemes,
        payout_address,
    })
}

fn sane_list(list: &[String]) -> bool {
    list.len() <= LIST_MAX && list.iter().all(|text| text.len() <= TEXT_MAX)
}

pub fn location_to_proto(from: &Location) -> proto::Location {
    proto::Location {
        region: from.region.clone(),
        country: from.country.clone(),
        latitude_e6: from.latitude_e6,
        longitude_e6: from.longitude_e6,
    }
}

/// `None` if it is not a place on Earth.
pub fn location_from_proto(from: proto::Location) -> Option<Location> {
    let on_earth = from.latitude_e6.is_none_or(|degrees| degrees.unsigned_abs() <= 90_000_000)
        && from.longitude_e6.is_none_or(|degrees| degrees.unsigned_abs() <= 180_000_000);
    let sane = from.region.len() <= TEXT_MAX && from.country.len() <= TEXT_MAX;
    (on_earth && sane).then_some(Location {
        region: from.region,
        country: from.country,
        latitude_e6: from.latitude_e6,
        longitude_e6: from.longitude_e6,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn prices_survive_the_wire(amount: u128) {
            prop_assert_eq!(price_from_bytes(&price_to_bytes(Price(amount))), Some(Price(amount)));
        }
    }

    #[test]
    fn a_price_has_one_encoding_and_a_limit() {
        assert!(price_to_bytes(Price(0)).is_empty());
        assert_eq!(price_to_bytes(Price(256)).as_ref(), [1, 0]);
        assert_eq!(price_from_bytes(&[1; 17]), None);
    }

    #[test]
    fn absurd_capabilities_do_not_decode() {
        let many = proto::Capabilities { job_types: vec!["x".to_owned(); LIST_MAX + 1], ..Default::default() };
        assert!(capabilities_from_proto(many).is_none());
        let long = proto::Capabilities { gpu_model: "x".repeat(TEXT_MAX + 1), ..Default::default() };
        assert!(capabilities_from_proto(long).is_none());
    }

    #[test]
    fn where_a_worker_is_paid_survives_the_wire_and_must_be_an_account() {
        let paid = Capabilities { payout_address: "0xabc".parse().ok(), ..Capabilities::default() };
        assert_eq!(capabilities_from_proto(capabilities_to_proto(&paid)), Some(paid));
        let none = capabilities_from_proto(proto::Capabilities::default());
        assert_eq!(none.map(|capabilities| capabilities.payout_address), Some(None));
        for text in ["abc", "0x", "0xg", &format!("0x{}", "f".repeat(64))] {
            let wrong = proto::Capabilities { payout_address: text.to_owned(), ..Default::default() };
            assert!(capabilities_from_proto(wrong).is_none(), "{text}");
        }
    }

    #[test]
    fn a_place_off_the_map_does_not_decode() {
        let place = proto::Location { latitude_e6: Some(90_000_001), ..Default::default() };
        assert!(location_from_proto(place).is_none());
    }
}
