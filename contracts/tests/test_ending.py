"""Cancellation and expiry: an unfinished job's payment goes back, once."""

import unittest

from world import OUR_ID, UNIT, WORKER_ONE, Story, halves, job_id, share, spec


class Cancellation(Story):
    async def test_a_coordinator_cancels_and_the_payer_has_its_money(self):
        await self.at_work()
        await self.remember_balances()
        receipt = await self.coordinator.does(self.cancel())
        self.assertEqual(
            receipt.events("JobCancelled"),
            [("JobCancelled", [*halves(OUR_ID), self.coordinator.address], halves(10 * UNIT))],
        )
        await self.moves(coordinator=10 * UNIT)
        self.assertEqual(await self.state(OUR_ID), "Cancelled")
        self.assertEqual(await self.escrow(), 0)
        self.says_nothing(await self.coordinator.does(self.cancel()))
        await self.moves(coordinator=10 * UNIT)

    async def test_a_client_cancels_what_nobody_works_on(self):
        ident = await self.orders()
        await self.remember_balances()
        await self.client.does(self.cancel(ident))
        await self.moves(client=10 * UNIT)
        self.says_nothing(await self.client.does(self.cancel(ident)))

    async def test_a_client_cancels_a_job_that_a_coordinator_paid(self):
        await self.submits()
        await self.remember_balances()
        await self.client.does(self.cancel())
        await self.moves(client=0, coordinator=10 * UNIT)

    async def test_a_payer_cancels_though_it_is_no_coordinator_any_more(self):
        await self.submits(OUR_ID)
        await self.at_work(OUR_ID + 1)
        await self.admin.does(self.manager.set_coordinator(self.coordinator.address, False))
        await self.coordinator.does(self.cancel(OUR_ID))
        await self.refuses("NOT_QUEUED", self.coordinator.does(self.cancel(OUR_ID + 1)))

    async def test_a_client_does_not_cancel_work(self):
        ident = await self.orders()
        await self.coordinator.does(self.assign(ident))
        await self.refuses("NOT_QUEUED", self.client.does(self.cancel(ident)))

    async def test_a_stranger_cancels_nothing(self):
        await self.submits()
        await self.refuses("NOT_COORDINATOR", self.stranger.does(self.cancel()))
        await self.coordinator.does(self.cancel())
        await self.refuses("NOT_COORDINATOR", self.stranger.does(self.cancel()))

    async def test_what_ended_otherwise_stays(self):
        await self.refuses("NO_SUCH_JOB", self.coordinator.does(self.cancel()))
        await self.at_work()
        await self.coordinator.does(self.complete())
        await self.refuses("JOB_ENDED", self.coordinator.does(self.cancel()))
        await self.refuses("JOB_ENDED", self.client.does(self.cancel()))
        await self.coordinator.does(self.distribute())
        await self.refuses("JOB_ENDED", self.coordinator.does(self.cancel()))
        await self.submits(OUR_ID + 1, sla_deadline=await self.chain.time() + 100)
        await self.chain.pass_time(200)
        await self.stranger.does(self.expire(OUR_ID + 1))
        await self.refuses("JOB_ENDED", self.coordinator.does(self.cancel(OUR_ID + 1)))


