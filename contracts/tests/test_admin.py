"""The admin: roles, settings, the pause, and what may be taken out in need."""

import unittest

from starknet_py.cairo.felt import encode_shortstring as text
from world import OUR_ID, UNIT, WORKER_ONE, WORKER_TWO, Story, halves, job_id, share, spec, worker_id


class Roles(Story):
    async def test_the_admin_is_the_first_coordinator(self):
        self.assertTrue(await self.manager.read("is_coordinator", self.admin.address))
        self.assertFalse(await self.manager.read("is_coordinator", self.stranger.address))
        self.assertEqual(await self.manager.read("get_admin"), self.admin.address)

    async def test_the_admin_appoints_coordinators_and_dismisses_them(self):
        await self.refuses("NOT_COORDINATOR", self.deputy.does(self.assign()))
        receipt = await self.admin.does(self.manager.set_coordinator(self.deputy.address, True))
        self.assertEqual(receipt.events(), [("CoordinatorSet", [self.deputy.address], [1])])
        await self.refuses("NO_SUCH_JOB", self.deputy.does(self.assign()))
        await self.admin.does(self.manager.set_coordinator(self.deputy.address, False))
        await self.refuses("NOT_COORDINATOR", self.deputy.does(self.assign()))

    async def test_the_admin_hands_over(self):
        receipt = await self.admin.does(self.manager.set_admin(self.deputy.address))
        self.assertEqual(receipt.events(), [("AdminSet", [self.deputy.address], [])])
        await self.refuses("NOT_ADMIN", self.admin.does(self.manager.pause()))
        await self.deputy.does(self.manager.pause())
        await self.refuses("BAD_ADDRESS", self.deputy.does(self.manager.set_admin(0)))

    async def test_nobody_else_does_what_the_admin_does(self):
        manager, someone = self.manager, self.stranger.address
        for call in (
            manager.pause(), manager.unpause(), manager.set_admin(someone),
            manager.set_coordinator(someone, True), manager.update_config(text("fee_bps"), 0),
            manager.emergency_withdraw(self.token.address, 0),
            manager.register_model(1, self.needs(), 1),
        ):
            await self.refuses("NOT_ADMIN", self.coordinator.does(call))
        await self.refuses("BAD_ADDRESS", self.admin.does(manager.set_coordinator(0, True)))

    async def test_a_model_is_registered_once(self):
        receipt = await self.admin.does(self.manager.register_model(2**200 + 5, self.needs(), UNIT))
        self.assertEqual(
            receipt.events(), [("ModelRegistered", [*halves(2**200 + 5), self.admin.address], [])]
        )
        self.says_nothing(await self.admin.does(self.manager.register_model(2**200 + 5, self.needs(), UNIT)))
        dearer = self.manager.register_model(2**200 + 5, self.needs(), UNIT + 1)
        await self.refuses("MODEL_MISMATCH", self.admin.does(dearer))

    def needs(self):
        return {
            "min_memory_gb": 16, "min_compute_units": 2,
            "required_gpu_type": text("any"), "framework_dependencies": [1],
        }


class Settings(Story):
    async def test_settings_are_read(self):
        settings = await self.manager.read("get_settings")
        self.assertEqual(dict(settings), {
            "token": self.token.address, "fee_recipient": self.treasury.address,
            "fee_bps": 250, "min_payment": UNIT, "paused": False,
        })
        self.assertEqual(await self.manager.read("get_generation"), text("ciro-2"))

    async def test_settings_change(self):
        for key, value in (
            ("fee_bps", 10000), ("fee_recipient", self.spare.address), ("min_payment", 2 * UNIT),
        ):
            receipt = await self.admin.does(self.manager.update_config(text(key), value))
            self.assertEqual(receipt.events(), [("ConfigSet", [text(key)], [value])])
        await self.refuses("PAYMENT_TOO_LOW", self.submits(payment=2 * UNIT - 1))
        await self.at_work(payment=2 * UNIT)
        before = await self.balance(self.spare)
        await self.coordinator.does(self.complete(), self.distribute())
        self.assertEqual(await self.balance(self.spare) - before, 2 * UNIT)

    async def test_what_no_setting_may_be(self):
        for key, value in (
            ("fee_bps", 10001), ("fee_bps", 2**16), ("fee_recipient", 0),
            ("fee_recipient", 2**251), ("token", self.stranger.address), ("", 1),
        ):
            key = text(key) if key else 0
            await self.refuses("BAD_CONFIG", self.admin.does(self.manager.update_config(key, value)))

    async def test_what_no_contract_may_begin_with(self):
        admin, token, fees = self.admin.address, self.token.address, self.treasury.address
        for reason, calldata in (
            ("BAD_ADDRESS", (0, token, fees, 250, 0, 0)),
            ("BAD_ADDRESS", (admin, 0, fees, 250, 0, 0)),
            ("BAD_CONFIG", (admin, token, fees, 10001, 0, 0)),
            ("BAD_CONFIG", (admin, token, 0, 250, 0, 0)),
        ):
            await self.refuses(reason, self.chain.deploy("job_manager", *calldata))
        await self.chain.deploy("job_manager", admin, token, 0, 0, 0, 0)


