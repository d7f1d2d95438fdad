"""read_jobs.py says what happened, as a program of its own."""

import asyncio
import json
import os
import pathlib
import sys
import unittest
import uuid

from world import OUR_ID, UNIT, WORKER_ONE, Story, share, spec

SCRIPT = pathlib.Path(__file__).with_name("read_jobs.py")


class Reader(Story):
    async def test_jobs_are_read_back_with_their_events(self):
        await self.at_work(OUR_ID, payment=10 * UNIT)
        await self.coordinator.does(self.settle(OUR_ID, shares=[share(WORKER_ONE, 4 * UNIT)]))
        await self.submits(OUR_ID + 1)
        other = await self.orders()
        name, late = str(uuid.UUID(int=OUR_ID)), hex(OUR_ID + 1)
        report = await self.read_jobs([name, late, 99])
        self.assertEqual(report["generation"], "ciro-2")
        self.assertEqual(report["escrow"], str(20 * UNIT))
        done = report["jobs"][name]
        self.assertEqual(done["details"]["state"], "Completed")
        self.assertEqual(done["details"]["worker"], hex(self.one.address))
        self.assertEqual(done["paid"], str(4 * UNIT))
        said = [event["name"] for event in done["events"]]
        self.assertEqual(said, ["JobSubmitted", "JobAssigned", "JobCompleted", "PaymentReleased"])
        self.assertEqual(done["events"][1]["worker"], hex(WORKER_ONE))
        self.assertEqual(done["events"][3]["amount"], str(4 * UNIT * 9750 // 10000))
        self.assertEqual(report["jobs"][late]["paid"], "0")
        self.assertEqual(report["jobs"]["99"], {"details": None, "paid": None, "events": []})
        self.assertEqual(list(report["others"]), [str(other)])

    async def test_more_events_than_a_page_holds(self):
        for start in range(0, 120, 40):
            await self.coordinator.does(*(self.order(start + number) for number in range(40)))
        report = await self.read_jobs([OUR_ID + number for number in range(120)])
        self.assertTrue(all(len(job["events"]) == 1 for job in report["jobs"].values()))
        self.assertEqual(len(report["jobs"]), 120)

    def order(self, number):
        return self.manager.submit_ai_job(spec(OUR_ID + number), UNIT, self.client.address)

    async def read_jobs(self, ids):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), os.environ["CIRO_STARKNET_URL"], hex(self.manager.address),
            json.dumps(ids), stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        self.assertEqual(process.returncode, 0)
        return json.loads(printed)


if __name__ == "__main__":
    unittest.main()
