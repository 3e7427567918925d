"""HLO text, read into computations and instructions."""

import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from efficientnet_pod.preflight.program.shapes import Array, arrays

_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_NAME = re.compile(r"%?([\w.\-]+)(?:,|$|\))")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation"
    r"|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_OP_NAME = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r"/\*[^*]*\*/")


@dataclass(slots=True, eq=False)
class Instruction:
    """One line of a computation; its attributes are read only when they are asked for.

    Attributes:
      name: without ``%``, unique in its module.
      opcode: such as ``fusion``.
      shape: text of the result's shape.
      operands: names of instructions; for a constant or parameter, the text between its parentheses.
      attributes: text behind the operands.
      is_root: whether its result is that of its computation.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False

    @property
    def results(self) -> tuple[Array, ...]:
        """The arrays of the result in order, nested tuples flattened."""
        return arrays(self.shape)

    @property
    def op_name(self) -> str:
        """The framework's path to the operation, or ``""``."""
        name = _OP_NAME.search(self.attributes) if "op_name=" in self.attributes else None
        return name[1].replace("\\'", "'").replace('\\"', '"') if name else ""

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations this one calls, in order."""
        lists = (names for _, names in _CALLED.findall(self.attributes))
        return tuple(name.strip("{% ") for names in lists for name in names.rstrip("}").split(",") if name)

    @property
    def backend_config(self) -> dict[str, Any]:
        """The notes of the compiler for its platform; empty where there are none, or none in JSON."""
        start = self.attributes.find("backend_config=")
        if start < 0:
            return {}
        text = self.attributes[start + len("backend_config=") :]
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
            value = json.loads(value) if isinstance(value, str) else value  # older compilers quote it
        except json.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    def attribute(self, name: str) -> str | None:
        """Returns the text of an attribute up to the comma that ends it, or None."""
        start = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if start is None:
            return None
        text, depth = self.attributes[start.end() :], 0
        for i, character in enumerate(text):
            depth += (character in "{[(") - (character in "}])")
            if depth < 0 or (depth == 0 and text[i : i + 2] == ", "):
                return text[:i]
        return text


@dataclass(eq=False)
class Computation:
    """Instructions by name in the order of the text, which is the schedule of a scheduled module."""

    name: str
    is_entry: bool
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction whose result is the computation's; the last where none is marked."""
        return next((i for i in self.instructions.values() if i.is_root), [*self.instructions.values()][-1])

    @cached_property
    def users(self) -> dict[str, list[str]]:
        """Names of the instructions that read an instruction, by its name, in the order of the text."""
        users: dict[str, list[str]] = {}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction.name)
        return users


@dataclass(eq=False)
class Module:
    """A whole program.

    Attributes:
      header: first line.
      computations: by name.
    """

    header: str
    computations: dict[str, Computation]

    @property
    def entry(self) -> Computation:
        """The computation that a call of the program runs."""
        return next(c for c in self.computations.values() if c.is_entry)


def parse(text: str) -> Module:
    """Returns the program whose text ``compiled.as_text()`` gave, on any platform.

    Raises:
      ValueError: the text is no HLO module with an entry computation.
    """
    lines = text.splitlines()
    header = next((line for line in lines if line.strip()), "")
    computations: dict[str, Computation] = {}
    computation: Computation | None = None
    for line in lines:
        if computation is None:
            if line.endswith("{") and not line.startswith("HloModule"):
                name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
                computation = computations[name] = Computation(name, line.startswith("ENTRY "))
        elif line.startswith("}"):
            computation = None
        elif instruction := _instruction(line):
            computation.instructions[instruction.name] = instruction
    module = Module(header, computations)
    if not any(c.is_entry for c in computations.values()):
        raise ValueError(f"{header[:60]!r} does not begin an HLO module with an ENTRY computation")
    return module


def _instruction(line: str) -> Instruction | None:
    head, equals, rest = line.partition(" = ")
    opcode = _OPCODE.search(rest) if equals else None
    if opcode is None:
        return None
    head = head.strip()
    is_root = head.startswith("ROOT ")
    name = head.removeprefix("ROOT ").lstrip("%")
    start = opcode.end()
    end = _closing(rest, start)
    operands, kind = rest[start:end], opcode.group(1)
    names = (operands,) if kind in ("constant", "parameter") else _operand_names(operands)
    return Instruction(name, kind, rest[: opcode.start()], names, rest[end + 1 :], is_root)


def _operand_names(text: str) -> tuple[str, ...]:
    if "/*" in text:
        text = _COMMENT.sub("", text)
    if "%" in text:  # each may come with its shape in front
        return tuple(re.findall(r"%([\w.\-]+)", text))
    return tuple(_NAME.findall(text.replace(", ", ",")))


def _closing(text: str, start: int) -> int:
    """Returns the place of the parenthesis that closes the one before ``start``."""
    end = text.find(")", start)
    opened = text.count("(", start, end)
    while opened and end >= 0:
        begin, end = end + 1, text.find(")", end + 1)
        opened += text.count("(", begin, end) - 1
    return end if end >= 0 else len(text)


def replica_groups(text: str) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of a collective from its ``replica_groups`` attribute, as device numbers.

    The attribute has two forms: ``{{0,1},{2,3}}``, and ``[2,4]<=[4,2]T(1,0)``, which numbers an array of the
    shape behind the arrow, transposes it and cuts it into the shape before.
    """
    iota = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text.strip())
    if iota is None:
        return tuple(
            tuple(int(n) for n in group.split(",") if n.strip())
            for group in re.findall(r"\{([\d, ]*)\}", text.strip()[1:-1] if "{{" in text else text)
            if group.strip()
        )
    shape, source, order = ([int(n) for n in part.split(",")] if part else None for part in iota.groups())
    numbers = np.arange(math.prod(source or ())).reshape(source or ()).transpose(order)
    return tuple(map(tuple, numbers.reshape(-1, (shape or [1])[-1]).tolist()))
