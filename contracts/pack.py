"""Makes a compiled contract small and computes its hashes.

    pack.py RAW INTO    reads RAW.{sierra,casm}.json, writes INTO.{sierra,casm}.json

What the compiler adds for debugging goes; what the class hash covers (program,
entry points, ABI) stays. The hashes are set in classes.json beside INTO.
"""

import json
import pathlib
import sys

from starknet_py.common import create_casm_class, create_sierra_compiled_contract
from starknet_py.hash.casm_class_hash import compute_casm_class_hash
from starknet_py.hash.hash_method import HashMethod
from starknet_py.hash.sierra_class_hash import compute_sierra_class_hash

NO_NAMES = {"type_names": [], "libfunc_names": [], "user_func_names": []}


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def write(path, value, **layout):
    pathlib.Path(path).write_text(json.dumps(value, **layout) + "\n")


def hashes(sierra, casm):
    sierra_class = create_sierra_compiled_contract(json.dumps(sierra))
    casm_class = create_casm_class(json.dumps({"pythonic_hints": [], **casm}))
    return {
        "class_hash": hex(compute_sierra_class_hash(sierra_class)),
        "compiled_class_hash": hex(compute_casm_class_hash(casm_class, HashMethod.BLAKE2S)),
    }


def main(raw, into):
    sierra, casm = read(f"{raw}.sierra.json"), read(f"{raw}.casm.json")
    sierra["sierra_program_debug_info"] = NO_NAMES
    write(f"{into}.sierra.json", sierra, separators=(",", ":"))
    write(f"{into}.casm.json", casm, separators=(",", ":"))
    index = pathlib.Path(into).parent / "classes.json"
    classes = read(index) if index.exists() else {}
    classes[pathlib.Path(into).name] = hashes(sierra, casm)
    write(index, classes, indent=2, sort_keys=True)


main(*sys.argv[1:])
