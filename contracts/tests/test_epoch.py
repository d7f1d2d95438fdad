"""The epoch: what a deposed leader still sends is refused, whole."""

import unittest

from world import OUR_ID, UNIT, Story, job_id, spec


class Epoch(Story):
    async def test_a_later_leader_fences_an_earlier_one(self):
        raised = await self.coordinator.does(self.manager.assert_epoch(7))
        self.assertEqual(raised.events(), [("EpochRaised", [self.coordinator.address], [7])])
        self.says_nothing(await self.coordinator.does(self.manager.assert_epoch(7)))
        await self.coordinator.does(self.manager.assert_epoch(8))
        await self.refuses("STALE_EPOCH", self.coordinator.does(self.manager.assert_epoch(7)))
        self.assertEqual(await self.epoch(self.coordinator), 8)

    async def test_a_stale_epoch_takes_the_whole_transaction_with_it(self):
        await self.coordinator.does(self.manager.assert_epoch(9))
        await self.remember_balances()
        job = self.manager.submit_ai_job(spec(OUR_ID), UNIT, self.client.address)
        late = self.coordinator.does(self.manager.assert_epoch(8), job)
        await self.refuses("STALE_EPOCH", late)
        await self.refuses("NO_SUCH_JOB", self.manager.read("get_job_state", job_id(OUR_ID)))
        await self.moves(coordinator=0)
        await self.coordinator.does(self.manager.assert_epoch(9), job)
        await self.moves(coordinator=-UNIT)

    async def test_a_refused_call_takes_the_raised_epoch_with_it(self):
        await self.coordinator.does(self.manager.assert_epoch(3))
        bad = self.coordinator.does(self.manager.assert_epoch(4), self.assign(), self.register())
        await self.refuses("NO_SUCH_JOB", bad)
        self.assertEqual(await self.epoch(self.coordinator), 3)

    async def test_each_coordinator_has_an_epoch_of_its_own(self):
        await self.admin.does(self.manager.set_coordinator(self.deputy.address, True))
        await self.coordinator.does(self.manager.assert_epoch(50))
        await self.deputy.does(self.manager.assert_epoch(2))
        self.assertEqual(await self.epoch(self.coordinator), 50)
        self.assertEqual(await self.epoch(self.deputy), 2)
        await self.refuses("STALE_EPOCH", self.deputy.does(self.manager.assert_epoch(1)))

    async def test_only_coordinators_have_one(self):
        await self.refuses("NOT_COORDINATOR", self.client.does(self.manager.assert_epoch(1)))
        await self.coordinator.does(self.manager.assert_epoch(5))
        await self.admin.does(self.manager.set_coordinator(self.coordinator.address, False))
        await self.refuses("NOT_COORDINATOR", self.coordinator.does(self.manager.assert_epoch(6)))
        self.assertEqual(await self.epoch(self.coordinator), 5)

    async def test_the_epoch_is_asserted_while_paused(self):
        await self.admin.does(self.manager.pause())
        await self.coordinator.does(self.manager.assert_epoch(1))
        self.assertEqual(await self.epoch(self.coordinator), 1)

    async def epoch(self, person):
        return await self.manager.read("get_epoch", person.address)


if __name__ == "__main__":
    unittest.main()
