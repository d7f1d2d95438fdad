"""A Starknet node as the tests see it: people with accounts, contracts, receipts.

Everything goes through starknet.py, and so by the ABI of the class that is
declared: what the contract reads and writes is encoded by somebody else's code.
"""

import functools
import json
import pathlib
import secrets

import aiohttp
from starknet_py.abi.v2 import AbiParser
from starknet_py.hash.selector import get_selector_from_name
from starknet_py.net.account.account import Account
from starknet_py.net.client_errors import ClientError
from starknet_py.net.client_models import Call, ResourceBounds, ResourceBoundsMapping
from starknet_py.net.client_models import TransactionExecutionStatus
from starknet_py.net.full_node_client import FullNodeClient
from starknet_py.net.signer.stark_curve_signer import KeyPair
from starknet_py.net.udc_deployer.deployer import Deployer
from starknet_py.serialization.factory import serializer_for_function_v1

from signer import QuickSigner

ALREADY_DECLARED = 51
ARTIFACTS = pathlib.Path(__file__).resolve().parent.parent / "artifacts"


def bounds(l2_gas):
    return ResourceBoundsMapping(
        l1_gas=ResourceBounds(max_amount=100_000, max_price_per_unit=10**12),
        l1_data_gas=ResourceBounds(max_amount=100_000, max_price_per_unit=10**12),
        l2_gas=ResourceBounds(max_amount=l2_gas, max_price_per_unit=10**11),
    )


# Above what any call here costs, so that a refusal shows as a reverted
# transaction, as it does to a coordinator, and not already as an estimate.
BOUNDS = bounds(900_000_000)
DECLARE_BOUNDS = bounds(5_000_000_000)


class Reverted(Exception):
    """A transaction or a view that the contract refused."""


@functools.cache
def artifact(name):
    return (ARTIFACTS / f"{name}.sierra.json").read_text()


def hashes(name):
    classes = json.loads((ARTIFACTS / "classes.json").read_text())[name]
    return int(classes["class_hash"], 16), int(classes["compiled_class_hash"], 16)


def reads_as(text, name):
    """Whether a revert reason names this error, in quotes or as a felt."""
    return f"'{name}'" in text or f"0x{name.encode().hex()}" in text


class Receipt:
    """What a transaction did: its events by name, and what it cost."""

    def __init__(self, raw, chain):
        self.raw = raw
        self.chain = chain

    def events(self, *wanted):
        """(name, keys after the selector, data) of the contracts under test."""
        names, ours = self.chain.event_names, self.chain.addresses
        found = [
            (names[event.keys[0]], event.keys[1:], event.data)
            for event in self.raw.events
            if event.from_address in ours
        ]
        return [event for event in found if not wanted or event[0] in wanted]

    @property
    def l2_gas(self):
        return self.raw.execution_resources.l2_gas

    @property
    def l1_data_gas(self):
        return self.raw.execution_resources.l1_data_gas


class Person:
    """An account that sends transactions, each a multicall."""

    def __init__(self, chain, name, address, key):
        self.chain, self.name, self.address = chain, name, address
        signer = QuickSigner(address, KeyPair.from_private_key(key), chain.id)
        self.account = Account(address=address, client=chain.client, signer=signer)
        self.nonce = None

    async def does(self, *calls):
        """Sends the calls as one transaction; raises Reverted with the reason."""
        if self.nonce is None:
            self.nonce = await self.account.get_nonce()
        sent = await self.account.execute_v3(
            list(calls), nonce=self.nonce, resource_bounds=BOUNDS, tip=0
        )
        self.nonce += 1
        raw = await self.chain.client.get_transaction_receipt(sent.transaction_hash)
        if raw.execution_status == TransactionExecutionStatus.REVERTED:
            raise Reverted(raw.revert_reason)
        return Receipt(raw, self.chain)


@functools.cache
def interface(name):
    """How each function's arguments and answers are encoded. Reading an ABI takes seconds."""
    abi = AbiParser(json.loads(artifact(name))["abi"]).parse()
    functions = dict(abi.functions)
    for part in abi.interfaces.values():
        functions.update(part.items)
    return {function: serializer_for_function_v1(it) for function, it in functions.items()}


class Deployed:
    """A contract on the chain: `contract.name(arguments)` is a call to send,
    `await contract.read("name", arguments)` asks a view."""

    def __init__(self, chain, name, address):
        self.chain, self.address = chain, address
        self.functions = interface(name)
        chain.addresses.add(address)
        for entry in json.loads(artifact(name))["abi"]:
            if entry["type"] == "event" and entry["kind"] == "struct":
                short = entry["name"].split("::")[-1]
                chain.event_names[get_selector_from_name(short)] = short

    def call(self, function, args):
        calldata = self.functions[function].serialize(*args)
        return Call(to_addr=self.address, selector=get_selector_from_name(function), calldata=calldata)

    def __getattr__(self, function):
        return lambda *args: self.call(function, args)

    async def read(self, function, *args):
        try:
            felts = await self.chain.client.call_contract(self.call(function, args), block_number="latest")
        except ClientError as error:
            raise Reverted(f"{error.message} {error.data}") from error
        (answer,) = self.functions[function].deserialize(felts)
        return answer


class Chain:
    """One node, its accounts and the classes declared on it."""

    NAMES = (
        "admin", "coordinator", "deputy", "client", "other client",
        "worker one", "worker two", "treasury", "stranger", "spare",
    )

    def __init__(self, url):
        self.url = url
        self.client = FullNodeClient(node_url=url)
        self.event_names, self.addresses, self.declared = {}, set(), set()

    async def open(self):
        self.id = int(await self.rpc("starknet_chainId"), 16)
        accounts = await self.rpc("devnet_getPredeployedAccounts")
        self.people = [
            Person(self, name, int(account["address"], 16), int(account["private_key"], 16))
            for name, account in zip(self.NAMES, accounts, strict=True)
        ]
        return self

    async def rpc(self, method, **params):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with aiohttp.ClientSession() as session:
            async with session.post(self.url, json=body) as response:
                answer = await response.json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def time(self):
        return (await self.client.get_block(block_number="latest")).timestamp

    async def pass_time(self, seconds):
        await self.rpc("devnet_increaseTime", time=seconds)

    async def declare(self, name):
        """Declares a class with the hashes we publish; the node checks both."""
        class_hash, compiled = hashes(name)
        if name in self.declared:
            return class_hash
        admin = self.people[0]
        signed = await admin.account.sign_declare_v3(
            artifact(name), compiled_class_hash=compiled, resource_bounds=DECLARE_BOUNDS, tip=0
        )
        try:
            answer = await self.client.declare(signed)
            assert answer.class_hash == class_hash, f"{name} is {hex(answer.class_hash)} to the node"
        except ClientError as error:
            if error.code != ALREADY_DECLARED:
                raise
        admin.nonce = None
        self.declared.add(name)
        return class_hash

    async def deploy(self, name, *calldata):
        """Deploys a class with raw constructor felts."""
        class_hash = await self.declare(name)
        deployment = Deployer().create_contract_deployment_raw(
            class_hash, salt=secrets.randbits(200), raw_calldata=list(calldata)
        )
        await self.people[0].does(deployment.call)
        return Deployed(self, name, deployment.address)
