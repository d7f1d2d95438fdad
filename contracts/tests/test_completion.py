"""Workers, assignment and results: from Queued to Completed, once."""

import unittest

from starknet_py.hash.selector import get_selector_from_name
from world import NOBODY, OUR_ID, UNIT, WORKER_ONE, WORKER_TWO, Story, halves, job_id, result, share, spec, worker_id


class Workers(Story):
    async def test_a_coordinator_registers_a_worker_and_may_move_it(self):
        receipt = await self.coordinator.does(self.register())
        self.assertEqual(receipt.events(), [("WorkerRegistered", [WORKER_ONE, self.one.address], [])])
        self.says_nothing(await self.coordinator.does(self.register()))
        await self.coordinator.does(self.register(WORKER_ONE, self.two))
        self.assertEqual(await self.address(WORKER_ONE), self.two.address)

    async def test_only_a_coordinator_says_where_a_worker_is_paid(self):
        # Neither for itself, nor an id that nobody has, nor the one it has already.
        for person in (self.one, self.stranger, self.client):
            for address in (person, self.one):
                await self.refuses("NOT_COORDINATOR", person.does(self.register(WORKER_ONE, address)))
        self.assertEqual(await self.address(WORKER_ONE), 0)
        await self.coordinator.does(self.register())
        await self.refuses("NOT_COORDINATOR", self.one.does(self.register()))
        await self.refuses("NOT_COORDINATOR", self.two.does(self.register(WORKER_ONE, self.two)))
        self.assertEqual(await self.address(WORKER_ONE), self.one.address)

    async def test_no_worker_is_0_and_none_lives_at_0(self):
        await self.refuses("BAD_WORKER", self.coordinator.does(self.register(0)))
        nowhere = self.manager.register_worker(worker_id(WORKER_ONE), 0)
        await self.refuses("BAD_ADDRESS", self.coordinator.does(nowhere))

    async def address(self, worker):
        return await self.manager.read("get_worker_address", worker_id(worker))


class Assignment(Story):
    async def test_a_job_goes_to_a_worker(self):
        await self.submits()
        receipt = await self.coordinator.does(self.assign())
        (event,) = [e for e in receipt.raw.events if e.from_address == self.manager.address]
        self.assertEqual(event.keys, [get_selector_from_name("JobAssigned"), *halves(OUR_ID), WORKER_ONE])
        self.assertEqual(event.data, [])
        self.assertEqual(await self.state(OUR_ID), "Processing")
        await self.is_now((await self.details(OUR_ID))["assigned_at"])

    async def test_to_the_same_worker_again_changes_nothing(self):
        await self.submits()
        await self.coordinator.does(self.assign())
        since = (await self.details(OUR_ID))["assigned_at"]
        await self.chain.pass_time(60)
        self.says_nothing(await self.coordinator.does(self.assign()))
        self.assertEqual((await self.details(OUR_ID))["assigned_at"], since)

    async def test_to_another_worker_it_moves(self):
        await self.at_work()
        await self.chain.pass_time(60)
        receipt = await self.coordinator.does(self.register(WORKER_TWO, self.two), self.assign(worker=WORKER_TWO))
        self.assertEqual(receipt.events("JobAssigned"), [("JobAssigned", [*halves(OUR_ID), WORKER_TWO], [])])
        details = await self.details(OUR_ID)
        self.assertEqual(details["worker"], self.two.address)
        await self.is_now(details["assigned_at"])

    async def test_a_worker_needs_no_address_to_be_assigned(self):
        await self.submits()
        await self.coordinator.does(self.assign(worker=NOBODY))
        self.assertEqual((await self.details(OUR_ID))["worker"], 0)

    async def test_a_worker_id_is_any_felt(self):
        await self.submits()
        largest = 2**251 + 17 * 2**192  # the largest felt, which is no address
        await self.coordinator.does(self.assign(worker=largest))
        self.assertEqual(await self.state(OUR_ID), "Processing")

    async def test_who_may_not_and_what_can_not(self):
        await self.submits()
        for person in (self.client, self.one, self.stranger):
            await self.refuses("NOT_COORDINATOR", person.does(self.assign()))
        await self.refuses("BAD_WORKER", self.coordinator.does(self.assign(worker=0)))
        for unknown in (1, OUR_ID + 1, OUR_ID + 2**128, 2**255):
            await self.refuses("NO_SUCH_JOB", self.coordinator.does(self.assign(unknown)))

    async def test_a_job_that_ended_goes_to_nobody(self):
        deadline = await self.chain.time() + 100
        await self.submits(OUR_ID)
        await self.coordinator.does(self.cancel(OUR_ID))
        await self.at_work(OUR_ID + 1)
        await self.coordinator.does(self.complete(OUR_ID + 1))
        await self.submits(OUR_ID + 2, sla_deadline=deadline)
        await self.chain.pass_time(200)
        await self.stranger.does(self.expire(OUR_ID + 2))
        for ident in (OUR_ID, OUR_ID + 1, OUR_ID + 2):
            await self.refuses("JOB_ENDED", self.coordinator.does(self.assign(ident)))
        await self.coordinator.does(self.distribute(OUR_ID + 1))


