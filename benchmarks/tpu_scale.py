"""Says what 350 epochs take and cost on 8 to 2,048 cores, by the compiler's estimate of one step on each.

Every size is compiled for its own topology, in a process of its own, with batch norm's groups as
`configs/supercomputer.py` has them: 1,024 images, or all replicas of a smaller machine. The estimate is the
preflight's: the compiler's cycles and a model of the links, without overlap. Nothing is measured.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.resumable import Result, Results, made_of
from benchmarks.tpu_step import Row, supercomputer_run
from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.preflight.targets import parse_target

ROWS = (Row("b2", 32), Row("b5", 64), Row("b5", 32))
# Cores, smallest first: the efficiency of a machine is against the smallest of its kind in the table.
MACHINES = {
    "v3": (8, 32, 128, 512, 1024, 2048),
    "v4": (8, 512),
    "v5e": (8, 256),
    "v5p": (8, 512),
    "v6e": (8, 256),
}
SOURCES = ("benchmarks/tpu_scale.py", "configs/supercomputer.py", "efficientnet_pod")


def estimate_on(row: Row, machine: str) -> Result:
    """Returns the preflight's estimate, of a training step and an evaluation, as plain values."""
    from rich.console import Console

    from configs.supercomputer import BN_BATCH
    from efficientnet_pod.preflight.compile import compile_run
    from efficientnet_pod.preflight.estimate import estimate_run
    from efficientnet_pod.preflight.show.as_json import estimate_as_json

    target = parse_target(machine)
    bn_group_size = min(target.replicas, BN_BATCH // row.per_replica_batch)
    run = supercomputer_run(row, target, bn_group_size=bn_group_size)
    with tempfile.TemporaryDirectory() as nothing_compiled:
        console = Console(stderr=True)
        compilation = compile_run(run, cache=Path(nothing_compiled), machine=machine, console=console)
    return estimate_as_json(estimate_run(run, target, compilation))


def table(found: list[Result]) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| network × images a replica | cores | chips | global batch | BN group | step ms | communication "
        "| efficiency | images/s | hours | on demand $ | spot $ | collectives | HBM GiB | compile s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    smallest: dict[tuple[str, str], float] = {}
    for result in found:
        step, hbm = result["estimated_step_ms"], result["hbm_bytes"]
        start = [result["row"], result["machine"]]
        start += [f"{result[name]:,}" for name in ("num_chips", "global_batch", "bn_group_size")]
        end = [f"{hbm / GIB:.2f}" if hbm else "", f"{result['compile_seconds']:.0f}"]
        if not result["fits"] or step is None:
            why = "does not fit" if not result["fits"] else "no estimate"
            lines.append(f"| {' | '.join([*start, why, *[''] * 7, *end])} |")
            continue
        kind = result["row"], result["chip"]
        middle = [
            f"{step:.1f}" + ("" if result["estimate_basis"] == "cycles" else " at least"),
            f"{result['estimated_communication_ms'] / step:.1%}",
            f"{smallest.setdefault(kind, step) / step:.1%}",
            f"{result['images_per_second']:,.0f}",
            f"{result['hours']:.2f}",
            *(_range(result[name], result[f"{name}_most"]) for name in ("usd", "usd_spot")),
            str(sum(each["count"] for each in result["collectives"])),
        ]
        lines.append(f"| {' | '.join([*start, *middle, *end])} |")
    return "\n".join(lines)


def _range(least: float | None, most: float | None) -> str:
    """Returns the price in the cheapest region and in the dearest, in whole dollars."""
    texts = dict.fromkeys(f"{usd:,.0f}" for usd in (least, most) if usd)
    return " to ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=Row.parse_list, default=ROWS, help="such as b2x32,b5x64")
    parser.add_argument("--models", help="only rows of these, such as b2,b5")
    parser.add_argument("--chips", default=",".join(MACHINES), help="only these generations")
    parser.add_argument("--cores", help="only machines of so many, such as 8,1024")
    parser.add_argument("--json", type=Path, default=Path(".cache/tpu_scale.jsonl"), help="gets each result")
    parser.add_argument("--resume", action="store_true", help="take from --json what has not changed since")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if unknown := set(flags.chips.split(",")) - set(MACHINES):
        parser.error(f"--chips: {', '.join(sorted(unknown))}; known are {', '.join(MACHINES)}")
    rows = [row for row in flags.rows if flags.models is None or row.model in flags.models.split(",")]
    machines = [
        f"{chip}-{cores}"
        for chip in flags.chips.split(",")
        for cores in MACHINES[chip]
        if flags.cores is None or str(cores) in flags.cores.split(",")
    ]
    if flags.worker:
        print(json.dumps(estimate_on(rows[0], machines[0])), flush=True)
        return
    results = Results(flags.json, resume=flags.resume)
    found = []
    for row in rows:
        for machine in machines:
            chip, _, cores = machine.partition("-")
            command = [
                "benchmarks.tpu_scale",
                "--worker",
                "--rows",
                str(row),
                "--chips",
                chip,
                "--cores",
                cores,
            ]
            result = results.get({"row": str(row), "machine": machine} | made_of(SOURCES), command)
            found += [result] if result else []
    print(table(found))
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()
