"""From words on a command line to values, without ever evaluating code."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from rlsd.cli.errors import UserError, one_line
from rlsd.plain import read_yaml, shown

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: What a pair looks like after flags that rl_zoo3 has too; after the others it is as in ``strength=0.3``.
_LIKE_RL_ZOO3 = {
    "--hyperparams": "key:value pairs such as gamma:0.99",
    "--env-kwargs": "key:value pairs such as map_name:8x8",
}


def parse_value(text: str) -> Any:
    """Read one value: YAML, with ``1e5`` a number as in Python, or ``dict(net_arch=[64, 64])`` as in rl_zoo3."""
    if text.strip().startswith("dict("):
        return _python_literal(text)
    try:
        return numbers_of(read_yaml(text))
    except ValueError as error:
        raise UserError(f"cannot read the value {shown(text)}: {one_line(error)}") from error


def numbers_of(value: Any) -> Any:
    """Return ``value`` with every string that is a number as a number: YAML 1.1 takes ``1e5`` for a word."""
    if isinstance(value, dict):
        return {key: numbers_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers_of(item) for item in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def parse_pairs(flag: str, words: Sequence[str]) -> dict[str, Any]:
    """Read the words after ``flag``: ``key:value`` or ``key=value`` each, or one JSON object.

    :raises UserError: when a word is no pair, or its value cannot be read.
    """
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _mapping(flag, words[0])
    pairs = {}
    for word in words:
        match = re.match(r"([\w.]+)[:=](.*)", word, flags=re.DOTALL)
        if match is None:
            raise UserError(f"{flag} takes {_pairs(flag)}, got {shown(word)}")
        pairs[match[1]] = parse_value(match[2])
    return pairs


def as_words(pairs: dict[str, Any]) -> tuple[str, ...]:
    """Return the words that :func:`parse_pairs` reads back as ``pairs``."""
    return (json.dumps(pairs),) if pairs else ()


def _mapping(flag: str, text: str) -> dict[str, Any]:
    value = parse_value(text)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{flag} takes {_pairs(flag)}, or a JSON object, got {shown(text)}")
    return value


def _pairs(flag: str) -> str:
    return _LIKE_RL_ZOO3.get(flag, "key=value pairs such as strength=0.3")


def _python_literal(text: str) -> Any:
    """Read ``dict(key=value, ...)`` with literal values; ``nn.ReLU`` becomes the name ``"ReLU"``."""
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"cannot read {shown(text)}: only dict(name=value, ...) with plain values is understood"
        ) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("dict(**...) is no plain value")
        return {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)
