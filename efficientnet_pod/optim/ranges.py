"""The values that a field or a flag may have, written beside its definition, and their one check."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Annotated, Any, get_args

from efficientnet_pod.errors import UserError, did_you_mean

MOST = 2**31 - 1  # of whole numbers: devices count in 32 bits


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a value may be; none of them is infinite.

    Attributes:
      least: smallest number.
      most: largest number.
      above: whether ``least`` itself is left out.
      below: whether ``most`` itself is left out.
      whole: whether fractions are left out.
      step: number that must divide the value.
      zero: whether 0 is one of them too; it stands for none.
      words: words that may stand instead of a number.
    """

    least: float
    most: float = MOST
    above: bool = False
    below: bool = False
    whole: bool = False
    step: int = 1
    zero: bool = False
    words: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Returns whether a value is one of the numbers, or of the words; NaN is not."""
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value
        if self.zero and number == 0:
            return True
        reached = number > self.least if self.above else number >= self.least
        within = number < self.most if self.below else number <= self.most
        return reached and within and (self.step == 1 or number % self.step == 0)

    def refusal(self, name: str, value: Any) -> str:
        """Returns the message for a value that is none of the numbers; ``name`` is the field's or flag's."""
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        shown = f"{value}" if is_number else f"{value!r}"
        return f"{name}={shown} must be {self}; set --{name}"

    def __str__(self) -> str:
        """Returns e.g. ``"above 0 and at most 1"`` or ``"a whole number, at least 1 and at most 30"``."""
        low, high = ("above" if self.above else "at least"), ("below" if self.below else "at most")
        kind = "" if not self.whole else "even, " if self.step == 2 else "a whole number, "
        kind = "0, or " if self.zero else kind
        kind = f"{' or '.join(self.words)}, or {kind}" if self.words else kind
        return f"{kind}{low} {_plain(self.least)} and {high} {_plain(self.most)}"


@dataclasses.dataclass(frozen=True)
class Choices:
    """The words that a value may be, or that a tuple may hold."""

    words: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Returns whether a value is one of the words, or a tuple of them."""
        return all(word in self.words for word in value) if isinstance(value, tuple) else value in self.words

    def refusal(self, name: str, value: Any) -> str:
        """Returns the message for a value that is none of the words; ``name`` is the field's."""
        if isinstance(value, tuple):
            value = next(word for word in value if word not in self.words)
        return f"{name}='{value}' is unknown{did_you_mean(str(value), self.words)}"

    def __str__(self) -> str:
        return " or ".join(self.words)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The texts that name steps of a run, from one to another: ``200:210``; or none of them, as no text."""

    def holds(self, value: Any) -> bool:
        """Returns whether a value is such a text."""
        return value == "" or isinstance(value, str) and steps_in(value) is not None

    def refusal(self, name: str, value: Any) -> str:
        """Returns the message for a value that is no such text; ``name`` is the field's."""
        return f"{name}={value!r} must be {self}; set --{name}"

    def __str__(self) -> str:
        return "empty, or the first and the last step with a colon between them, such as 200:210"


def steps_in(text: str) -> tuple[int, int] | None:
    """Returns the first and the last step that a text names, such as ``200:210``; None if it names none."""
    match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    first, last = map(int, match.groups()) if match else (0, 0)
    return (first, last) if 1 <= first <= last <= MOST else None


@dataclasses.dataclass(frozen=True)
class ReadWith:
    """The mark of a field that a recipe reads only with some values of another field.

    Attributes:
      field: dotted name of the other field.
      words: those values, for people; empty: any value but 0 and the empty one.
      holds: whether the field is read with a value; by default with one of ``words``.
    """

    field: str
    words: tuple[str, ...] = ()
    holds: Callable[[Any], bool] | None = None

    def is_read(self, value: Any) -> bool:
        """Returns whether the marked field is read where the other one has this value."""
        return self.holds(value) if self.holds else value in self.words if self.words else bool(value)

    def __str__(self) -> str:
        if not self.words:
            return f"read only where config.{self.field} is not 0"
        return f"read only with config.{self.field}={' or '.join(self.words)}"


Count = Annotated[int, Range(1, whole=True)]
Number0 = Annotated[int, Range(0, whole=True)]  # 0 stands for none, or for all
Share = Annotated[float, Range(0, 1, below=True)]
NonZeroShare = Annotated[float, Range(1e-6, 1)]
Decay = Annotated[float, Range(0, 1)]  # of weights
Epochs = Annotated[float, Range(0, 100_000)]
Factor = Annotated[float, Range(0, 1000)]
Rate = Annotated[float, Range(0, 1e30)]  # of learning; times any batch it is finite in float32


class Ranged:
    """The base of settings: a value outside of its field's range raises UserError when settings are made."""

    @property
    def path(self) -> str:
        """Name of the table in a config, such as ``config.data``."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # of the dataclass that inherits this
            value, allowed = getattr(self, field.name), allowed_in(field)
            name, kind = f"{self.path}.{field.name}", getattr(field.type, "__origin__", field.type)
            if value is None and type(None) in get_args(field.type):
                continue
            if kind in (bool, str) and not isinstance(value, kind):
                rule = "True or False" if kind is bool else "a text"
                raise UserError(f"{name}={value!r} must be {rule}; set --{name}")
            parts = _parts(value) if isinstance(allowed, Range) else [value]
            if allowed and not all(map(allowed.holds, parts)):
                raise UserError(allowed.refusal(name, value))


def allowed_in(field: "dataclasses.Field[Any]") -> Range | Choices | Steps | None:
    """Returns the values that a field may have; None where anything of its type will do."""
    return next((mark for mark in _marks(field.type) if isinstance(mark, Range | Choices | Steps)), None)


def condition_of(field: "dataclasses.Field[Any]") -> ReadWith | None:
    """Returns the condition on which a field is read; None: always."""
    return next((mark for mark in _marks(field.type) if isinstance(mark, ReadWith)), None)


def _marks(kind: Any) -> Iterator[Any]:
    """Yields the marks of an annotated type, or of the types of a union."""
    yield from getattr(kind, "__metadata__", ())
    for part in get_args(kind):
        yield from getattr(part, "__metadata__", ())


def _parts(value: Any) -> Iterator[Any]:
    """Yields the numbers of nested tuples, without their words; of anything else, itself."""
    if not isinstance(value, tuple):
        yield value
        return
    for part in value:
        if not isinstance(part, str):
            yield from _parts(part)


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) and abs(number) < 1e15 else f"{number:g}"
