"""Submission: one job for one id, whoever asks how often, and who pays for it."""

import unittest

from starknet_py.cairo.felt import encode_shortstring
from starknet_py.hash.selector import get_selector_from_name
from world import GIVEN, OUR_ID, TAG, UNIT, Story, halves, job_id, spec

REFERENCE = encode_shortstring("ciro.ref.v1")


class OurJobs(Story):
    async def test_a_coordinators_job_has_the_id_it_chose(self):
        receipt = await self.submits(payment=3 * UNIT + 1)
        (event,) = [e for e in receipt.raw.events if e.from_address == self.manager.address]
        self.assertEqual(
            event.keys, [get_selector_from_name("JobSubmitted"), *halves(OUR_ID), self.client.address]
        )
        self.assertEqual(event.data, halves(3 * UNIT + 1))
        details = await self.details(OUR_ID)
        self.assertEqual(details["job_id"]["value"], OUR_ID)
        self.assertEqual(details["job_type"].variant, "AIInference")
        self.assertEqual(details["state"].variant, "Queued")
        self.assertEqual(details["client"], self.client.address)
        self.assertEqual(details["payment_amount"], 3 * UNIT + 1)
        await self.is_now(details["created_at"])
        rest = [details[field] for field in ("worker", "assigned_at", "completed_at", "result_hash")]
        self.assertEqual(rest, [0, 0, 0, 0])
        self.assertEqual(await self.escrow(), 3 * UNIT + 1)

    async def test_the_same_job_again_changes_nothing(self):
        await self.submits()
        await self.remember_balances()
        self.says_nothing(await self.submits())
        self.assertEqual(await self.escrow(), 10 * UNIT)
        await self.moves(coordinator=0, client=0)

    async def test_the_same_job_again_is_fine_when_it_could_not_be_new(self):
        deadline = await self.chain.time() + 100
        await self.submits(sla_deadline=deadline)
        await self.coordinator.does(self.register(), self.assign(), self.complete(), self.distribute())
        await self.admin.does(
            self.manager.update_config(encode_shortstring("min_payment"), 1000 * UNIT)
        )
        await self.chain.pass_time(1000)
        self.says_nothing(await self.submits(sla_deadline=deadline))
        self.assertEqual(await self.state(OUR_ID), "Completed")

    async def test_another_coordinator_finds_the_same_job(self):
        await self.admin.does(self.manager.set_coordinator(self.deputy.address, True))
        await self.submits()
        self.says_nothing(await self.deputy.does(
            self.manager.submit_ai_job(spec(OUR_ID), 10 * UNIT, self.client.address)
        ))

    async def test_an_id_never_means_two_jobs(self):
        await self.submits()
        await self.refuses("SPEC_MISMATCH", self.submits(payment=11 * UNIT))
        await self.refuses("SPEC_MISMATCH", self.submits(client=self.other))
        await self.refuses("SPEC_MISMATCH", self.submits(input_data_hash=1))
        await self.refuses("SPEC_MISMATCH", self.submits(compute_requirements=[4, 8, 0]))
        await self.refuses("SPEC_MISMATCH", self.submits(metadata=[TAG, OUR_ID, 1]))

    async def test_an_id_has_64_bits_at_least_and_128_at_most(self):
        for bad in (0, 1, 2**64 - 1, 2**128, 2**250):
            await self.refuses("BAD_JOB_ID", self.submits(bad))
        await self.refuses("BAD_JOB_ID", self.submits(metadata=[TAG]))
        for good in (2**64, 2**128 - 1):
            await self.submits(good)
            self.assertEqual(await self.state(good), "Queued")

    async def test_nobody_can_take_an_id_of_ours(self):
        squat = self.manager.submit_ai_job(spec(OUR_ID), UNIT, self.client.address)
        ((_, keys, _),) = (await self.client.does(squat)).events("JobSubmitted")
        self.assertEqual(keys[:2], [1, 0])
        await self.refuses("NO_SUCH_JOB", self.manager.read("get_job_state", job_id(OUR_ID)))
        await self.submits()
        self.assertEqual((await self.details(OUR_ID))["payment_amount"], 10 * UNIT)

    async def test_a_job_without_our_tag_is_counted(self):
        for expected in (1, 2):
            receipt = await self.submits(None)
            self.assertEqual(receipt.events("JobSubmitted")[0][1][:2], [expected, 0])
        await self.refuses("NO_SPEC", self.manager.read("get_job_spec", job_id(1)))

    async def test_what_no_job_may_be(self):
        await self.refuses("PAYMENT_TOO_LOW", self.submits(payment=UNIT - 1))
        await self.refuses("DEADLINE_PAST", self.submits(sla_deadline=await self.chain.time()))
        await self.refuses("DEADLINE_PAST", self.submits(sla_deadline=0))
        await self.refuses("NO_REWARD", self.submits(max_reward=0))
        await self.submits(payment=UNIT, max_reward=2**128)

    async def test_every_job_type_is_kept(self):
        names = ("AIInference", "AITraining", "ProofGeneration", "ProofVerification")
        for number, name in enumerate(names):
            await self.submits(OUR_ID + number, job_type={name: None})
            self.assertEqual((await self.details(OUR_ID + number))["job_type"].variant, name)


