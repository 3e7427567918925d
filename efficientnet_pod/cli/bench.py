"""The command ``bench``: the time of trained weights on the device at hand, with accuracy and price."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from efficientnet_pod.cli.flags import define_checkpoint, define_exif, define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.cli.host import print_warnings
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.terminal import console
from efficientnet_pod.workdir.files import require_output, write_result
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import to_json

if TYPE_CHECKING:  # --help and mistakes do not wait for JAX and TensorFlow
    from efficientnet_pod.evaluate.bench import Bench

_BATCH = Range(1, 65_536, whole=True)


def run_bench(arguments: Sequence[str]) -> int:
    """Prints the table of the weights that the flags name; returns 130 after Ctrl-C, else 0."""
    words: list[str] = []
    values = parse_flags("bench", arguments, _define, words=words)
    if len(words) != 1:
        given = f"not {len(words)} of them: {' '.join(words)}" if words else "of a run, a folder or a file"
        raise UserError(f"bench needs the path of weights, {given}; e.g. {example_of('bench')}")
    batches = _batches(values.batch)
    if values.dawnbench is not None and 1 not in batches:
        raise UserError("--dawnbench asks for images one at a time; add 1 to --batch")
    for flag in ("json", "dawnbench"):
        if values[flag].value is not None:
            require_output(values[flag].value or "", f"--{flag}")
    for flag in ("data_dir", "split", "exif"):
        if values[flag].value is not None and not values.data:
            raise UserError(f"--{flag} says how images are read, and none are named; add --data")
    try:
        return _bench(words[0], batches, values)
    except KeyboardInterrupt:
        print("efficientnet-pod: stopped; what is printed stands", file=sys.stderr)
        return 130


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_list("batch", ["1", "8", "64"], "Images of a call.", flag_values=values)
    about = "Programs to time: jax, compiled here; stablehlo and onnx, as export writes them."
    flags.DEFINE_list("backend", ["jax"], about, flag_values=values)
    about = "Time that the calls of a row fill; there are 10 at least and 1,000 at most."
    define_number(values, "seconds", 10, about, Range(0.01, 3600))
    texts = {
        "data": "Images to count hits on, by the names of config.data.name: digits, folder:/path …",
        "data_dir": "Folder of TFDS's data.",
        "split": "Split of the images; 'all' takes every image of a folder without split folders.",
        "json": "File for all results.",
        "dawnbench": "File for the fastest program of one image, as DAWNBench has its inference.",
        "onnx_python": "Python of an environment with jax2onnx, e.g. onnxenv/bin/python; a folder of weights "
        "that has a model.onnx needs none.",
    }
    for name, about in texts.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    define_exif(values)
    define_checkpoint(values)


def _batches(words: Sequence[str]) -> list[int]:
    """Returns the numbers, each once."""
    for word in words:
        if not (word.isdecimal() and _BATCH.holds(int(word))):
            raise UserError(f"--batch={word}: it must be {_BATCH}; e.g. --batch=1,8,64")
    if not words:
        raise UserError("--batch names no number of images; e.g. --batch=1,8,64")
    return sorted(set(map(int, words)))


def _bench(path: str, batches: Sequence[int], values: flags.FlagValues) -> int:
    from efficientnet_pod.evaluate.bench import Bench
    from efficientnet_pod.evaluate.latency import BACKENDS, require_onnxruntime
    from efficientnet_pod.evaluate.overrides import CPU_REPLICAS, Overrides
    from efficientnet_pod.evaluate.weights import images_for
    from efficientnet_pod.pod import runtime
    from efficientnet_pod.weights.open import open_weights

    for name in values.backend or [""]:
        if name not in BACKENDS:
            raise UserError(f"--backend={name} is unknown{did_you_mean(name, BACKENDS)}")
    here = runtime.start("any", CPU_REPLICAS)
    if "onnx" in values.backend:
        require_onnxruntime()
    trained = open_weights(path, which=values.checkpoint, raw=values.raw)
    print_warnings(trained.warnings)
    run = None
    if values.data:
        named = {name: values[name].value for name in ("data", "data_dir", "split", "exif")}
        run, warnings = images_for(trained, path, Overrides(**named))
        print_warnings(warnings)
    bench = Bench(path, trained, here)
    try:
        for backend in dict.fromkeys(values.backend):
            bench.add(
                backend,
                batches,
                seconds=values.seconds,
                run=run,
                onnx_python=values.onnx_python,
                warn=lambda sentence: print_warnings([sentence]),
            )
    finally:  # whatever happens to one program, the others were measured
        if bench.timings:
            _show(bench, values)
    if not bench.timings:
        raise UserError(f"no program of '{path}' fits the memory; lower --batch={batches[0]}")
    return 0


def _show(bench: "Bench", values: flags.FlagValues) -> None:
    """Prints the table and writes the files that flags ask for."""
    bench.print(console())
    if values.json:
        results = to_json(redact_strings(bench.as_json()), indent=2) + "\n"
        write_result(values.json, results.encode(), or_print=True)
    if values.dawnbench and any(timing.batch == 1 for timing in bench.timings):
        entry = to_json(bench.as_dawnbench(), indent=2) + "\n"
        write_result(values.dawnbench, entry.encode(), or_print=True)
    files = [name for name in (values.json, values.dawnbench) if name]
    if files:
        print(f"\nresults are in {' and '.join(files)}")
