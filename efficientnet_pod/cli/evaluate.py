"""The command ``evaluate``: any weights on any images, on all devices of all hosts."""

import sys
from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import (
    IMAGE_SIZE,
    define_checkpoint,
    define_exif,
    define_number,
    parse_flags,
    values_of,
)
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.cli.host import define_hosts, joined
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.files import require_output, write_result
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import to_json


def run_evaluate(arguments: Sequence[str]) -> None:
    """Evaluates the weights that the flags name and prints the results, on host 0."""
    words: list[str] = []
    values = parse_flags("evaluate", arguments, _define, words=words)
    if values.workdir is not None:
        words.insert(0, values.workdir)
    if len(words) != 1:
        given = f"not {len(words)} of them: {' '.join(words)}" if words else "or --workdir=RUN"
        raise UserError(f"evaluate needs the path of weights, {given}; e.g. {example_of('evaluate')}")
    if values.json is not None:
        require_output(values.json, "--json")
    with joined(values) as (interrupt, _), interrupt.nothing_to_lose():
        # These take seconds to import; a signal then counts already.
        from efficientnet_pod.evaluate.overrides import Overrides
        from efficientnet_pod.evaluate.weights import evaluate_path

        evaluation = evaluate_path(
            words[0],
            Overrides(**values_of(values, Overrides)),
            is_workdir=values.workdir is not None,
            checkpoint=values.checkpoint,
            raw=values.raw,
            warn=lambda warning: print(f"warning: {warning}", file=sys.stderr),
        )
        if evaluation is None:
            return
        evaluation.print()
        if values.json:
            results = to_json(redact_strings(evaluation.as_json())) + "\n"
            write_result(values.json, results.encode(), or_print=True)
            print(f"\nall results are in {values.json}")


def _define(values: flags.FlagValues) -> None:
    texts = {
        "workdir": "Folder of a run, in place of WEIGHTS.",
        "data": "Images, by the names of config.data.name: digits, folder:/path, a TFDS data set …; "
        "by default those of the weights' recipe.",
        "data_dir": "Folder of TFDS's data.",
        "split": "Split of the images; 'all' takes every image of a folder without split folders.",
        "json": "File for all results: every class, the calibration, the confusions.",
    }
    for name, about in texts.items():
        flags.DEFINE_string(name, None, about, flag_values=values)
    about = "Images a step, all replicas together."
    define_number(values, "batch", None, about)
    about = "Height and width in pixels; by default the weights'."
    define_number(values, "image_size", None, about, IMAGE_SIZE)
    about = "Evaluate each image and its mirror image; by default as the recipe has it."
    flags.DEFINE_bool("flip", None, about, flag_values=values)
    define_exif(values)
    define_checkpoint(values)
    define_hosts(values)
