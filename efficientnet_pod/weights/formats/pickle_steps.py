"""A pickle followed step by step, without calling anything.

A pickle is a program: it can call anything that has a name. Here its steps build lists and tables as it asks,
and its calls are noted, not made.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple


class Name(NamedTuple):
    """Something that a pickle names: ``"collections.OrderedDict"``."""

    name: str


class Call(NamedTuple):
    """A call of something with this name, which was not made."""

    name: str


def follow(
    file: IO[bytes],
    called: Callable[[str, tuple[Any, ...]], Any],
    outside: Callable[[Any], Any],
) -> Any:
    """Returns what the next pickle of a file would make, with notes in place of its calls.

    Sets are lists here, and keys of a table that are no texts or numbers are left out with their values.

    Args:
      file: opened file, at the beginning of the pickle; it is left at its end.
      called: function from the name and the arguments of a call to what stands for its result; None: a
        :class:`Call`.
      outside: function from a persistent reference to what stands for it.

    Raises:
      Exception: of any kind, for a damaged pickle; ValueError for a step that is not known.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any

    def marked() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[int(argument)])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(marked()))
            case "LIST" | "FROZENSET":
                stack.append(marked())
            case "DICT":
                values = marked()
                stack.append({})
                _fill(stack[-1], values)
            case "APPEND":
                value = stack.pop()
                _fill(stack[-1], [value])
            case "SETITEM":
                pair = stack[-2:]
                del stack[-2:]
                _fill(stack[-1], pair)
            case "APPENDS" | "ADDITEMS" | "SETITEMS":
                values = marked()
                _fill(stack[-1], values)
            case "GLOBAL":
                stack.append(Name(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                stack[-2:] = [Name(".".join(stack[-2:]))]
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_result(stack.pop(), arguments, called))
            case "NEWOBJ_EX":
                del stack[-2:]
                stack.append(_result(stack.pop(), (), called))
            case "INST":
                marked()
                stack.append(Call(str(argument).replace(" ", ".")))
            case "BUILD":
                stack.pop()  # attributes, such as the _metadata of a state_dict
            case "BINPERSID":
                stack.append(outside(stack.pop()))
            case _ if len(opcode.stack_after) == 1 and not opcode.stack_before:
                stack.append(argument)  # a number or a text
            case _:
                raise ValueError(f"its pickle has the step {opcode.name}, which is not known")
    raise ValueError("its pickle has no end")


def _fill(target: Any, values: list[Any]) -> None:
    """Puts values into a list, or keys and values into a table; the note of a call stays as it is."""
    if isinstance(target, dict):
        pairs = zip(values[::2], values[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str | int | float))
    elif isinstance(target, list):
        target += values
    elif not isinstance(target, Call):
        raise ValueError(f"its pickle puts something into {type(target).__name__}")


def _result(function: Any, arguments: Any, called: Callable[[str, tuple[Any, ...]], Any]) -> Any:
    """Returns what stands for the result of a call; for an ``OrderedDict`` it is a table."""
    name = function.name if isinstance(function, Name | Call) else type(function).__name__
    if name == "collections.OrderedDict":
        table: dict[Any, Any] = {}
        for pair in arguments[0] if arguments else ():
            _fill(table, list(pair))
        return table
    if name == "copyreg._reconstructor" and isinstance(arguments[0], Name):
        return Call(arguments[0].name)
    result = called(name, arguments)
    return Call(name) if result is None else result