class Results(Story):
    async def test_a_result_completes_the_job(self):
        await self.at_work()
        receipt = await self.coordinator.does(self.complete())
        (event,) = [e for e in receipt.raw.events if e.from_address == self.manager.address]
        self.assertEqual(event.keys, [get_selector_from_name("JobCompleted"), *halves(OUR_ID), WORKER_ONE])
        details = await self.details(OUR_ID)
        self.assertEqual(details["state"].variant, "Completed")
        self.assertEqual(details["worker"], self.one.address)
        self.assertEqual(details["result_hash"], 0xFEED)
        await self.is_now(details["completed_at"])
        self.assertEqual(await self.escrow(), 10 * UNIT)

    async def test_the_same_result_again_changes_nothing(self):
        await self.at_work()
        await self.coordinator.does(self.complete())
        since = (await self.details(OUR_ID))["completed_at"]
        await self.chain.pass_time(60)
        self.says_nothing(await self.coordinator.does(self.complete()))
        self.assertEqual((await self.details(OUR_ID))["completed_at"], since)

    async def test_a_job_has_one_result(self):
        await self.at_work()
        await self.coordinator.does(self.complete())
        changes = (
            {"output_data_hash": 1}, {"computation_proof": [1, 2]}, {"gas_used": 0},
            {"execution_time": 13}, {"worker_id": worker_id(WORKER_TWO)},
        )
        for change in changes:
            await self.refuses("RESULT_MISMATCH", self.coordinator.does(self.complete(**change)))
        self.assertEqual((await self.details(OUR_ID))["result_hash"], 0xFEED)

    async def test_only_a_coordinator_brings_a_result(self):
        await self.at_work()
        for person in (self.one, self.two, self.client, self.stranger):
            await self.refuses("NOT_COORDINATOR", person.does(self.complete()))
        self.assertEqual(await self.state(OUR_ID), "Processing")
        await self.coordinator.does(self.complete())
        await self.refuses("NOT_COORDINATOR", self.one.does(self.complete()))

    async def test_a_worker_takes_nothing_before_it_is_settled(self):
        await self.at_work(payment=10 * UNIT)
        await self.remember_balances()
        await self.refuses("NOT_COORDINATOR", self.one.does(self.complete(), self.distribute()))
        await self.coordinator.does(self.settle(shares=[share(WORKER_ONE, UNIT)]))
        await self.refuses("NOT_COORDINATOR", self.one.does(self.distribute()))
        await self.moves(one=UNIT * 9750 // 10000, coordinator=9 * UNIT)

    async def test_only_the_assigned_worker_has_a_result(self):
        await self.at_work()
        await self.refuses("WRONG_WORKER", self.coordinator.does(self.complete(worker=WORKER_TWO)))
        await self.coordinator.does(self.assign(worker=WORKER_TWO))
        await self.refuses("WRONG_WORKER", self.coordinator.does(self.complete()))

    async def test_nobodys_job_has_no_result(self):
        await self.submits()
        await self.refuses("WRONG_WORKER", self.coordinator.does(self.complete()))
        await self.refuses("WRONG_WORKER", self.coordinator.does(self.complete(worker=0)))

    async def test_the_id_is_said_twice(self):
        await self.at_work()
        other = self.manager.submit_job_result(job_id(OUR_ID), result(OUR_ID + 1, WORKER_ONE))
        await self.refuses("JOB_ID_MISMATCH", self.coordinator.does(other))
        shifted = self.manager.submit_job_result(job_id(OUR_ID), result(OUR_ID + 2**128, WORKER_ONE))
        await self.refuses("JOB_ID_MISMATCH", self.coordinator.does(shifted))

    async def test_a_job_that_is_not_has_none(self):
        await self.refuses("NO_SUCH_JOB", self.coordinator.does(self.complete()))
        await self.submits()
        await self.coordinator.does(self.cancel())
        await self.refuses("JOB_ENDED", self.coordinator.does(self.complete()))

    async def test_a_whole_life_fits_one_transaction(self):
        receipt = await self.coordinator.does(
            self.manager.assert_epoch(1),
            self.manager.submit_ai_job(self.terms(), 10 * UNIT, self.client.address),
            self.register(), self.assign(), self.complete(), self.distribute(),
        )
        said = [name for name, _, _ in receipt.events() if name not in ("Transfer", "Approval")]
        self.assertEqual(said, [
            "EpochRaised", "JobSubmitted", "WorkerRegistered", "JobAssigned", "JobCompleted", "PaymentReleased",
        ])

    def terms(self):
        return spec(OUR_ID)


class Stats(Story):
    async def test_what_a_worker_did_is_counted(self):
        for number, seconds in enumerate((10, 20)):
            ident = OUR_ID + number
            await self.at_work(ident)
            await self.chain.pass_time(seconds)
            await self.coordinator.does(self.complete(ident), self.distribute(ident))
        deadline = await self.chain.time() + 1000
        await self.at_work(OUR_ID + 2, sla_deadline=deadline)
        await self.chain.pass_time(2000)
        await self.stranger.does(self.expire(OUR_ID + 2))
        stats = await self.manager.read("get_worker_stats", worker_id(WORKER_ONE))
        self.assertEqual(stats["total_jobs_completed"], 2)
        self.assertEqual(stats["success_rate"], 66)
        self.assertIn(stats["average_completion_time"], (15, 16, 17))
        self.assertEqual(stats["reputation_score"], 1)
        self.assertEqual(stats["total_earnings"], 2 * 10 * UNIT * 9750 // 10000)

    async def test_nobody_did_nothing(self):
        stats = await self.manager.read("get_worker_stats", worker_id(NOBODY))
        self.assertEqual(list(stats.values()), [0, 0, 0, 0, 0])


if __name__ == "__main__":
    unittest.main()
