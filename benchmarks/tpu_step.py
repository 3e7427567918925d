"""Compiles one training step for a TPU that is not there: ours beside the plain Flax network, row by row.

The TPU compiler needs no TPU. It says what a program keeps in memory and how many cycles it expects of each
instruction; their sum at the chip's clock is an estimate, not a measurement, and has no communication in it.
Each program is compiled in a process of its own, one after the other, without a compilation cache. Seconds
depend on the machine's load.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.resumable import Result, Results, made_of
from efficientnet_pod.errors import refused_bytes
from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.preflight.program.cost import read_program
from efficientnet_pod.preflight.targets import Target, parse_target, runtime_for

CONTENDERS = ("ours", "plain", "plain-bf16")  # plain-bf16: batch norm returns bfloat16


class Row(NamedTuple):
    """A network and the images of one replica."""

    model: str
    per_replica_batch: int

    @classmethod
    def parse(cls, text: str) -> "Row":
        """Returns the row that `b2x32` names."""
        model, batch = text.split("x")
        return cls(model, int(batch))

    @classmethod
    def parse_list(cls, text: str) -> "list[Row]":
        """Returns the rows that `b2x32,b5x64` names."""
        return [cls.parse(name) for name in text.split(",")]

    def __str__(self) -> str:
        return f"{self.model}x{self.per_replica_batch}"


def supercomputer_run(row: Row, target: Target, *, bn_group_size: int) -> Any:
    """Returns the run of `configs/supercomputer.py` with this network and batch on that machine."""
    from configs.supercomputer import get_config
    from efficientnet_pod.recipe.reading import read_recipe
    from efficientnet_pod.run.run import PUBLISHED_NUMBERS, run_on

    config = get_config()
    config.model.name = row.model
    config.global_batch = row.per_replica_batch * target.replicas
    config.bn_group_size = bn_group_size
    return run_on(runtime_for(target), read_recipe(config.to_dict()), PUBLISHED_NUMBERS["imagenet2012"])


def lower(contender: str, row: Row, target: Target) -> Any:
    """Returns the program of one step; all replicas normalise together."""
    if contender == "ours":
        run = supercomputer_run(row, target, bn_group_size=target.replicas)
        return run.lower_train_step(run.plan.phases[0])
    from benchmarks import plain_flax

    bn_dtype = "bfloat16" if contender == "plain-bf16" else "float32"
    return plain_flax.lower(*row, runtime_for(target).devices, bn_dtype=bn_dtype)


def compile_step(contender: str, row: Row, target: Target) -> Result:
    """Returns what the compiler says of one program; of one that is too large, the bytes it needs."""
    runtime_for(target)  # loads the compiler, which is not to be timed
    start = time.perf_counter()
    lowered = lower(contender, row, target)
    lower_seconds = time.perf_counter() - start
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, _ = refused_bytes(str(error)) or (None, None)
        found: Result = {"too_large": True, "hbm_bytes": needed, "said": str(error)[:2000]}
    else:
        program, memory = read_program(compiled.as_text() or ""), compiled.memory_analysis()
        arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
        temporaries, code = memory.temp_size_in_bytes, memory.generated_code_size_in_bytes
        found = {
            "cycles": program.estimated_cycles,
            "bytes_accessed": (compiled.cost_analysis() or {}).get("bytes accessed"),
            "hbm_bytes": arguments + outputs - memory.alias_size_in_bytes + temporaries + code,
            "temporary_bytes": temporaries,
            "all_reduces": sum(each.count for each in program.collectives if each.op == "all-reduce"),
        }
    return {"lower_seconds": lower_seconds, "compile_seconds": time.perf_counter() - start} | found


def sources_of(contender: str) -> list[str]:
    """Returns the files and folders a result depends on."""
    if contender == "ours":
        return ["benchmarks/tpu_step.py", "configs/supercomputer.py", "efficientnet_pod"]
    return [
        "benchmarks/tpu_step.py",
        "benchmarks/plain_flax.py",
        "efficientnet_pod/preflight/program/cost.py",
    ]


def table(found: list[Result], target: Target) -> str:
    """Returns the results as Markdown; ratios are to `plain` of the same row."""
    clock = target.chip.clock_hz
    at = f"ms at {clock / 1e6:.0f} MHz, estimated" if clock else "ms"
    lines = [
        f"| {target.name} | program | M cycles | of plain's | {at} | GB accessed | HBM GiB | all-reduces "
        "| trace and lower s | compile s | of plain's |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    fitting = [result for result in found if "too_large" not in result]
    plain = {result["row"]: result for result in fitting if result["contender"] == "plain"}

    def of_plain(result: Result, field: str) -> str:
        theirs = plain.get(result["row"], {}).get(field)
        return f"{result[field] / theirs:.2f}" if theirs and result in fitting else ""

    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for result in found:
        cycles, accessed, hbm = map(result.get, ("cycles", "bytes_accessed", "hbm_bytes"))
        cells = [
            result["row"],
            result["contender"],
            "does not fit" if "too_large" in result else shown(cycles and cycles / 1e6, 1),
            of_plain(result, "cycles"),
            shown(cycles / clock * 1e3 if cycles and clock else None, 1),
            shown(accessed and accessed / 1e9, 1),
            shown(hbm and hbm / GIB, 2),
            shown(result.get("all_reduces"), 0),
            shown(result["lower_seconds"], 1),
            shown(result["compile_seconds"], 0),
            of_plain(result, "compile_seconds"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    rows = [Row("b0", 32), Row("b0", 128), Row("b2", 32), Row("b5", 64)]
    parser.add_argument("--rows", type=Row.parse_list, default=rows)
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--topology", default="v3:2x2", help="v3:2x2 chips are eight cores")
    parser.add_argument("--json", type=Path, default=Path(".cache/tpu_step.jsonl"), help="gets each result")
    parser.add_argument("--resume", action="store_true", help="take from --json what has not changed since")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(flags.contenders) - set(CONTENDERS):
        parser.error(f"--contenders: {', '.join(sorted(unknown))}; known are {', '.join(CONTENDERS)}")
    target = parse_target(flags.topology)
    if flags.worker:
        print(json.dumps(compile_step(flags.contenders[0], flags.rows[0], target)), flush=True)
        return
    results = Results(flags.json, resume=flags.resume)
    found = []
    for row in flags.rows:
        for contender in flags.contenders:
            identity = {"row": str(row), "contender": contender, "topology": target.name}
            command = ["benchmarks.tpu_step", "--worker", "--topology", target.name]
            command += ["--rows", str(row), "--contenders", contender]
            result = results.get(identity | made_of(sources_of(contender)), command)
            found += [result] if result else []
    print(table(found, target))
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()