class Pause(Story):
    async def test_while_paused_no_job_and_no_money_moves(self):
        await self.at_work(OUR_ID)
        await self.at_work(OUR_ID + 1)
        await self.coordinator.does(self.complete(OUR_ID + 1))
        receipt = await self.admin.does(self.manager.pause())
        self.assertEqual(receipt.events(), [("PauseSet", [], [1])])
        self.says_nothing(await self.admin.does(self.manager.pause()))
        proof = {"circuit_id": 1, "public_inputs": [], "private_inputs_hash": 2, "expected_proof_size": 3}
        new = self.manager.submit_ai_job(spec(OUR_ID + 2), UNIT, self.client.address)
        for call in (
            new, self.manager.submit_ai_job(spec(OUR_ID), 10 * UNIT, self.client.address),
            self.manager.submit_prove_job(proof, UNIT, self.client.address),
            self.assign(worker=WORKER_TWO), self.assign(), self.complete(), self.distribute(OUR_ID + 1),
            self.settle(shares=[share(WORKER_ONE, UNIT)]), self.cancel(),
        ):
            await self.refuses("PAUSED", self.coordinator.does(call))
        await self.refuses("PAUSED", self.client.does(new))
        await self.admin.does(self.manager.unpause())
        await self.coordinator.does(self.cancel(), self.distribute(OUR_ID + 1))

    async def test_while_paused_one_can_look_and_leave(self):
        ident = await self.orders()
        await self.at_work(OUR_ID, sla_deadline=await self.chain.time() + 100)
        await self.submits(OUR_ID + 1)
        await self.admin.does(self.manager.pause())
        await self.chain.pass_time(200)
        await self.remember_balances()
        await self.client.does(self.cancel(ident))
        await self.stranger.does(self.expire(OUR_ID))
        await self.coordinator.does(self.cancel(OUR_ID + 1))  # it paid, and nobody works on it
        await self.moves(client=10 * UNIT, coordinator=20 * UNIT)
        self.assertEqual(await self.state(OUR_ID), "Failed")
        self.assertTrue((await self.manager.read("get_settings"))["paused"])
        await self.coordinator.does(self.register(WORKER_TWO, self.two))
        await self.client.does(self.manager.set_charge_limit(0))


class Emergency(Story):
    async def test_the_escrow_stays_whatever_happens(self):
        await self.submits(payment=10 * UNIT)
        await self.client.does(self.token.transfer(self.manager.address, 3 * UNIT))
        self.donated = 3 * UNIT
        withdraw = self.manager.emergency_withdraw
        await self.refuses("NOT_PAUSED", self.admin.does(withdraw(self.token.address, 1)))
        await self.admin.does(self.manager.pause())
        await self.refuses("ESCROW_LOCKED", self.admin.does(withdraw(self.token.address, 3 * UNIT + 1)))
        await self.refuses("BALANCE_TOO_LOW", self.admin.does(withdraw(self.token.address, 14 * UNIT)))
        await self.remember_balances()
        await self.admin.does(withdraw(self.token.address, 3 * UNIT))
        self.donated = 0
        await self.moves(admin=3 * UNIT)
        await self.refuses("ESCROW_LOCKED", self.admin.does(withdraw(self.token.address, 1)))

    async def test_a_job_done_and_not_paid_is_still_escrow(self):
        await self.at_work()
        await self.coordinator.does(self.complete())
        await self.admin.does(self.manager.pause())
        await self.refuses(
            "ESCROW_LOCKED", self.admin.does(self.manager.emergency_withdraw(self.token.address, 1))
        )

    async def test_another_token_that_strayed_here_is_given_back(self):
        other = await self.chain.deploy(
            "token", text("Other"), text("OTH"), 18, *halves(5 * UNIT), self.admin.address
        )
        await self.admin.does(other.transfer(self.manager.address, 5 * UNIT), self.manager.pause())
        await self.admin.does(self.manager.emergency_withdraw(other.address, 5 * UNIT))
        self.assertEqual(await other.read("balance_of", self.admin.address), 5 * UNIT)


class Views(Story):
    async def test_many_jobs_are_read_at_once_and_unknown_ones_show_as_such(self):
        await self.submits(OUR_ID)
        await self.at_work(OUR_ID + 1, job_type={"ProofVerification": None})
        asked = [OUR_ID + 1, 5, OUR_ID, OUR_ID + 2**128]
        found = await self.manager.read("get_job_details_many", [job_id(ident) for ident in asked])
        self.assertEqual([job["job_id"]["value"] for job in found], asked)
        self.assertEqual(
            [job["state"].variant for job in found], ["Processing", "Queued", "Queued", "Queued"]
        )
        self.assertEqual([job["created_at"] != 0 for job in found], [True, False, True, False])
        self.assertEqual(found[0]["worker"], self.one.address)
        self.assertEqual(found[0]["job_type"].variant, "ProofVerification")
        self.assertEqual(await self.manager.read("get_job_details_many", []), [])

    async def test_a_job_that_is_not_has_nothing_to_read(self):
        for view in ("get_job_details", "get_job_state", "get_job_spec", "get_paid"):
            for ident in (0, 1, OUR_ID, 2**128):
                await self.refuses("NO_SUCH_JOB", self.manager.read(view, job_id(ident)))

    async def test_nobody_is_nowhere(self):
        self.assertEqual(await self.manager.read("get_worker_address", worker_id(WORKER_ONE)), 0)
        self.assertEqual(await self.manager.read("get_epoch", self.stranger.address), 0)
        self.assertEqual(await self.manager.read("get_charge_limit", self.stranger.address), 0)
        self.assertEqual(await self.escrow(), 0)


if __name__ == "__main__":
    unittest.main()
