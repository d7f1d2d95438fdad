"""What calls cost, by themselves and a hundred in a transaction: the table of README.md.

    contracts/test.sh --costs
"""

import unittest

from world import OUR_ID, UNIT, WORKER_ONE, Story, share, spec

TOGETHER = 100


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

    async def measure(self, name, first, call):
        alone = await self.coordinator.does(call(first))
        many = await self.coordinator.does(*(call(first + 1 + number) for number in range(TOGETHER)))
        print(f"| {name} | {alone.l2_gas:,} | {many.l2_gas // TOGETHER:,} | {many.l1_data_gas // TOGETHER:,} |")

    def order(self, ident):
        return self.manager.submit_ai_job(spec(ident), 10 * UNIT, self.client.address)

    def settled(self, ident):
        return self.settle(ident, shares=[share(WORKER_ONE, 4 * UNIT)])


if __name__ == "__main__":
    unittest.main()
