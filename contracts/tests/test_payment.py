"""Payment: once, exact to the unit, and what is not earned goes back."""

import unittest

from world import NOBODY, OUR_ID, SUPPLY, UNIT, WORKER_ONE, WORKER_TWO, Story, halves, job_id, result, share, worker_id


class Rewards(Story):
    async def test_a_worker_is_paid_less_the_fee_once(self):
        await self.at_work(payment=10 * UNIT)
        await self.coordinator.does(self.complete())
        await self.remember_balances()
        receipt = await self.coordinator.does(self.distribute())
        net = 10 * UNIT * 9750 // 10000
        self.assertEqual(
            receipt.events("PaymentReleased"),
            [("PaymentReleased", [*halves(OUR_ID), self.one.address], halves(net))],
        )
        await self.moves(one=net, treasury=10 * UNIT - net, coordinator=0, client=0)
        self.assertEqual(await self.escrow(), 0)
        self.assertEqual(await self.paid(OUR_ID), 10 * UNIT)
        self.says_nothing(await self.coordinator.does(self.distribute()))
        await self.moves(one=net, treasury=10 * UNIT - net)

    async def test_only_a_coordinator_distributes(self):
        await self.at_work()
        await self.coordinator.does(self.complete())
        for person in (self.one, self.two, self.client, self.stranger):
            await self.refuses("NOT_COORDINATOR", person.does(self.distribute()))
        self.assertEqual(await self.paid(OUR_ID), 0)

    async def test_no_work_no_reward(self):
        await self.refuses("NO_SUCH_JOB", self.coordinator.does(self.distribute()))
        await self.submits()
        await self.refuses("NOT_COMPLETED", self.coordinator.does(self.distribute()))
        await self.coordinator.does(self.assign())
        await self.refuses("NOT_COMPLETED", self.coordinator.does(self.distribute()))
        await self.coordinator.does(self.cancel())
        await self.refuses("JOB_ENDED", self.coordinator.does(self.distribute()))

    async def test_a_worker_without_an_address_waits(self):
        await self.submits()
        await self.coordinator.does(self.assign(worker=NOBODY), self.complete(worker=NOBODY))
        await self.refuses("WORKER_UNKNOWN", self.coordinator.does(self.distribute()))
        self.assertEqual(await self.paid(OUR_ID), 0)
        await self.coordinator.does(self.register(NOBODY, self.two), self.distribute())
        self.assertEqual(await self.paid(OUR_ID), 10 * UNIT)

    async def test_fees_are_rounded_down(self):
        for number, payment in enumerate((UNIT + 39, UNIT + 40, 3 * UNIT + 9999)):
            ident = OUR_ID + number
            await self.at_work(ident, payment=payment)
            await self.remember_balances()
            await self.coordinator.does(self.complete(ident), self.distribute(ident))
            fee = payment * 250 // 10000
            await self.moves(one=payment - fee, treasury=fee)