class OthersJobs(Story):
    async def test_a_client_pays_and_its_terms_can_be_read(self):
        await self.remember_balances()
        uri = "https://example.org/input.bin"
        wanted = spec(
            job_type={"AITraining": None},
            metadata=[REFERENCE, encode_shortstring("sha256"), 2**127, 5, 1, encode_shortstring(uri)],
        )
        await self.client.does(self.manager.submit_ai_job(wanted, 4 * UNIT, self.client.address))
        await self.moves(client=-4 * UNIT)
        kept = await self.manager.read("get_job_spec", job_id(1))
        self.assertEqual(kept["job_type"].variant, "AITraining")
        self.assertEqual(kept["verification_method"].variant, "None")
        for field in ("model_id", "input_data_hash", "expected_output_format", "max_reward",
                      "sla_deadline", "compute_requirements", "metadata"):
            self.assertEqual(kept[field], wanted[field], field)

    async def test_the_same_job_of_a_client_twice_is_two_jobs(self):
        self.assertEqual([await self.orders(), await self.orders()], [1, 2])
        self.assertEqual(await self.escrow(), 20 * UNIT)

    async def test_a_client_submits_for_itself_only(self):
        order = self.manager.submit_ai_job(spec(), UNIT, self.other.address)
        await self.refuses("NOT_CLIENT", self.client.does(order))
        proof = self.manager.submit_prove_job(self.proof(), UNIT, self.other.address)
        await self.refuses("NOT_CLIENT", self.client.does(proof))

    async def test_terms_that_fill_the_chain_are_refused(self):
        # 11 felts of a spec are not metadata; 256 may be kept.
        await self.refuses("SPEC_TOO_LONG", self.orders(metadata=[1] * 246, compute_requirements=[]))
        first = await self.orders(metadata=[1] * 245, compute_requirements=[])
        kept = await self.manager.read("get_job_spec", job_id(first))
        self.assertEqual(kept["metadata"], [1] * 245)

    async def test_a_client_without_money_or_approval_gets_no_job(self):
        order = self.manager.submit_ai_job(spec(), UNIT, self.other.address)
        await self.refuses("ALLOWANCE_TOO_LOW", self.other.does(order))
        approve = self.token.approve(self.manager.address, 2 * UNIT)
        await self.refuses("BALANCE_TOO_LOW", self.other.does(approve, order))
        await self.refuses("NO_SUCH_JOB", self.details(1))

    async def test_a_proof_is_ordered(self):
        order = self.manager.submit_prove_job(self.proof(), 2 * UNIT, self.client.address)
        ((_, keys, data),) = (await self.client.does(order)).events("JobSubmitted")
        self.assertEqual((keys, data), ([1, 0, self.client.address], halves(2 * UNIT)))
        self.assertEqual((await self.details(1))["job_type"].variant, "ProofGeneration")
        kept = await self.manager.read("get_job_spec", job_id(1))
        self.assertEqual(kept["metadata"], [TAG, OUR_ID])
        self.assertEqual(kept["expected_output_format"], 77)
        self.assertEqual(kept["input_data_hash"], 88)
        self.assertEqual(kept["compute_requirements"], [99])
        self.assertEqual(kept["max_reward"], 2 * UNIT)

    async def test_a_proof_has_a_counted_id_and_a_price_whoever_orders_it(self):
        order = self.manager.submit_prove_job(self.proof(), UNIT, self.client.address)
        ((_, keys, _),) = (await self.coordinator.does(order)).events("JobSubmitted")
        self.assertEqual(keys[:2], [1, 0])
        cheap = self.manager.submit_prove_job(self.proof(), UNIT - 1, self.client.address)
        await self.refuses("PAYMENT_TOO_LOW", self.coordinator.does(cheap))

    def proof(self):
        return {
            "circuit_id": 77,
            "public_inputs": [TAG, OUR_ID],
            "private_inputs_hash": 88,
            "expected_proof_size": 99,
        }


