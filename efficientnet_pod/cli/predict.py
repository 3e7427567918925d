"""The command ``predict``: image files in, class names with probabilities out."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from efficientnet_pod.cli.flags import define_checkpoint, define_exif, define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.cli.host import print_warnings
from efficientnet_pod.data.names import printable
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import output
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.workdir.files import require_output
from efficientnet_pod.workdir.values import to_json

if TYPE_CHECKING:  # --help and mistakes do not wait for JAX and TensorFlow
    from efficientnet_pod.evaluate.predictor import Prediction, Predictor

_LOOKED_AT = 1000  # files whose orientation is counted


def run_predict(arguments: Sequence[str]) -> int:
    """Prints the classes of images; returns 1 if an image could not be used, 130 after Ctrl-C, else 0."""
    words: list[str] = []
    values = parse_flags("predict", arguments, _define, words=words)
    if len(words) < 2:
        missing = "images, files or folders of them" if words else "weights and images"
        raise UserError(f"predict needs {missing}, e.g. {example_of('predict')}")
    if values.sheet is not None:
        require_output(values.sheet, "--sheet")
    try:
        return _predict(words[0], words[1:], values)
    except KeyboardInterrupt:
        print("efficientnet-pod: stopped; what is printed stands", file=sys.stderr)
        return 130


def _define(values: flags.FlagValues) -> None:
    define_number(values, "top", 5, "Classes to name for each image.")
    define_number(values, "batch", 32, "Images at a time.")
    flags.DEFINE_bool("json", False, "Print a JSON object for each image.", flag_values=values)
    about = "PNG to write: the images with their classes."
    flags.DEFINE_string("sheet", None, about, flag_values=values)
    flags.DEFINE_bool("flip", False, "Average each image and its mirror image.", flag_values=values)
    define_exif(values)
    define_checkpoint(values)


def _predict(path: str, names: Sequence[str], values: flags.FlagValues) -> int:
    from efficientnet_pod.data.image_files import count_turned, find_images
    from efficientnet_pod.data.sources.folders import left_out
    from efficientnet_pod.evaluate.predictor import Predictor
    from efficientnet_pod.evaluate.sheet import write_sheet
    from efficientnet_pod.pod import runtime
    from efficientnet_pod.weights.open import open_weights

    files, faults, others = find_images(names)
    for file, reason in faults:
        _warn(file, reason)
    for sentence in left_out(others, "file", "without the suffix of an image"):
        print(sentence, file=sys.stderr)
    if not files:
        raise UserError(
            f"no image to predict in {', '.join(map(_quoted, names))}; name files or folders of them"
        )
    runtime.start("any", None)
    trained = open_weights(path, which=values.checkpoint, raw=values.raw)
    print_warnings(trained.warnings)
    trained = dataclasses.replace(trained, exif=values.exif or trained.exif)
    # A whole batch of a few images would mostly be padding.
    predictor = Predictor(trained, batch=min(values.batch, len(files)), flip=values.flip)
    with runtime.programs_of_user():
        titles = _print_all(predictor, files, values)
    shown = [file for file, _ in titles[:_LOOKED_AT]]
    if trained.exif == "ignored" and not values.exif and (turned := count_turned(shown)):
        print(
            f"EXIF notes {turned:,} of {len(shown):,} photos as turned, which these weights were trained to "
            "ignore; --exif=respected turns them upright",
            file=sys.stderr,
        )
    if values.sheet and titles:
        number = write_sheet(values.sheet, titles, predictor.preprocessing)
        print(f"{values.sheet} shows {number:,} of {len(titles):,} images", file=sys.stderr)
    if output.is_unread():
        return int(bool(faults))
    return int(len(titles) < len(files) or bool(faults))


def _print_all(
    predictor: "Predictor", files: Sequence[str], values: flags.FlagValues
) -> list[tuple[str, str]]:
    """Prints a line for each file; returns the usable files with their titles.

    It ends early where nobody reads the lines, and there is no sheet to write.
    """
    titles = []
    # On a terminal the bar prints these lines above itself; for a pipe or a file that must not happen.
    out = None if sys.stdout.isatty() else sys.stdout
    with progress_bar("predicting", total=len(files), unit="images") as advance:
        for file, probabilities in predictor.of_files(files):
            if isinstance(probabilities, str):
                _warn(file, probabilities)
            else:
                prediction = predictor.most_probable(probabilities, top=values.top)
                print(_line(file, prediction, as_json=values.json), file=out, flush=True)
                titles.append((file, f"{prediction.names[0]} {prediction.probabilities[0]:.1%}"))
            advance(1)
            if output.is_unread() and not values.sheet:
                break
    return titles


def _line(file: str, prediction: "Prediction", *, as_json: bool) -> str:
    if not as_json:
        return f"{printable(file)}  {prediction}"
    # A byte that is not UTF-8 is \udc80 to \udcff, of which Python opens the file.
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = to_json({"image": file, "predictions": prediction.as_json()}, ensure_ascii=not is_unicode)
    return text.encode(errors="backslashreplace").decode()


def _warn(file: str, reason: str) -> None:
    print(f"skipped {_quoted(file)}: {reason}", file=sys.stderr, flush=True)


def _quoted(file: str) -> str:
    return f"'{printable(file)}'"
