"""Reads jobs back from a Job Manager, for those who want to check a node.

    contracts/python.sh contracts/tests/read_jobs.py RPC_URL CONTRACT IDS [--block latest|pre_confirmed]

IDS is a JSON array, or the path of a file with one, or - for standard input. An
id is a number, a string in decimal or 0x-hexadecimal, or a UUID. Prints JSON:

    {"contract", "generation", "escrow", "jobs": {ID AS GIVEN: {"details", "paid", "events"}},
     "others": {ID: [EVENTS]}}

`details` and `paid` are null for a job the contract does not know. Amounts and
ids are decimal strings, addresses and felts hexadecimal. `events` are the job's,
in the order of the chain; `others` has those of jobs that were not asked for.

None of our node's code is involved: this is starknet.py and the committed ABI.
"""

import argparse
import asyncio
import json
import pathlib
import sys
import uuid

from starknet_py.cairo.felt import decode_shortstring
from starknet_py.contract import Contract
from starknet_py.hash.selector import get_selector_from_name
from starknet_py.net.client_errors import ClientError
from starknet_py.net.full_node_client import FullNodeClient

ABI = pathlib.Path(__file__).resolve().parent.parent / "artifacts" / "job_manager.sierra.json"
DETAILS_PER_CALL = 100
EVENTS_PER_PAGE = 100  # the same on every page: devnet loses events otherwise
# The word at the end of an event's keys, and what its data is.
EVENTS = {
    "JobSubmitted": ("client", "payment"),
    "JobAssigned": ("worker", None),
    "JobCompleted": ("worker", None),
    "PaymentReleased": ("payee", "amount"),
    "JobCancelled": ("payer", "refund"),
    "JobExpired": ("payer", "refund"),
}
NAMES = {get_selector_from_name(name): name for name in EVENTS}


def number(ident):
    """A job id as people write it."""
    if isinstance(ident, int):
        return ident
    if "-" in ident:
        return uuid.UUID(ident).int
    return int(ident, 16 if ident.lower().startswith("0x") else 10)


def ids_in(text):
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith("["):
        text = pathlib.Path(text).read_text()
    return json.loads(text)


def plain(details):
    """JobDetails as JSON."""
    return {
        "id": str(details["job_id"]["value"]),
        "job_type": details["job_type"].variant,
        "client": hex(details["client"]),
        "worker": hex(details["worker"]),
        "state": details["state"].variant,
        "payment_amount": str(details["payment_amount"]),
        "created_at": details["created_at"],
        "assigned_at": details["assigned_at"],
        "completed_at": details["completed_at"],
        "result_hash": hex(details["result_hash"]),
    }


class Reader:
    def __init__(self, url, address, block):
        self.client = FullNodeClient(node_url=url)
        self.address, self.block = address, block
        abi = json.loads(ABI.read_text())["abi"]
        self.contract = Contract(address=address, abi=abi, provider=self.client, cairo_version=1)

    async def ask(self, view, *args):
        """What a view says; None if the contract refuses or has no such view."""
        try:
            (answer,) = await self.contract.functions[view].call(*args, block_number=self.block)
        except ClientError:
            return None
        return answer

    async def details(self, ids):
        """By id, of those the contract knows."""
        found = {}
        for start in range(0, len(ids), DETAILS_PER_CALL):
            page = [{"value": ident} for ident in ids[start : start + DETAILS_PER_CALL]]
            for job in await self.ask("get_job_details_many", page) or []:
                if job["created_at"] != 0:
                    found[job["job_id"]["value"]] = plain(job)
        return found

    async def events(self):
        """Every event about a job, by id, in order."""
        by_job, token = {}, None
        while True:
            page = await self.client.get_events(
                address=self.address, from_block_number=0, to_block_number=self.block,
                keys=[list(NAMES)], continuation_token=token, chunk_size=EVENTS_PER_PAGE,
            )
            for event in page.events:
                ident = event.keys[1] + (event.keys[2] << 128)
                by_job.setdefault(ident, []).append(self.event(event))
            token = page.continuation_token
            if token is None:
                return by_job

    def event(self, event):
        name = NAMES[event.keys[0]]
        who, amount = EVENTS[name]
        said = {
            "name": name, who: hex(event.keys[3]),
            "block": event.block_number, "transaction": hex(event.transaction_hash),
        }
        if amount:
            said[amount] = str(event.data[0] + (event.data[1] << 128))
        return said

    async def report(self, given):
        ids = {str(ident): number(ident) for ident in given}
        details, events = await self.details(list(ids.values())), await self.events()
        jobs = {}
        for name, ident in ids.items():
            paid = await self.ask("get_paid", {"value": ident}) if ident in details else None
            jobs[name] = {
                "details": details.get(ident),
                "paid": None if paid is None else str(paid),
                "events": events.pop(ident, []),
            }
        generation, escrow = await self.ask("get_generation"), await self.ask("total_escrow")
        return {
            "contract": hex(self.address),
            "generation": None if generation is None else decode_shortstring(generation).strip("\0"),
            "escrow": None if escrow is None else str(escrow),
            "jobs": jobs,
            "others": {str(ident): of_it for ident, of_it in events.items()},
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rpc_url")
    parser.add_argument("contract", type=lambda text: int(text, 16))
    parser.add_argument("ids", type=ids_in, help="a JSON array, a file with one, or -")
    parser.add_argument("--block", choices=("latest", "pre_confirmed"), default="latest")
    args = parser.parse_args()
    report = asyncio.run(Reader(args.rpc_url, args.contract, args.block).report(args.ids))
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
