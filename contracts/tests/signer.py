"""Signing transactions of the tests quickly.

The library's own signing takes a fifth of a second a transaction, most of what
a story would take. This is ECDSA on the STARK curve in plain Python, in a
millisecond or two: not constant in time, so for keys that are worth nothing.
The node checks every signature.
"""

import functools
import secrets

from starknet_py.net.signer.stark_curve_signer import StarkCurveSigner

PRIME = 2**251 + 17 * 2**192 + 1
ORDER = 0x800000000000010FFFFFFFFFFFFFFFFB781126DCAE7B2321E66A241ADC64D2F
GENERATOR = (
    0x1EF15C18599971B7BECED415A40F0C7DEACFD9B0D1819E03D723D8BC943CFCA,
    0x5668060AA49730B7BE4801DF46EC62DE53ECD11ABE43A32873000C36E8DC1F,
)


def add(one, two):
    """The sum of two points that are neither opposite nor nothing."""
    if one == two:
        slope = (3 * one[0] * one[0] + 1) * pow(2 * one[1], -1, PRIME)
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, PRIME)
    x = (slope * slope - one[0] - two[0]) % PRIME
    return x, (slope * (one[0] - x) - one[1]) % PRIME


@functools.cache
def powers():
    """The generator times 1, 2, 4 and so on."""
    points = [GENERATOR]
    while len(points) < ORDER.bit_length():
        points.append(add(points[-1], points[-1]))
    return points


def times_generator(scalar):
    return functools.reduce(add, [point for bit, point in enumerate(powers()) if scalar >> bit & 1])


def sign(message, key):
    while True:
        nonce = secrets.randbelow(ORDER - 1) + 1
        r = times_generator(nonce)[0]
        blinded = (message + r * key) % ORDER
        if not 0 < r < 2**251 or blinded == 0:
            continue
        inverse = nonce * pow(blinded, -1, ORDER) % ORDER
        if 0 < inverse < 2**251:
            return [r, pow(inverse, -1, ORDER)]


class QuickSigner(StarkCurveSigner):
    def sign_transaction(self, transaction):
        return sign(transaction.calculate_hash(self.chain_id), self.private_key)
