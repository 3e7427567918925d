"""Compiles one training step for a TPU that is not there: ours beside the plain Flax network, row by row.

The TPU compiler needs no TPU. It says what a program keeps in memory and how many cycles it expects of each
instruction; their sum at the chip's clock is an estimate, not a measurement. Each program is compiled in a
process of its own, one after the other, without a compilation cache. Seconds depend on the machine's load.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.resumable import Results, made_of

CONTENDERS = ("ours", "plain", "plain-bf16")  # plain-bf16: batch norm returns bfloat16
CLOCK_MHZ = {"v3": 940, "v4": 1050, "v5e": 1500, "v5": 1500, "v5p": 1750}
IMAGENET = {"num_train": 1_281_167, "num_eval": 50_000, "num_classes": 1000}
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) (\w+)")


class Row(NamedTuple):
    """A network and the images of one replica."""

    model: str
    per_replica_batch: int

    @classmethod
    def parse(cls, text: str) -> "Row":
        """Returns the row that `b2x32` names."""
        model, batch = text.split("x")
        return cls(model, int(batch))

    def __str__(self) -> str:
        return f"{self.model}x{self.per_replica_batch}"


def topology_devices(topology: str) -> list[Any]:
    """Returns the devices of a topology such as `v3:2x2`, whose chips need not be there."""
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def lower(contender: str, row: Row, devices: list[Any]) -> Any:
    """Returns the program of one step; all replicas normalise together."""
    if contender != "ours":
        from benchmarks import plain_flax

        bn_dtype = "bfloat16" if contender == "plain-bf16" else "float32"
        return plain_flax.lower(*row, devices, bn_dtype=bn_dtype)
    run = open_run(row, devices, bn_group_size=len(devices))
    return run.lower_train_step(run.plan.phases[0])


def open_run(row: Row, devices: list[Any], *, bn_group_size: int) -> Any:
    """Returns the run of `configs/supercomputer.py` with this network and batch on these devices."""
    from configs.supercomputer import get_config
    from efficientnet_pod import run
    from efficientnet_pod.plan import resolve
    from efficientnet_pod.pod.mesh import create_mesh
    from efficientnet_pod.pod.runtime import Runtime
    from efficientnet_pod.recipe import read_recipe

    config = get_config()
    config.model.name = row.model
    config.global_batch = row.per_replica_batch * len(devices)
    config.bn_group_size = bn_group_size
    recipe = read_recipe(config.to_dict())
    replicas = {"num_replicas": len(devices), "num_hosts": 1}
    plan = resolve(recipe, **IMAGENET, **replicas, default_dtype="bfloat16")
    parts = run.build(plan)
    runtime = Runtime("tpu", tuple(devices), devices[0].device_kind, host_index=0, host_count=1)
    return run.Run(runtime, None, plan, create_mesh(devices, bn_group_size), *parts)


def compile_step(contender: str, row: Row, topology: str) -> dict[str, Any]:
    """Returns what the compiler says of one program, or why it refused it."""
    devices = topology_devices(topology)
    start = time.perf_counter()
    lowered = lower(contender, row, devices)
    seconds = {"lower_seconds": time.perf_counter() - start}
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return seconds | {"compile_seconds": time.perf_counter() - start, "refused": _refusal(str(error))}
    seconds |= {"compile_seconds": time.perf_counter() - start}
    text, memory = compiled.as_text(), compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    temporaries, code = memory.temp_size_in_bytes, memory.generated_code_size_in_bytes
    return seconds | {
        "cycles": sum(map(int, re.findall(r'"estimated_cycles":"?(\d+)', text))),
        "bytes_accessed": (compiled.cost_analysis() or {}).get("bytes accessed"),
        "hbm_bytes": arguments + outputs - memory.alias_size_in_bytes + temporaries + code,
        "temporary_bytes": temporaries,
        "all_reduces": len(re.findall(r"\ball-reduce(?:-start)?\(", text)),
    }


def _refusal(message: str) -> str:
    """Returns the compiler's figures of memory in a few words."""
    if found := _OUT_OF_MEMORY.search(message):
        used, used_unit, limit, limit_unit, space = found.groups()
        return f"needs {used} {used_unit}iB of {limit} {limit_unit}iB {space}"
    return message.splitlines()[0][:200]


def sources_of(contender: str) -> list[str]:
    """Returns the files and folders a result depends on."""
    if contender == "ours":
        return ["benchmarks/tpu_step.py", "configs/supercomputer.py", "efficientnet_pod"]
    return ["benchmarks/tpu_step.py", "benchmarks/plain_flax.py"]


def table(found: Iterable[dict[str, Any]], topology: str) -> str:
    """Returns the results as Markdown; ratios are to `plain` of the same row."""
    mhz = CLOCK_MHZ.get(topology.partition(":")[0])
    lines = [
        f"| {topology} | program | M cycles | of plain's | ms at {mhz or '?'} MHz, estimated | GB accessed "
        "| HBM GiB | all-reduces | trace and lower s | compile s | of plain's |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = list(found)
    plain = {result["row"]: result for result in found if result["contender"] == "plain"}
    for result in found:

        def of_plain(field: str, result: dict[str, Any] = result) -> str:
            theirs = plain.get(result["row"], {}).get(field)
            return f"{result[field] / theirs:.2f}" if theirs else ""

        timing = [f"{result['lower_seconds']:.1f}", f"{result['compile_seconds']:.0f}"]
        timing.append(of_plain("compile_seconds"))
        if "refused" in result:
            cells = [f"does not fit: {result['refused']}", *[""] * 5]
        else:
            cycles, accessed = result["cycles"], result["bytes_accessed"]
            cells = [
                f"{cycles / 1e6:.1f}",
                of_plain("cycles"),
                f"{cycles / mhz / 1e3:.1f}" if mhz else "",
                f"{accessed / 1e9:.1f}" if accessed else "",
                f"{result['hbm_bytes'] / 2**30:.2f}",
                str(result["all_reduces"]),
            ]
        lines.append(f"| {' | '.join([result['row'], result['contender'], *cells, *timing])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    rows = [Row("b0", 32), Row("b0", 128), Row("b2", 32), Row("b5", 64)]
    parser.add_argument("--rows", type=lambda text: list(map(Row.parse, text.split(","))), default=rows)
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--topology", default="v3:2x2", help="chips; v3:2x2 are eight cores")
    parser.add_argument("--json", type=Path, default=Path(".cache/tpu_step.jsonl"), help="gets each result")
    parser.add_argument("--resume", action="store_true", help="take from --json what has not changed since")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(flags.contenders) - set(CONTENDERS):
        parser.error(f"--contenders: {', '.join(sorted(unknown))}; known are {', '.join(CONTENDERS)}")
    if flags.worker:
        print(json.dumps(compile_step(flags.contenders[0], flags.rows[0], flags.topology)), flush=True)
        return
    results = Results(flags.json, resume=flags.resume)
    found = []
    for row in flags.rows:
        for contender in flags.contenders:
            identity = {"row": str(row), "contender": contender, "topology": flags.topology}
            command = ["benchmarks.tpu_step", "--worker", "--topology", flags.topology]
            command += ["--rows", str(row), "--contenders", contender]
            result = results.get(identity | made_of(sources_of(contender)), command)
            found += [result] if result else []
    print(table(found, flags.topology))
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()
