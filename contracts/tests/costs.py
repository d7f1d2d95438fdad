"""What calls cost, by themselves and a hundred in a transaction: the table of README.md.

    contracts/test.sh --costs
"""

import unittest

from world import OUR_ID, UNIT, WORKER_ONE, Story, share, spec, worker_id

TOGETHER = 100
WORKERS = 0x5000
SHARES = 5


class Costs(Story):
    async def test_costs(self):
        await self.coordinator.does(self.register())
        print("\n| call | L2 gas alone | L2 gas, of 100 | L1 data gas, of 100 |\n|---|---|---|---|")
        for name, call in (
            ("`submit_ai_job`", self.order),
            ("`assign_job_to_worker`", self.assign),
            ("`submit_job_result`", self.complete),
            ("`distribute_rewards`", self.distribute),
        ):
            await self.measure(name, OUR_ID, call)
        await self.measure("`submit_ai_job`, to settle", OUR_ID + 1000, self.order)
        await self.measure("`settle_job` of one share, never assigned", OUR_ID + 1000, self.settled)
        await self.measure("any of them again, e.g. `settle_job`", OUR_ID + 1000, self.settled)
        await self.client.does(self.manager.set_charge_limit(2**128))
        await self.measure("`submit_ai_job`, charged to the client", OUR_ID + 2000, self.order)
        await self.measure("`cancel_job`", OUR_ID + 2000, self.cancel)
        await self.measure("`register_worker`", WORKERS, self.known)
        await self.measure("`submit_ai_job`, to share", OUR_ID + 3000, self.order)
        await self.measure("`settle_job` of five shares", OUR_ID + 3000, self.shared, TOGETHER // SHARES)

    async def asyncTearDown(self):
        """Not the books: what was paid lies with payees that are none of the people."""

    async def measure(self, name, first, call, together=TOGETHER):
        alone = await self.coordinator.does(call(first))
        many = await self.coordinator.does(*(call(first + 1 + number) for number in range(together)))
        print(f"| {name} | {alone.l2_gas:,} | {many.l2_gas // together:,} | {many.l1_data_gas // together:,} |")

    def order(self, ident):
        return self.manager.submit_ai_job(spec(ident), 10 * UNIT, self.client.address)

    def known(self, worker):
        return self.manager.register_worker(worker_id(worker), worker)

    def shared(self, ident):
        """Each job with workers of its own, none of whom was paid before: as dear as it gets."""
        first = WORKERS + (ident - OUR_ID - 3000) % (TOGETHER // SHARES) * SHARES
        workers = range(first, first + SHARES)
        return self.settle(ident, workers[0], shares=[share(worker, UNIT) for worker in workers])

    def settled(self, ident):
        return self.settle(ident, shares=[share(WORKER_ONE, 4 * UNIT)])


if __name__ == "__main__":
    unittest.main()
