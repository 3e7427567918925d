"""The command ``predict``: image files in, class names with probabilities out."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar

if TYPE_CHECKING:
    from efficientnet_pod.evaluate.predictor import Predictor
    from efficientnet_pod.weights.trained import Trained

_EXAMPLE = "efficientnet-pod predict runs/digits photos/ cat.jpg"


def run_predict(arguments: Sequence[str]) -> int:
    """Prints what weights take images for; returns 1 if an image could not be used, 130 after Ctrl-C."""
    words: list[str] = []
    values = parse_flags("predict", arguments, _define, words=words)
    if len(words) < 2:
        missing = "images, files or folders of them" if words else "weights and images"
        raise UserError(f"predict needs {missing}, e.g. {_EXAMPLE}")
    try:
        return _predict(words[0], words[1:], values)
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
        return 1
    except KeyboardInterrupt:
        print("efficientnet-pod: stopped; what is printed stands", file=sys.stderr)
        return 130


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_integer("top", 5, "Classes to name for each image.", 1, flag_values=values)
    flags.DEFINE_integer("batch", 32, "Images at a time.", 1, flag_values=values)
    flags.DEFINE_bool("json", False, "Print a JSON object for each image.", flag_values=values)
    flags.DEFINE_string("sheet", None, "PNG to write: the images with what they are.", flag_values=values)
    flags.DEFINE_bool("flip", False, "Average each image and its mirror image.", flag_values=values)
    about = "Of a run: 'best', 'latest' or a step."
    flags.DEFINE_string("checkpoint", "best", about, flag_values=values)
    flags.DEFINE_bool("raw", False, "Take the raw weights, not the averaged ones.", flag_values=values)


def _predict(path: str, names: Sequence[str], values: Any) -> int:
    from efficientnet_pod.data.image_files import find_images
    from efficientnet_pod.evaluate.predictor import Predictor
    from efficientnet_pod.pod import runtime
    from efficientnet_pod.weights.open import open_weights

    files, faults = find_images(names)
    for fault in faults:
        _report(*fault)
    if not files:
        raise UserError(
            f"no image to predict in {', '.join(map(repr, names))}; name files or folders of them"
        )
    runtime.start("any", None)
    trained = open_weights(path, which=values.checkpoint, raw=values.raw)
    # Of a few images a whole batch would mostly be padding.
    predictor = Predictor(trained, batch=min(values.batch, len(files)), flip=values.flip)
    shown, bad = _print_all(predictor, files, top=values.top, as_json=values.json)
    if values.sheet and shown:
        from efficientnet_pod.evaluate.sheet import write_sheet

        drawn = write_sheet(values.sheet, shown, predictor.preprocessing)
        print(f"{values.sheet} shows {drawn:,} of {len(shown):,} images", file=sys.stderr)
    return int(bool(bad or faults))


def _print_all(
    predictor: "Predictor", files: Sequence[str], *, top: int, as_json: bool
) -> tuple[list[tuple[str, str]], int]:
    """Prints a line for each file; returns those that could be used with a title, and how many could not."""
    shown, bad = [], 0
    # A bar prints above itself, on its own terminal, what is printed meanwhile: not what is for a file.
    out = None if sys.stdout.isatty() else sys.stdout
    with progress_bar("predicting", total=len(files), unit="images") as advance:
        for file, found in predictor.of_files(files):
            if isinstance(found, str):
                _report(file, found)
                bad += 1
            else:
                best = _best(predictor.trained, found, top)
                print(_as_json(file, best) if as_json else _as_text(file, best), file=out, flush=True)
                shown.append((file, f"{best[0]['name']} {best[0]['probability']:.1%}"))
            advance(1)
    return shown, bad


def _best(trained: "Trained", probabilities: Any, top: int) -> list[dict[str, Any]]:
    """Returns the most probable classes, best first: ``label``, ``name``, ``probability``."""
    order = (-probabilities).argsort(kind="stable")[:top].tolist()
    return [
        {"label": label, "name": trained.label(label), "probability": float(probabilities[label])}
        for label in order
    ]


def _as_json(file: str, best: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"image": _printable(file), "predictions": best}, ensure_ascii=False)


def _as_text(file: str, best: Sequence[dict[str, Any]]) -> str:
    named = (f"{each['name']} {100 * each['probability']:.1f} %" for each in best)
    return f"{_printable(file)}  {', '.join(named)}"


def _report(file: str, reason: str) -> None:
    print(f"skipped '{_printable(file)}': {reason}", file=sys.stderr, flush=True)


def _printable(file: str) -> str:
    """Returns a path whose bytes need not be UTF-8 as text that is."""
    return file.encode(errors="surrogateescape").decode(errors="replace")
