//! `job receipt` and `verify`: a result that can be judged without any node.
//!
//! Nothing in a receipt is taken on trust that can be computed or that someone
//! signed: the issuer's signature over the whole, each worker's over its result,
//! each winner's over its bid, the costs of the bids, who agrees with whom, and
//! what is owed. Checks run in order and the first that fails ends them.
//!
//! What stays the issuer's word: that its log contains the job, what the client
//! asked for, times, durations, exit codes, and that no better bid was left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::award::{self, Deal, number, read};
use super::client::Client;
use super::failure::{Failure, Kind, printable};
use super::job::{fresh, job_path};
use super::{Remote, output};
use crate::api::receipt;
use crate::domain::{Digest, JobId, PeerId, Price, WorkerId};
use crate::{mesh, wire};

/// Bytes of a receipt that are read. A real one has a few thousand.
const RECEIPT_MAX: u64 = 1 << 20;

/// Formats that are understood. The first said nothing of offers that rise.
const FORMATS: std::ops::RangeInclusive<u32> = 1..=receipt::FORMAT;

const ABOUT: &str = "\
Checked, in this order: that the issuing node signed the receipt as it is; that each worker signed its result \
(job, attempt, digest of the output); that more than half of the workers asked for agree; that each award follows from \
the recorded bids, is for no more than the job offered then, and its winner signed its own; that what is owed is what those workers bid; and, if they are \
given, that the files are the input and the output.

Not checked, since only a node can say it: that the cluster's log contains the job, and what it says of times, exit \
codes, the job's type and input, and bids that are not recorded; its transactions are on chain for anyone to look up. For these the receipt is the issuer's word: name the \
node that you trust with --issuer. Evidence of an award is kept for the newest jobs only; where it is gone, that is said.";

#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    /// The receipt, as `job receipt` writes it; - is standard input
    #[arg(value_name = "PATH")]
    receipt: PathBuf,
    /// A file that must be the job's input
    #[arg(long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// A file that must be the job's output
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Peer id of the node that must have issued it
    #[arg(long, value_name = "ID")]
    issuer: Option<PeerId>,
}

/// One thing that was looked at, and what was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    name: &'static str,
    /// What holds, or what does not.
    found: Result<String, String>,
}

/// `job receipt`: as the node issues it, in JSON.
pub(super) async fn fetch(client: &Client, id: &str) -> Result<(), Failure> {
    output::json(&client.call(&fresh(&format!("{}/receipt", job_path(id)))).await?.body)
}

/// `verify`: exit code 7 at the first check that fails.
pub(super) fn verify(args: &Args, remote: &Remote) -> Result<(), Failure> {
    let text = read_receipt(&args.receipt)?;
    let mut files = vec![];
    for (name, path) in [("input", &args.input), ("output", &args.output)] {
        if let Some(path) = path {
            files.push((name, Digest::of(&read_file(path)?)));
        }
    }
    let checks = match serde_json::from_slice(&text) {
        Ok(shown) => check(&shown, args.issuer, &files),
        Err(error) => vec![Check { name: "format", found: Err(format!("it is not JSON: {error}")) }],
    };
    show(&checks, remote.json)?;
    match checks.iter().find_map(|check| Some((check.name, check.found.as_ref().err()?))) {
        None => Ok(()),
        Some((name, why)) => Err(Failure::new(Kind::Untrue, format!("the receipt does not hold: {name}: {why}"))),
    }
}

fn show(checks: &[Check], as_json: bool) -> Result<(), Failure> {
    let told = |check: &Check| match &check.found {
        Ok(found) => (true, printable(found)),
        Err(why) => (false, printable(why)),
    };
    if as_json {
        let lines = checks.iter().map(|check| (check.name, told(check)));
        let lines: Vec<Value> =
            lines.map(|(name, (holds, found))| json!({ "check": name, "holds": holds, "found": found })).collect();
        let verified = checks.iter().all(|check| check.found.is_ok());
        return output::json(&json!({ "verified": verified, "checks": lines }));
    }
    for check in checks {
        let (holds, found) = told(check);
        output::line(&format!("{} {:<9} {found}", if holds { "ok   " } else { "FALSE" }, check.name))?;
    }
    Ok(())
}