class WhoPays(Story):
    async def test_a_coordinator_pays_for_its_jobs(self):
        await self.remember_balances()
        await self.submits()
        await self.moves(coordinator=-10 * UNIT, client=0)

    async def test_a_client_that_allowed_it_pays(self):
        await self.client.does(self.manager.set_charge_limit(25 * UNIT))
        await self.remember_balances()
        await self.submits(OUR_ID)
        await self.submits(OUR_ID + 1)
        await self.moves(client=-20 * UNIT, coordinator=0)
        self.assertEqual(await self.limit(), 5 * UNIT)
        await self.submits(OUR_ID + 2)
        await self.moves(client=-20 * UNIT, coordinator=-10 * UNIT)
        self.assertEqual(await self.limit(), 5 * UNIT)
        await self.submits(OUR_ID + 3, payment=5 * UNIT)
        await self.moves(client=-25 * UNIT)
        self.assertEqual(await self.limit(), 0)

    async def test_the_same_job_again_is_charged_once(self):
        await self.client.does(self.manager.set_charge_limit(25 * UNIT))
        await self.submits()
        await self.submits()
        self.assertEqual(await self.limit(), 15 * UNIT)

    async def test_a_limit_is_no_approval(self):
        await self.client.does(
            self.manager.set_charge_limit(25 * UNIT), self.token.approve(self.manager.address, 0)
        )
        await self.refuses("ALLOWANCE_TOO_LOW", self.submits())
        self.assertEqual(await self.limit(), 25 * UNIT)

    async def test_a_refund_goes_to_who_paid_and_leaves_the_limit(self):
        await self.client.does(self.manager.set_charge_limit(10 * UNIT))
        await self.submits(OUR_ID)
        await self.submits(OUR_ID + 1)
        await self.remember_balances()
        await self.coordinator.does(self.cancel(OUR_ID))
        await self.moves(client=10 * UNIT, coordinator=0)
        await self.coordinator.does(self.cancel(OUR_ID + 1))
        await self.moves(client=10 * UNIT, coordinator=10 * UNIT)
        self.assertEqual(await self.limit(), 0)

    async def test_a_limit_lets_nobody_else_charge(self):
        await self.client.does(self.manager.set_charge_limit(25 * UNIT))
        order = self.manager.submit_ai_job(spec(), UNIT, self.client.address)
        await self.refuses("NOT_CLIENT", self.stranger.does(order))
        self.assertEqual(await self.balance(self.client), GIVEN)

    async def test_a_limit_can_be_withdrawn(self):
        await self.client.does(self.manager.set_charge_limit(25 * UNIT))
        await self.client.does(self.manager.set_charge_limit(0))
        await self.remember_balances()
        await self.submits()
        await self.moves(client=0, coordinator=-10 * UNIT)

    async def limit(self):
        return await self.manager.read("get_charge_limit", self.client.address)


if __name__ == "__main__":
    unittest.main()