class Expiry(Story):
    async def test_after_its_deadline_anybody_ends_a_job(self):
        await self.at_work(sla_deadline=await self.chain.time() + 100)
        await self.refuses("NOT_EXPIRED", self.stranger.does(self.expire()))
        await self.chain.pass_time(200)
        await self.remember_balances()
        receipt = await self.stranger.does(self.expire())
        self.assertEqual(
            receipt.events("JobExpired"),
            [("JobExpired", [*halves(OUR_ID), self.coordinator.address], halves(10 * UNIT))],
        )
        await self.moves(coordinator=10 * UNIT, stranger=0)
        self.assertEqual(await self.state(OUR_ID), "Failed")
        self.says_nothing(await self.stranger.does(self.expire()))
        await self.moves(coordinator=10 * UNIT)

    async def test_until_somebody_ends_it_a_late_job_may_be_done(self):
        await self.at_work(sla_deadline=await self.chain.time() + 100)
        await self.chain.pass_time(200)
        await self.coordinator.does(self.settle(shares=[share(WORKER_ONE, UNIT)]))
        await self.refuses("JOB_ENDED", self.stranger.does(self.expire()))

    async def test_an_expired_job_is_not_paid(self):
        await self.at_work(sla_deadline=await self.chain.time() + 100)
        await self.chain.pass_time(200)
        await self.stranger.does(self.expire())
        await self.refuses("JOB_ENDED", self.coordinator.does(self.complete()))
        await self.refuses("JOB_ENDED", self.coordinator.does(self.distribute()))
        late = self.settle(shares=[share(WORKER_ONE, UNIT)])
        await self.refuses("JOB_ENDED", self.coordinator.does(late))

    async def test_a_cancelled_job_does_not_expire(self):
        await self.submits(sla_deadline=await self.chain.time() + 100)
        await self.coordinator.does(self.cancel())
        await self.chain.pass_time(200)
        await self.refuses("JOB_ENDED", self.stranger.does(self.expire()))

    async def test_a_job_without_a_deadline_waits_for_ever(self):
        proof = {"circuit_id": 1, "public_inputs": [], "private_inputs_hash": 2, "expected_proof_size": 3}
        await self.client.does(self.manager.submit_prove_job(proof, UNIT, self.client.address))
        await self.chain.pass_time(10**6)
        await self.refuses("NOT_EXPIRED", self.stranger.does(self.expire(1)))
        await self.client.does(self.cancel(1))

    async def test_a_job_that_is_not_does_not_expire(self):
        await self.refuses("NO_SUCH_JOB", self.stranger.does(self.expire()))

    async def test_the_refund_is_the_clients_if_it_paid(self):
        ident = await self.orders(sla_deadline=await self.chain.time() + 100)
        await self.chain.pass_time(200)
        await self.remember_balances()
        await self.stranger.does(self.expire(ident))
        await self.moves(client=10 * UNIT)


class HostileToken(Story):
    """A token that lies or calls back finds the books closed."""

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.hostile = await self.chain.deploy("hostile_token")
        self.trusting = await self.new_manager(self.hostile.address)
        appoint = [
            self.trusting.set_coordinator(address, True)
            for address in (self.coordinator.address, self.hostile.address)
        ]
        await self.admin.does(*appoint)

    async def test_a_token_that_refuses_gets_no_job(self):
        await self.stranger.does(self.hostile.behave(True, 0))
        await self.refuses("TOKEN_REFUSED", self.coordinator.does(self.order()))
        await self.stranger.does(self.hostile.behave(False, 0))
        await self.coordinator.does(self.order())
        await self.stranger.does(self.hostile.behave(True, 0))
        cancel = self.trusting.cancel_job(job_id(OUR_ID))
        await self.refuses("TOKEN_REFUSED", self.coordinator.does(cancel))
        state = await self.trusting.read("get_job_state", job_id(OUR_ID))
        self.assertEqual(state.variant, "Queued")

    async def test_a_token_that_calls_back_is_paid_once(self):
        await self.coordinator.does(self.order())
        await self.stranger.does(self.hostile.behave(False, OUR_ID))
        await self.coordinator.does(self.trusting.cancel_job(job_id(OUR_ID)))
        self.assertEqual(await self.hostile.read("get_transfers"), (1, 10 * UNIT))
        self.assertEqual(await self.trusting.read("total_escrow"), 0)

    def order(self):
        return self.trusting.submit_ai_job(spec(OUR_ID), 10 * UNIT, self.client.address)


if __name__ == "__main__":
    unittest.main()