fn read_receipt(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failed = |error: std::io::Error| Failure::usage(format!("read {}: {error}", path.display()));
    let mut text = vec![];
    if path == Path::new("-") {
        std::io::stdin().lock().take(RECEIPT_MAX).read_to_end(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(RECEIPT_MAX).read_to_end(&mut text).map_err(failed)?;
    }
    Ok(text)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))
}

/// Everything up to the first check that fails. `files`: what must have which digest.
fn check(shown: &Value, issuer: Option<PeerId>, files: &[(&'static str, Digest)]) -> Vec<Check> {
    let receipt = &shown["receipt"];
    let mut checks = vec![];
    look(&mut checks, "format", || format(shown));
    look(&mut checks, "issuer", || issued(shown, issuer));
    look(&mut checks, "results", || results(receipt));
    look(&mut checks, "majority", || majority(receipt));
    look(&mut checks, "awards", || awards(receipt));
    look(&mut checks, "payment", || payment(receipt));
    for (name, digest) in files {
        look(&mut checks, name, || file(receipt, name, *digest));
    }
    checks
}

/// Looks only if everything before held.
fn look(checks: &mut Vec<Check>, name: &'static str, look: impl FnOnce() -> Result<String, String>) {
    if checks.iter().all(|check| check.found.is_ok()) {
        checks.push(Check { name, found: look() });
    }
}

fn format(shown: &Value) -> Result<String, String> {
    let receipt = &shown["receipt"];
    if !FORMATS.contains(&number(&receipt["format"]).unwrap_or(0)) {
        return Err(format!("it is no receipt of format {} to {}", FORMATS.start(), FORMATS.end()));
    }
    let job: JobId = stated(receipt, "job_id")?;
    let kind = receipt["type"].as_str().ok_or("it has no type")?;
    let runs = runs(receipt)?;
    Ok(format!("job {job} of type {kind}, {} results", runs.len()))
}

fn issued(shown: &Value, wanted: Option<PeerId>) -> Result<String, String> {
    let issuer: PeerId = stated(&shown["issuer"], "node_id")?;
    let signature = bytes(&shown["issuer"]["signature"]).ok_or("it has no signature")?;
    if !mesh::verify(issuer, &receipt::statement(&shown["receipt"]), &signature) {
        return Err(format!("node {issuer} did not sign this"));
    }
    match wanted {
        Some(wanted) if wanted != issuer => Err(format!("node {issuer} issued it, not {wanted}")),
        Some(_) => Ok(format!("signed by node {issuer}, as asked for")),
        None => Ok(format!("signed by node {issuer}; whether you trust it is yours to say (--issuer)")),
    }
}

fn results(receipt: &Value) -> Result<String, String> {
    let job: JobId = stated(receipt, "job_id")?;
    for run in runs(receipt)? {
        let worker: WorkerId = stated(run, "worker_id")?;
        let attempt: u32 = number(&run["attempt"]).ok_or("a result has no attempt")?;
        let digest: Digest = stated(run, "output_sha256")?;
        if bytes(&run["worker_public_key"]).as_deref() != Some(&worker.0) {
            return Err(format!("the key shown for worker {worker} is not its own"));
        }
        let signature = bytes(&run["signature"]).ok_or("a result has no signature")?;
        if !mesh::verify(worker, &wire::signed_result(job, attempt, &digest), &signature) {
            return Err(format!("worker {worker} did not sign {digest} for attempt {attempt}"));
        }
    }
    Ok("each is signed by its worker for this job and attempt".to_owned())
}

fn majority(receipt: &Value) -> Result<String, String> {
    let asked: usize = number(&receipt["redundancy"]).filter(|asked| *asked > 0).ok_or("it has no redundancy")?;
    let attempts: u32 = number(&receipt["attempts"]).ok_or("it has no attempts")?;
    let accepted: Digest = stated(receipt, "output_sha256")?;
    let (mut workers, mut numbers, mut agreeing) = (BTreeSet::new(), BTreeSet::new(), 0);
    for run in runs(receipt)? {
        let attempt: u32 = number(&run["attempt"]).ok_or("a result has no attempt")?;
        if !workers.insert(stated::<WorkerId>(run, "worker_id")?) || !numbers.insert(attempt) {
            return Err("a worker, or an attempt, is counted twice".to_owned());
        }
        let agrees = stated::<Digest>(run, "output_sha256")? == accepted;
        if run["counts"].as_bool() != Some(agrees) {
            return Err(format!("attempt {attempt} is said to count, or not to, against its digest"));
        }
        if agrees && run["output_size"] != receipt["output_size"] {
            return Err(format!("attempt {attempt} has the same output with another size"));
        }
        agreeing += usize::from(agrees);
    }
    if workers.len() > asked || numbers.last().is_some_and(|last| *last > attempts) {
        return Err("there are more results than runs".to_owned());
    }
    let needed = asked / 2 + 1;
    if agreeing < needed {
        return Err(format!("{agreeing} of {asked} workers agree, {needed} must"));
    }
    Ok(format!("{agreeing} of {asked} workers agree on {accepted}"))
}

fn awards(receipt: &Value) -> Result<String, String> {
    let job: JobId = stated(receipt, "job_id")?;
    let weights = award::weights(receipt).ok_or("it has no usable policy")?;
    if !receipt["max_price"].is_null() {
        stated::<Price>(receipt, "max_price")?;
    }
    let (mut judged, mut gone) = (0, 0);
    for run in runs(receipt)? {
        let shown = &run["award"];
        if shown["worker_id"] != run["worker_id"] || shown["attempt"] != run["attempt"] {
            return Err("an award is not of the run it stands with".to_owned());
        }
        let attempt = number(&run["attempt"]).ok_or("a result has no attempt")?;
        let max_price = award::ceiling(receipt, shown).ok_or("it has no usable price_escalation, or times")?;
        let deal = Deal { job, attempt, max_price, weights };
        if shown["evidence"].is_null() {
            let price: Price = stated(shown, "price")?;
            if max_price.is_some_and(|most| price > most) {
                return Err(format!("the price of attempt {attempt} is above the job's ceiling"));
            }
            gone += 1;
            continue;
        }
        award::judge(&deal, shown).map_err(|why| format!("attempt {attempt}: {why}"))?;
        judged += 1;
    }
    let kept = if gone == 0 { String::new() } else { format!("; the evidence of {gone} is no longer kept") };
    Ok(format!("{judged} follow from their bids, which their winners signed{kept}"))
}

fn payment(receipt: &Value) -> Result<String, String> {
    let mut sum: u128 = 0;
    for run in runs(receipt)? {
        let (owed, price): (Price, Price) = (stated(run, "owed")?, stated(&run["award"], "price")?);
        let due = if run["counts"] == true { price } else { Price(0) };
        if owed != due {
            return Err(format!("attempt {} is owed {due}, not {owed}", run["attempt"]));
        }
        sum = sum.checked_add(due.0).ok_or("the sum is no amount")?;
    }
    let price: Price = stated(receipt, "price")?;
    if price.0 != sum {
        return Err(format!("the workers are owed {sum} in all, not {price}"));
    }
    Ok(format!("{price} in all, to each worker that counts what it bid"))
}

fn file(receipt: &Value, name: &str, found: Digest) -> Result<String, String> {
    let wanted: Digest = stated(receipt, &format!("{name}_sha256"))?;
    if found == wanted { Ok(format!("the file is the job's {name}")) } else { Err(format!("the file is {found}")) }
}

fn runs(receipt: &Value) -> Result<&[Value], String> {
    let runs = receipt["runs"].as_array().filter(|runs| !runs.is_empty());
    runs.map(Vec::as_slice).ok_or_else(|| "it has no results".to_owned())
}

/// A field that must be there and be what it says. Only in the form in which a node writes it.
fn stated<T: std::str::FromStr + std::fmt::Display>(of: &Value, field: &str) -> Result<T, String> {
    let value: Option<T> = read(&of[field]);
    let same = |value: &T| of[field].as_str() == Some(value.to_string().as_str());
    value.filter(same).ok_or_else(|| format!("it has no usable {field}"))
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?).ok()
}

#[cfg(test)]
mod tests;
