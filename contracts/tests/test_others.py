"""The contracts beside it: the token, the class with the known defect, and the
interface that both classes share with the one people know."""

import json
import os
import pathlib
import random
import unittest

from chain import Reverted, artifact
from starknet_py.cairo.felt import encode_shortstring as text
from world import OUR_ID, SUPPLY, UNIT, WORKER_ONE, WORKER_TWO, Story, halves, job_id, result, share, spec, worker_id

KNOWN = pathlib.Path(__file__).with_name("known_interface.json")


class Token(Story):
    async def test_it_is_what_it_was_made(self):
        self.assertEqual(await self.token.read("name"), text("Test"))
        self.assertEqual(await self.token.read("symbol"), text("TST"))
        self.assertEqual(await self.token.read("decimals"), 18)
        self.assertEqual(await self.token.read("total_supply"), SUPPLY)
        self.assertEqual(await self.token.read("owner"), self.admin.address)

    async def test_only_its_owner_mints(self):
        await self.refuses("NOT_OWNER", self.client.does(self.token.mint(self.client.address, 1)))
        receipt = await self.admin.does(self.token.mint(self.client.address, 5))
        self.assertEqual(receipt.events(), [("Transfer", [0, self.client.address], halves(5))])
        self.assertEqual(await self.token.read("total_supply"), SUPPLY + 5)

    async def test_an_approval_is_used_up(self):
        await self.client.does(self.token.approve(self.stranger.address, 10))
        take = self.token.transfer_from(self.client.address, self.stranger.address, 6)
        await self.stranger.does(take)
        left = await self.token.read("allowance", self.client.address, self.stranger.address)
        self.assertEqual(left, 4)
        await self.refuses("ALLOWANCE_TOO_LOW", self.stranger.does(take))

    async def test_nobody_sends_what_it_has_not_or_to_nobody(self):
        await self.refuses(
            "BALANCE_TOO_LOW", self.spare.does(self.token.transfer(self.client.address, UNIT * 10**9))
        )
        await self.refuses("BAD_ADDRESS", self.client.does(self.token.transfer(0, 1)))


class KnownDefect(Story):
    """The reduced class: submission works, and nothing else."""

    async def asyncSetUp(self):
        await super().asyncSetUp()
        someone = self.treasury.address
        self.old = await self.chain.deploy(
            "job_manager_v1", self.admin.address, self.token.address, someone, someone
        )

    async def test_submission_counts_and_says_so(self):
        await self.remember_balances()
        for expected in (1, 2):
            order = self.old.submit_ai_job(spec(OUR_ID), UNIT, self.client.address)
            receipt = await self.coordinator.does(order)
            event = ("JobSubmitted", [*halves(expected), self.client.address], halves(UNIT))
            self.assertEqual(receipt.events(), [event])
        await self.moves(coordinator=0, client=0)

    async def test_nothing_else_works_for_any_job(self):
        await self.coordinator.does(self.old.submit_ai_job(spec(), UNIT, self.client.address))
        for call in (
            self.old.assign_job_to_worker(job_id(1), worker_id(WORKER_ONE)),
            self.old.submit_job_result(job_id(1), result(1, WORKER_ONE)),
            self.old.distribute_rewards(job_id(1)),
        ):
            await self.refuses("Job not found", self.coordinator.does(call))
        for view in ("get_job_details", "get_job_state"):
            await self.refuses("Job not found", self.old.read(view, job_id(1)))

    async def test_what_it_checks(self):
        for reason, payment, changes in (
            ("Payment too low", UNIT - 1, {}),
            ("Deadline in the past", UNIT, {"sla_deadline": 0}),
            ("No reward", UNIT, {"max_reward": 0}),
        ):
            order = self.old.submit_ai_job(spec(**changes), payment, self.client.address)
            await self.refuses(reason, self.coordinator.does(order))


class KnownInterface(unittest.TestCase):
    """Names, types and order are those of the class people know."""

    # The worker's id may be any felt, which is no address; as felts both are one.
    FELT_WORKER = {"JobAssigned", "JobCompleted"}

    def test_functions_and_types_are_the_known_ones(self):
        ours = self.by_name(json.loads(artifact("job_manager"))["abi"])
        for name, known in self.by_name(json.loads(KNOWN.read_text())).items():
            self.assertEqual(self.shape(ours[name]), self.shape(known), name)

    def by_name(self, abi):
        entries = {}
        for entry in abi:
            if entry["type"] == "interface":
                entries.update((item["name"], item) for item in entry["items"])
            elif entry["type"] in ("function", "struct") or self.is_plain(entry):
                entries[entry["name"]] = entry
        return entries

    def is_plain(self, entry):
        return entry["type"] in ("enum", "event") and entry.get("kind") != "enum" and "bool" not in entry["name"]

    def shape(self, entry):
        short = entry["name"].split("::")[-1]
        members = [
            (field["name"], "felt" if short in self.FELT_WORKER and field["name"] == "worker" else field["type"],
             field.get("kind"))
            for field in entry.get("inputs") or entry.get("members") or entry.get("variants") or []
        ]
        return members, entry.get("outputs"), entry.get("state_mutability")


class AnyOrder(Story):
    """Two hundred calls at random, many of them again: the books stay exact."""

    async def test_the_books_are_exact_after_any_history(self):
        seed = int(os.environ.get("CIRO_TEST_SEED", random.randrange(2**32)))
        print(f"seed {seed}")
        dice = random.Random(seed)
        await self.admin.does(self.manager.set_coordinator(self.deputy.address, True))
        await self.client.does(self.manager.set_charge_limit(100 * UNIT))
        await self.coordinator.does(self.register(), self.register(WORKER_TWO, self.two))
        owed = {}
        for _ in range(200):
            await self.try_one(dice, owed)
        self.assertTrue(owed, "no job came about")
        self.assertEqual(await self.escrow(), sum([await self.owed(ident, pay) for ident, pay in owed.items()]))

    async def try_one(self, dice, owed):
        ident = OUR_ID + dice.randrange(12)
        worker = dice.choice((WORKER_ONE, WORKER_TWO))
        payment = (ident - OUR_ID + 2) * UNIT + 7
        shares = [share(worker, dice.choice((UNIT, 2 * UNIT + 3)))]
        calls = {
            "submit": self.manager.submit_ai_job(spec(ident), payment, self.client.address),
            "assign": self.assign(ident, worker),
            "complete": self.complete(ident, worker),
            "distribute": self.distribute(ident),
            "settle": self.settle(ident, worker, shares),
            "cancel": self.cancel(ident),
        }
        names = dice.choices(list(calls), weights=(6, 5, 3, 3, 2, 1), k=dice.randint(1, 3))
        try:
            await self.coordinator.does(*(calls[name] for name in names))
        except Reverted:  # most histories are not allowed
            return
        if "submit" in names:
            owed[ident] = payment

    async def owed(self, ident, payment):
        """What the contract must still hold for a job, by what it says of it."""
        state = await self.state(ident)
        if state in ("Cancelled", "Failed"):
            return 0
        return payment if await self.paid(ident) == 0 else 0


if __name__ == "__main__":
    unittest.main()
