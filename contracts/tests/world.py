"""The scene of every story: a Job Manager, its token, and the people around it.

Each story gets contracts of its own on one node. When it ends, the books are
checked: the Job Manager holds exactly its escrow, and no token was made or lost.
"""

import asyncio
import os
import unittest

from chain import Chain, Reverted, reads_as
from starknet_py.cairo.felt import encode_shortstring

UNIT = 10**18
SUPPLY = 1_000_000_000 * UNIT
TAG = encode_shortstring("ciro.job.v1")
OUR_ID = 0x018F_3C2A_7B5D_4E6F_8A90_1B2C_3D4E_5F60
GIVEN = 1_000_000 * UNIT  # tokens a payer starts with

WORKER_ONE, WORKER_TWO, NOBODY = 0x1001, 0x1002, 0x1003


def job_id(value):
    return {"value": value}


def worker_id(value):
    return {"value": value}


def spec(ident=None, **changes):
    """A job's terms; with `ident` tagged as a coordinator's job of that id."""
    return {
        "job_type": {"AIInference": None},
        "model_id": {"value": 7},
        "input_data_hash": 0xABC,
        "expected_output_format": encode_shortstring("json"),
        "verification_method": {"None": None},
        "max_reward": 5 * UNIT,
        "sla_deadline": 2**63,
        "compute_requirements": [4, 8],
        "metadata": [] if ident is None else [TAG, ident],
        **changes,
    }


def result(ident, worker, **changes):
    return {
        "job_id": job_id(ident),
        "worker_id": worker_id(worker),
        "output_data_hash": 0xFEED,
        "computation_proof": [1, 2, 3],
        "gas_used": 2**130 + 1,
        "execution_time": 12,
        **changes,
    }


def share(worker, amount):
    return {"worker": worker_id(worker), "amount": amount}


def halves(value):
    return [value % 2**128, value >> 128]


class Story(unittest.IsolatedAsyncioTestCase):
    """`self.manager` and `self.token`, deployed; people who may and who may not."""

    maxDiff = None
    FEE_BPS = 250
    MIN_PAYMENT = UNIT
    chain = None  # the same for all stories

    async def asyncSetUp(self):
        # unittest turns the loop's debugging on, which makes everything several times slower.
        asyncio.get_running_loop().set_debug(False)
        if Story.chain is None:
            Story.chain = await Chain(os.environ["CIRO_STARKNET_URL"]).open()
        (
            self.admin, self.coordinator, self.deputy, self.client, self.other,
            self.one, self.two, self.treasury, self.stranger, self.spare,
        ) = self.chain.people
        self.began = await self.chain.time()
        await self.deploy()

    async def deploy(self):
        self.token = await self.chain.deploy(
            "token", encode_shortstring("Test"), encode_shortstring("TST"), 18,
            *halves(SUPPLY), self.admin.address,
        )
        self.manager = await self.new_manager(self.token.address)
        self.donated = 0
        await self.admin.does(
            self.manager.set_coordinator(self.coordinator.address, True),
            *(self.token.transfer(person.address, GIVEN) for person in self.payers()),
        )
        for person in self.payers():
            await person.does(self.token.approve(self.manager.address, 2**200))

    async def new_manager(self, token, fee_bps=None):
        fee_bps = self.FEE_BPS if fee_bps is None else fee_bps
        return await self.chain.deploy(
            "job_manager", self.admin.address, token, self.treasury.address,
            fee_bps, *halves(self.MIN_PAYMENT),
        )

    def payers(self):
        return (self.coordinator, self.client)

    async def asyncTearDown(self):
        held = await self.balance(self.manager)
        self.assertEqual(held, await self.escrow() + self.donated, "the escrow is not what is held")
        everybody = [*self.chain.people, self.manager]
        total = sum([await self.balance(holder) for holder in everybody])
        self.assertEqual(total, await self.token.read("total_supply"), "tokens were made or lost")

    # ---------------------------------------------------------------- asking

    async def balance(self, holder):
        return await self.token.read("balance_of", holder.address)

    async def escrow(self):
        return await self.manager.read("total_escrow")

    async def paid(self, ident):
        return await self.manager.read("get_paid", job_id(ident))

    async def state(self, ident):
        return (await self.manager.read("get_job_state", job_id(ident))).variant

    async def details(self, ident):
        return await self.manager.read("get_job_details", job_id(ident))

    # ---------------------------------------------------------------- saying

    async def refuses(self, reason, attempt):
        """The attempt reverts, for this reason."""
        with self.assertRaises(Reverted) as caught:
            await attempt
        self.assertTrue(reads_as(str(caught.exception), reason), f"{reason} is not in: {caught.exception}")

    async def is_now(self, time):
        """A block's time is set again when it is closed, so it is known to lie between two others only."""
        self.assertGreaterEqual(time, self.began)
        self.assertLessEqual(time, await self.chain.time())

    def says_nothing(self, receipt):
        self.assertEqual(receipt.events(), [])

    async def moves(self, **amounts):
        """Asserts by how much the balances of these people differ from before."""
        for name, amount in amounts.items():
            person = getattr(self, name)
            now = await self.balance(person)
            self.assertEqual(now - self.before.get(name, 0), amount, f"of {name}")

    async def remember_balances(self):
        names = ("admin", "coordinator", "client", "one", "two", "treasury", "stranger")
        self.before = {name: await self.balance(getattr(self, name)) for name in names}

    # ----------------------------------------------------------------- doing

    async def submits(self, ident=OUR_ID, payment=10 * UNIT, client=None, **changes):
        """The coordinator registers a job of its own."""
        client = client or self.client
        return await self.coordinator.does(
            self.manager.submit_ai_job(spec(ident, **changes), payment, client.address)
        )

    async def orders(self, payment=10 * UNIT, **changes):
        """The client submits a job on chain, and gets its id."""
        receipt = await self.client.does(
            self.manager.submit_ai_job(spec(**changes), payment, self.client.address)
        )
        ((_, keys, _),) = receipt.events("JobSubmitted")
        return keys[0] + (keys[1] << 128)

    def register(self, worker=WORKER_ONE, person=None):
        return self.manager.register_worker(worker_id(worker), (person or self.one).address)

    def assign(self, ident=OUR_ID, worker=WORKER_ONE):
        return self.manager.assign_job_to_worker(job_id(ident), worker_id(worker))

    def complete(self, ident=OUR_ID, worker=WORKER_ONE, **changes):
        return self.manager.submit_job_result(job_id(ident), result(ident, worker, **changes))

    def distribute(self, ident=OUR_ID):
        return self.manager.distribute_rewards(job_id(ident))

    def settle(self, ident=OUR_ID, worker=WORKER_ONE, shares=(), **changes):
        return self.manager.settle_job(job_id(ident), result(ident, worker, **changes), list(shares))

    def cancel(self, ident=OUR_ID):
        return self.manager.cancel_job(job_id(ident))

    def expire(self, ident=OUR_ID):
        return self.manager.expire_job(job_id(ident))

    async def at_work(self, ident=OUR_ID, worker=WORKER_ONE, person=None, **terms):
        """A job that worker has, whose address is registered."""
        await self.submits(ident, **terms)
        await self.coordinator.does(self.register(worker, person), self.assign(ident, worker))
