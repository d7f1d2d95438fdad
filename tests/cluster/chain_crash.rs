//! The leader dies at each of the moments that matter to a transaction, held open by the proxy.
//!
//! | the leader dies | how the moment is held | what the next one finds |
//! |---|---|---|
//! | before the broadcast | the send is held, and never passed on | prepared, unknown to the chain: the same is sent |
//! | after the broadcast | the answer to it is held | landed: recorded |
//! | after inclusion | the answer to the question for its status is held | landed: recorded |
//! | asleep before the broadcast | the send is held, and passed on when another leads | landed already: the late one changes nothing |

use ciro::clock;
use ciro::tasks::Tasks;
use serde_json::json;

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::chain_proxy::{Rule, SEND};
use crate::cluster::Cluster;
use crate::{secs, until};

const STATUS: &[&str] = &["starknet_getTransactionStatus", "starknet_getTransactionReceipt"];
const JOBS: usize = 20;
/// Blocks of a new leader until what its predecessor prepared is recorded and its own epoch on chain.
const RECOVERY_BLOCKS: u64 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_crash_table_each_transaction_has_its_effect_once() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let cluster = desk.cluster().await;
    let mut table = Table { cluster, desk, jobs: Jobs::default() };
    table.submit().await;
    table.settled().await;
    table.row("before the broadcast", Rule::hold_request(&[SEND]), None).await;
    table.row("after the broadcast", Rule::hold_answer(&[SEND]), None).await;
    table.row("after inclusion", Rule::hold_answer(&[SEND]), Some(Rule::hold_answer(STATUS))).await;
    table.asleep().await;
    let Table { cluster, desk, jobs } = table;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

struct Table<'a> {
    cluster: Cluster,
    desk: Desk<'a>,
    jobs: Jobs,
}

impl Table<'_> {
    async fn submit(&mut self) {
        self.jobs.submit(&self.cluster.client, JOBS, &json!({})).await;
    }

    /// All is settled and at rest.
    async fn settled(&mut self) {
        self.cluster.heal().await;
        self.jobs.ended(&self.cluster.client).await;
        let told = chain_oracle::told(&self.cluster.client).await;
        chain_oracle::settled(&self.desk, &told).await;
        chain_oracle::nothing_waits(&self.cluster.client).await;
    }

    /// The leader dies when something waits behind `rule`; or, where there is one, behind `then`.
    async fn row(&mut self, moment: &str, rule: Rule, then: Option<Rule>) {
        let leader = self.cluster.leader().await;
        let nonce = self.desk.nonce().await;
        let mut gate = self.desk.proxy.first(rule);
        self.submit().await;
        gate.reached(secs(20), &format!("the moment {moment}")).await;
        if let Some(then) = then {
            let next = self.desk.proxy.first(then);
            gate.open();
            gate = next;
            gate.reached(secs(20), &format!("the moment {moment}")).await;
        }
        let used = self.desk.nonce().await;
        assert_eq!(used > nonce, moment.starts_with("after"), "{moment}: nonces {nonce} and {used}");
        self.cluster.kill(leader);
        gate.shut();
        self.recovery(moment, used).await;
        self.settled().await;
    }

    /// The next leader's first transactions are the prepared one, if it did not land, and one of a new epoch.
    async fn recovery(&mut self, moment: &str, used: u64) {
        let epoch = self.desk.epoch().await;
        let new = self.cluster.leader().await;
        let (start, head) = (clock::instant(), self.desk.devnet.head().await);
        // In case the prepared one carried all there was.
        self.submit().await;
        let raised = until(secs(30), "the new leader's epoch is on chain", async || {
            (self.desk.epoch().await > epoch).then_some(())
        });
        raised.await;
        let blocks = chain_oracle::raised_at(&self.desk, epoch + 1).await - head;
        println!(
            "{moment}: node {new} leads, nonce {used} is next, its epoch is on chain {blocks} blocks and {:?} later",
            start.elapsed()
        );
        assert!(blocks <= RECOVERY_BLOCKS, "{moment}: recovered after {blocks} blocks");
    }

    async fn asleep(&mut self) {
        let moment = "asleep before the broadcast";
        let leader = self.cluster.leader().await;
        let gate = self.desk.proxy.first(Rule::hold_request(&[SEND]));
        self.submit().await;
        gate.reached(secs(20), &format!("the moment {moment}")).await;
        self.cluster.pause(leader);
        let used = self.desk.nonce().await;
        self.recovery(moment, used).await;
        // What it was about to send arrives now, and then it wakes.
        gate.open();
        self.cluster.resume(leader);
        self.settled().await;
    }
}
