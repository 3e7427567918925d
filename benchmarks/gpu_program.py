"""Reads a program that XLA has compiled for a GPU: its convolutions, copies, kernels and bytes.

    python -m benchmarks.gpu_program --topology=cuda:h100x1 --rows=b0x32
    python -m benchmarks.gpu_program --hlo=step.hlo

The first form needs JAX's CUDA plug-in and no GPU. The compiler then chooses without trying: what cuDNN's
algorithms and XLA's own tiles cost is not known. The compiler takes 1.4 GiB of memory for B0 and 3 for B5.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efficientnet_pod.preflight.program.attribution import Places
from efficientnet_pod.preflight.program.execution import executed
from efficientnet_pod.preflight.program.hlo import Computation, Instruction, Module, parse

# They name a part of an array, or nothing: no kernel.
_NO_KERNEL = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
}
_MOVES = ("transpose", "copy", "reverse", "pad")  # of a fusion's name, where its root or hero is one


def account_of(compiled: Any) -> dict[str, Any]:
    """Returns the account of a compiled program, with the memory that it takes and the compiler's own bytes.

    ``bytes_accessed`` is the compiler's cost analysis; where it has none, ``bytes_read_and_written`` is used.
    """
    account = account_of_text(compiled.as_text() or "")
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    account["program_bytes"] = held + memory.temp_size_in_bytes
    try:
        cost = compiled.cost_analysis() or {}
    except Exception:  # of a compiler for a machine that is not here
        cost = {}
    return account | {"bytes_accessed": cost.get("bytes accessed") or account["bytes_read_and_written"]}


def account_of_text(text: str) -> dict[str, Any]:
    """Returns what a program consists of, from its text.

    ``convolutions``: number by who computes them and what they are, such as ``cuDNN forward, depthwise``.
    ``kernels``: launches in one call. ``moves``: number and bytes of the kernels that only transpose, copy,
    reverse or pad. ``bytes_read_and_written``: of all kernels, each array whole; what a cache keeps between
    two kernels is counted. ``by_part``: kernels and bytes by part of the step, most bytes first.
    """
    module = parse(text)
    places = Places(module)
    convolutions: Counter[str] = Counter()
    moves: dict[str, list[int]] = {}
    by_part: dict[str, list[int]] = {}
    kernels = total = 0
    for step in executed(module):
        instruction, times = step.instruction, step.times
        if instruction.opcode in _NO_KERNEL:
            continue
        moved = times * _bytes(instruction, step.computation)
        kernels, total = kernels + times, total + moved
        place = places.of(instruction, step.computation)
        _add(by_part, f"{place.part}, {place.direction}", times, moved)
        for kind in _convolutions(instruction, step.computation, module):
            convolutions[kind] += times
        if kind := _move(instruction, module):
            _add(moves, kind, times, moved)
    return {
        "kernels": kernels,
        "bytes_read_and_written": total,
        "convolutions": dict(convolutions.most_common()),
        "moves": moves,
        "by_part": dict(sorted(by_part.items(), key=lambda item: -item[1][1])),
    }


def _add(table: dict[str, list[int]], key: str, times: int, moved: int) -> None:
    entry = table.setdefault(key, [0, 0])
    entry[0] += times
    entry[1] += moved


def _bytes(instruction: Instruction, computation: Computation) -> int:
    """Returns the bytes of the results and of each operand once."""
    sources = (computation.instructions.get(name) for name in dict.fromkeys(instruction.operands))
    arrays = [*instruction.results, *(array for source in sources if source for array in source.results)]
    return sum(array.bytes for array in arrays)


def _convolutions(instruction: Instruction, computation: Computation, module: Module) -> Iterator[str]:
    """Yields who computes each convolution in a kernel, and what it is."""
    target = (instruction.attribute("custom_call_target") or "").strip('"')
    if target.startswith("__cudnn$conv"):
        yield f"cuDNN {_WORDS.get(target, target)}{_depthwise(instruction, computation)}"
    for name in instruction.called:
        inside = module.computations[name]
        for inner in inside.instructions.values():
            if inner.opcode == "convolution":
                yield f"XLA's loops{_depthwise(inner, inside)}"
            yield from _convolutions(inner, inside, module) if inner.opcode == "fusion" else ()


_WORDS = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBackwardInput": "gradient of the images",
    "__cudnn$convBackwardFilter": "gradient of the kernel",
    "__cudnn$convBiasActivationForward": "forward with a sum behind",
}


def _depthwise(instruction: Instruction, computation: Computation) -> str:
    """Returns ``, depthwise`` or ``, dense``, by the number of groups."""
    groups = re.search(r"(?:feature|batch)_group_count=(\d+)", instruction.attributes)
    return ", depthwise" if groups and int(groups[1]) > 1 else ", dense"


def _move(instruction: Instruction, module: Module) -> str:
    """Returns the one thing that a kernel does, if it is a move; of a fusion, all it has inside."""
    if instruction.opcode != "fusion":
        return instruction.opcode if instruction.opcode in _MOVES else ""
    inside = module.computations[instruction.called[0]].instructions.values()
    kinds = {inner.opcode for inner in inside} - _NO_KERNEL - {"convert", "reshape", "broadcast"}
    return kinds.pop() if len(kinds) == 1 and kinds <= set(_MOVES) else ""


def table(account: dict[str, Any]) -> str:
    """Returns an account as Markdown."""
    lines = ["| what | kernels | GB read and written |", "|---|---|---|"]
    lines.append(f"| all | {account['kernels']:,} | {account['bytes_read_and_written'] / 1e9:.2f} |")
    for name, (count, moved) in [*account["by_part"].items(), *account["moves"].items()]:
        lines.append(f"| {name} | {count:,} | {moved / 1e9:.3f} |")
    lines += [f"| {name} | {count:,} | |" for name, count in account["convolutions"].items()]
    return "\n".join(lines)


def compiled_for(topology: str, contender: str, row: str) -> dict[str, Any]:
    """Returns the account of a row's program on one GPU of a topology, and the seconds of its compilation."""
    from benchmarks import gpu_jax, plain_flax
    from benchmarks.tpu_step import Row
    from efficientnet_pod.preflight.targets import parse_target, runtime_for

    model, batch = Row.parse(row)
    device = runtime_for(parse_target(topology)).devices[0]
    size = plain_flax.SCALINGS[model].image_size
    lowered, _ = gpu_jax.lower(contender, model, batch, size, device)
    began = time.perf_counter()
    compiled = lowered.compile()
    return {"row": row, "contender": contender, "compile_seconds": time.perf_counter() - began} | account_of(
        compiled
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hlo", type=Path, help="text of a compiled program, to read instead of compiling")
    parser.add_argument("--topology", default="cuda:h100x1", help="GPU to compile for; it need not be here")
    parser.add_argument("--rows", default="b0x32", help="network and images of one device")
    parser.add_argument("--contender", choices=("ours", "plain"), default="ours", help="whose step")
    parser.add_argument("--json", type=Path, help="file that gets the account")
    flags = parser.parse_args()
    if flags.hlo:
        account = account_of_text(flags.hlo.read_text())
    else:
        account = compiled_for(flags.topology, flags.contender, flags.rows)
    if flags.json:
        flags.json.write_text(json.dumps(account, indent=1))
    print(table(account))
    if "program_bytes" in account:
        print(f"\nmemory of the program: {account['program_bytes'] / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