class Settlement(Story):
    async def test_agreed_prices_are_paid_and_the_rest_goes_back(self):
        await self.at_work(payment=10 * UNIT)
        await self.coordinator.does(self.register(WORKER_TWO, self.two))
        await self.remember_balances()
        shares = [share(WORKER_ONE, 3 * UNIT + 1), share(WORKER_TWO, UNIT + 777)]
        receipt = await self.coordinator.does(self.settle(shares=shares))
        fees = [(3 * UNIT + 1) * 250 // 10000, (UNIT + 777) * 250 // 10000]
        await self.moves(
            one=3 * UNIT + 1 - fees[0], two=UNIT + 777 - fees[1], treasury=sum(fees),
            coordinator=6 * UNIT - 778, client=0,
        )
        self.assertEqual(await self.paid(OUR_ID), 4 * UNIT + 778)
        self.assertEqual([name for name, _, _ in receipt.events("JobCompleted", "PaymentReleased")],
                         ["JobCompleted", "PaymentReleased", "PaymentReleased"])
        self.assertEqual(await self.state(OUR_ID), "Completed")

    async def test_again_changes_nothing_and_otherwise_is_refused(self):
        shares = [share(WORKER_ONE, 3 * UNIT)]
        await self.at_work()
        await self.coordinator.does(self.settle(shares=shares))
        await self.remember_balances()
        self.says_nothing(await self.coordinator.does(self.settle(shares=shares)))
        self.says_nothing(await self.coordinator.does(self.complete()))
        self.says_nothing(await self.coordinator.does(self.distribute()))
        wrong = self.settle(shares=shares, output_data_hash=1)
        await self.refuses("RESULT_MISMATCH", self.coordinator.does(wrong))
        for other in ([], [share(WORKER_ONE, 3 * UNIT - 1)], [share(WORKER_TWO, 3 * UNIT)], shares * 2):
            await self.refuses("SHARES_MISMATCH", self.coordinator.does(self.settle(shares=other)))
        await self.moves(one=0, treasury=0, coordinator=0)

    async def test_a_result_that_is_there_is_settled(self):
        await self.at_work()
        await self.coordinator.does(self.complete())
        wrong = self.settle(shares=[share(WORKER_ONE, UNIT)], execution_time=1)
        await self.refuses("RESULT_MISMATCH", self.coordinator.does(wrong))
        await self.coordinator.does(self.settle(shares=[share(WORKER_ONE, UNIT)]))
        self.assertEqual(await self.paid(OUR_ID), UNIT)

    async def test_a_distributed_reward_is_a_share_of_all(self):
        await self.at_work(payment=10 * UNIT)
        await self.coordinator.does(self.complete(), self.distribute())
        less = self.settle(shares=[share(WORKER_ONE, 9 * UNIT)])
        await self.refuses("SHARES_MISMATCH", self.coordinator.does(less))
        same = self.settle(shares=[share(WORKER_ONE, 10 * UNIT)])
        self.says_nothing(await self.coordinator.does(same))

    async def test_nobody_gets_more_than_there_is(self):
        await self.at_work(payment=10 * UNIT)
        await self.coordinator.does(self.register(WORKER_TWO, self.two))
        for shares in (
            [share(WORKER_ONE, 10 * UNIT + 1)],
            [share(WORKER_ONE, 10 * UNIT), share(WORKER_TWO, 1)],
            [share(WORKER_ONE, 2**256 - 1), share(WORKER_TWO, 10 * UNIT + 1)],
        ):
            await self.refuses("SHARES_TOO_HIGH", self.coordinator.does(self.settle(shares=shares)))
        self.assertEqual(await self.state(OUR_ID), "Processing")
        await self.coordinator.does(self.settle(shares=[share(WORKER_ONE, 4 * UNIT), share(WORKER_TWO, 6 * UNIT)]))

    async def test_eight_share_and_nine_do_not(self):
        await self.at_work(payment=10 * UNIT)
        nine = self.settle(shares=[share(WORKER_ONE, UNIT)] * 9)
        await self.refuses("TOO_MANY_SHARES", self.coordinator.does(nine))
        await self.coordinator.does(self.settle(shares=[share(WORKER_ONE, UNIT)] * 8))
        self.assertEqual(await self.paid(OUR_ID), 8 * UNIT)

    async def test_a_free_job_pays_nobody(self):
        await self.at_work(payment=10 * UNIT)
        await self.remember_balances()
        await self.coordinator.does(self.settle(shares=[]))
        await self.moves(coordinator=10 * UNIT, one=0, treasury=0)
        self.assertEqual(await self.paid(OUR_ID), 0)
        self.says_nothing(await self.coordinator.does(self.settle(shares=[])))
        self.says_nothing(await self.coordinator.does(self.distribute()))
        await self.moves(coordinator=10 * UNIT, one=0, treasury=0)

    async def test_a_share_of_nothing_needs_no_address(self):
        await self.submits()
        receipt = await self.coordinator.does(self.settle(worker=NOBODY, shares=[share(NOBODY, 0)]))
        self.assertEqual(receipt.events("PaymentReleased"), [])

    async def test_a_share_of_something_does(self):
        await self.at_work()
        lost = self.settle(shares=[share(WORKER_ONE, UNIT), share(NOBODY, 1)])
        await self.refuses("WORKER_UNKNOWN", self.coordinator.does(lost))
        self.assertEqual(await self.state(OUR_ID), "Processing")

    async def test_an_assignment_that_was_overtaken_does_not_matter(self):
        await self.at_work()
        await self.coordinator.does(self.register(WORKER_TWO, self.two))
        alone = self.settle(worker=WORKER_TWO, shares=[share(WORKER_ONE, UNIT)])
        await self.refuses("WRONG_WORKER", self.coordinator.does(alone))
        await self.coordinator.does(self.settle(worker=WORKER_TWO, shares=[share(WORKER_TWO, UNIT)]))
        self.assertEqual((await self.details(OUR_ID))["worker"], self.two.address)
        stats = await self.manager.read("get_worker_stats", worker_id(WORKER_TWO))
        self.assertEqual(stats["total_jobs_completed"], 1)

    async def test_a_job_never_assigned_is_settled(self):
        await self.submits()
        await self.refuses("WRONG_WORKER", self.coordinator.does(self.settle(shares=[])))
        await self.coordinator.does(self.register(), self.settle(shares=[share(WORKER_ONE, UNIT)]))
        self.assertEqual(await self.state(OUR_ID), "Completed")

    async def test_only_a_coordinator_settles(self):
        await self.at_work()
        for person in (self.one, self.client, self.stranger):
            await self.refuses("NOT_COORDINATOR", person.does(self.settle(shares=[share(WORKER_ONE, UNIT)])))

    async def test_what_is_not_there_is_not_settled(self):
        await self.refuses("NO_SUCH_JOB", self.coordinator.does(self.settle()))
        await self.submits()
        other = self.manager.settle_job(job_id(OUR_ID), result(OUR_ID + 1, WORKER_ONE), [])
        await self.refuses("JOB_ID_MISMATCH", self.coordinator.does(other))
        await self.coordinator.does(self.cancel())
        ended = self.settle(shares=[share(WORKER_ONE, 0)])
        await self.refuses("JOB_ENDED", self.coordinator.does(ended))

    async def test_a_clients_job_is_settled_and_the_rest_is_the_clients(self):
        ident = await self.orders(payment=10 * UNIT)
        await self.coordinator.does(self.register(), self.assign(ident))
        await self.remember_balances()
        await self.coordinator.does(self.settle(ident, shares=[share(WORKER_ONE, 4 * UNIT)]))
        await self.moves(client=6 * UNIT, coordinator=0)


class LargeSums(Story):
    FEE_BPS = 9999

    async def test_a_payment_beyond_128_bits_is_exact(self):
        payment = 2**199 + 12345
        await self.admin.does(self.token.mint(self.coordinator.address, payment))
        await self.at_work(payment=payment)
        self.assertEqual(await self.escrow(), payment)
        await self.remember_balances()
        shares = [share(WORKER_ONE, 2**198 + 1)]
        await self.coordinator.does(self.settle(shares=shares))
        fee = (2**198 + 1) * 9999 // 10000
        await self.moves(one=2**198 + 1 - fee, treasury=fee, coordinator=payment - 2**198 - 1)
        self.assertEqual(await self.token.read("total_supply"), SUPPLY + payment)


class NoFee(Story):
    FEE_BPS = 0
    MIN_PAYMENT = 0

    async def test_without_a_fee_all_is_the_workers(self):
        await self.at_work(payment=1)
        await self.remember_balances()
        await self.coordinator.does(self.complete(), self.distribute())
        await self.moves(one=1, treasury=0)

    async def test_a_job_may_be_free(self):
        await self.submits(payment=0)
        await self.coordinator.does(self.assign(worker=NOBODY), self.complete(worker=NOBODY))
        self.assertEqual((await self.coordinator.does(self.distribute())).events(), [])
        await self.submits(OUR_ID + 1, payment=0)
        await self.coordinator.does(self.cancel(OUR_ID + 1))


if __name__ == "__main__":
    unittest.main()
