//! The page on operations: every command in it works as it stands.

use crate::cluster::Cluster;
use crate::programs;

const PAGE: &str = include_str!("../../docs/operations.md");

/// The blocks marked `sh`, each with the heading that it stands under.
fn blocks() -> Vec<(String, String)> {
    let (mut heading, mut found, mut open) = (String::new(), Vec::new(), None::<String>);
    for line in PAGE.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (Some(block), "```") => {
                found.push((heading.clone(), std::mem::take(block)));
                open = None;
            }
            (Some(block), line) => *block += &format!("{line}\n"),
            (None, line) => {
                if let Some(name) = line.strip_prefix("## ") {
                    heading = name.to_owned();
                }
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// Runs one block as a person would: in a shell, one line after the other, until one fails.
fn run(block: &str, api: &str, dir: &std::path::Path) -> Result<String, String> {
    let bin = programs::coordinator();
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = programs::clean("bash".into())
        .args(["-euo", "pipefail", "-c", block])
        .current_dir(dir)
        .env("API", api)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{}\n{said}", output.status)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_page_on_operations_works_as_it_stands() {
    let mut cluster = Cluster::start(3, 1).await;
    let ticket = cluster.client.submit(0, &cluster.client.mark(0.05)).await;
    cluster.client.ended(0, &ticket.id, crate::secs(20)).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let dir = tempfile::tempdir().unwrap();
    let blocks = blocks();
    assert!(!blocks.is_empty(), "the page has no commands");
    for (heading, block) in blocks {
        println!("{heading}:\n{block}");
        match run(&block, &api, dir.path()) {
            Ok(said) => println!("{said}"),
            Err(said) => panic!("under \"{heading}\":\n{block}\n{said}"),
        }
        // What a block did to the cluster is over before the next one begins.
        cluster.all_ready().await;
    }
    cluster.finish().await;
}
