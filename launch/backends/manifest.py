"""Owns how manifests are written: YAML that a person can read, scripts as they stand."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(document: dict[str, Any]) -> str:
    """Returns a document as YAML, its fields in the order they were given."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)
