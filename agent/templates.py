"""Go's text templates as swarm mode's users write them, for what a task is told of itself. Pure.

``expand(text, fields, functions)``: fields (``.Task.Slot``, ``.``), literals, calls and pipes
(``{{env "A" | printf "%q"}}``), parentheses, ``if``/``else if``/``else``, ``with``, ``range`` (over lists and
maps, by key), comments, trimming (``{{-``, ``-}}``) and Go's own functions ``index eq ne lt le gt ge and or
not len print println printf``. No variables, no nested templates.

Strict where Go is lax: a field or function that is not there rejects the task, since what would reach its
process instead is an unexpanded text or ``<no value>``. Only in ``Labels`` (keys that are the user's own) a
missing one is empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from swarmpy.errors import TaskRejected
from swarmpy.limits import TEMPLATE_CHARS_MAX

_TAG: Final = re.compile(
    r"""\{\{(-\s)?\s*(/\*.*?\*/|(?:"(?:[^"\\]|\\.)*"|`[^`]*`|[^"`])*?)\s*(\s-)?\}\}""", re.DOTALL
)
_WORD: Final = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|`[^`]*`|[()|]|[^\s()|"`]+)""")
_NUMBER: Final = re.compile(r"-?\d+\Z")
_FIELD: Final = re.compile(r"\.(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)?\Z")
_VERB: Final = re.compile(r"%(.)", re.DOTALL)

Function = Callable[..., object]


class Labels(dict[str, str]):
    """A map with keys of the user's own: one that is missing counts as empty."""


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Call:
    """A pipeline: commands of operands; a nested tuple is a pipeline in parentheses."""

    commands: tuple[tuple[_Operand, ...], ...]
    source: str


@dataclass(frozen=True, slots=True)
class _Block:
    kind: str
    condition: _Call
    body: tuple[_Part, ...]
    otherwise: tuple[_Part, ...]


_Part = _Text | _Call | _Block
_Operand = str | _Call


def expand(text: str, fields: Mapping[str, Any], functions: Mapping[str, Function] | None = None) -> str:
    """``text`` with its templates carried out. Raises TaskRejected, and names what is wrong."""
    if "{{" not in text:
        return text
    parts, end = _parse(_tokens(text))
    if end:
        raise TaskRejected(f"the template {text!r} has an {{{{{end}}}}} that ends nothing")
    words: list[str] = []
    size = 0
    for piece in _Expansion(functions or {}).write(parts, fields):
        size += len(piece)
        if size > TEMPLATE_CHARS_MAX:
            raise TaskRejected(f"a template grows over {TEMPLATE_CHARS_MAX} characters")
        words.append(piece)
    return "".join(words)


# --- parsing


def _tokens(text: str) -> Iterator[str | list[str]]:
    """Plain text, and the words of each tag."""
    at, trims = 0, False
    for match in _TAG.finditer(text):
        plain = text[at : match.start()]
        plain = plain.lstrip() if trims else plain
        yield plain.rstrip() if match[1] else plain
        at, trims = match.end(), bool(match[3])
        if not match[2].startswith("/*"):
            yield _words(match[2])
    rest = text[at:].lstrip() if trims else text[at:]
    if "{{" in rest:
        raise TaskRejected(f"the template {text!r} opens {{{{ and does not close it")
    yield rest


def _words(source: str) -> list[str]:
    words, at = [], 0
    while at < len(source):
        match = _WORD.match(source, at)
        if match is None:
            raise TaskRejected(f"the template {{{{{source}}}}} does not parse: a quote is not closed")
        words.append(match[1])
        at = match.end()
    if not words:
        raise TaskRejected("an empty template {{ }} is not known: name a field, such as {{.Task.Slot}}")
    return words


def _parse(tokens: Iterator[str | list[str]]) -> tuple[tuple[_Part, ...], str]:
    """Parts up to the end of the block, and what ended it: "", "end", or "else" with its condition."""
    parts: list[_Part] = []
    for token in tokens:
        if isinstance(token, str):
            parts.append(_Text(token))
        elif token[0] in ("end", "else"):
            return tuple(parts), " ".join(token)
        elif token[0] in ("if", "with", "range"):
            parts.append(_parse_block(token[0], token[1:], tokens))
        else:
            parts.append(_pipeline(token))
    return tuple(parts), ""


def _parse_block(kind: str, condition: list[str], tokens: Iterator[str | list[str]]) -> _Block:
    body, end = _parse(tokens)
    otherwise: tuple[_Part, ...] = ()
    if end.startswith("else if "):
        return _Block(kind, _pipeline(condition), body, (_parse_block("if", _words(end[8:]), tokens),))
    if end == "else":
        otherwise, end = _parse(tokens)
    if end != "end":
        raise TaskRejected(f"the template's {{{{{kind}}}}} has no {{{{end}}}}")
    return _Block(kind, _pipeline(condition), body, otherwise)


def _pipeline(words: list[str]) -> _Call:
    left = list(words)
    call = _take(left, " ".join(words))
    if left:
        raise TaskRejected(f"the template {{{{{call.source}}}}} has a ) too many")
    return call


def _take(left: list[str], source: str) -> _Call:
    """A pipeline from the front of ``left``, up to its end or a closing parenthesis."""
    commands: list[tuple[_Operand, ...]] = []
    command: list[_Operand] = []
    while left and left[0] != ")":
        word = left.pop(0)
        if word == "|":
            commands.append(tuple(command))
            command = []
        elif word == "(":
            command.append(_take(left, source))
            if not left:
                raise TaskRejected(f"the template {{{{{source}}}}} has a ( that is not closed")
            left.pop(0)
        else:
            command.append(word)
    commands.append(tuple(command))
    if not all(commands):
        raise TaskRejected(f"the template {{{{{source}}}}} lacks a command")
    return _Call(tuple(commands), source)


# --- carrying out


class _Expansion:
    def __init__(self, functions: Mapping[str, Function]) -> None:
        self._functions = {**_BUILT_IN, **functions}

    def write(self, parts: Sequence[_Part], dot: object) -> Iterator[str]:
        for part in parts:
            match part:
                case _Text(text=text):
                    yield text
                case _Call():
                    yield show(self._value(part, dot))
                case _Block(kind="range"):
                    yield from self._range(part, dot)
                case _Block():
                    found = self._value(part.condition, dot)
                    inner = found if part.kind == "with" and found else dot
                    yield from self.write(part.body if found else part.otherwise, inner)

    def _range(self, block: _Block, dot: object) -> Iterator[str]:
        found = self._value(block.condition, dot)
        if isinstance(found, Mapping):
            found = [found[key] for key in sorted(found)]
        if not isinstance(found, list | tuple):
            raise TaskRejected(f"the template cannot range over {{{{{block.condition.source}}}}}")
        for item in found:
            yield from self.write(block.body, item)
        if not found:
            yield from self.write(block.otherwise, dot)

    def _value(self, call: _Call, dot: object) -> object:
        result: list[object] = []
        for first, *others in call.commands:
            arguments = [self._operand(other, dot, call) for other in others] + result
            is_call = isinstance(first, str) and first in self._functions
            if not is_call and arguments:
                raise TaskRejected(f"the template {{{{{call.source}}}}}: {first!r} is not known as function")
            if is_call:
                assert isinstance(first, str)
                result = [self._call(first, arguments, call)]
            else:
                result = [self._operand(first, dot, call)]
        return result[0]

    def _call(self, name: str, arguments: list[object], call: _Call) -> object:
        try:
            return self._functions[name](*arguments)
        except (TypeError, ValueError, LookupError) as error:
            raise TaskRejected(f"the template {{{{{call.source}}}}}: {name}: {error}") from None

    def _operand(self, word: _Operand, dot: object, call: _Call) -> object:
        if isinstance(word, _Call):
            return self._value(word, dot)
        if word.startswith('"'):
            return _unquoted(word, call)
        if word.startswith("`"):
            return word[1:-1]
        if _NUMBER.match(word):
            return int(word)
        if word in ("true", "false"):
            return word == "true"
        if word in self._functions:
            return self._call(word, [], call)
        if not _FIELD.match(word):
            raise TaskRejected(f"the template {{{{{call.source}}}}}: {word} is not known")
        for name in filter(None, word.split(".")):
            dot = _member(dot, name, word)
        return dot


def _member(value: object, name: str, word: str) -> object:
    if isinstance(value, Labels):
        return value.get(name, "")
    if isinstance(value, Mapping) and name in value:
        return value[name]
    choices = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else "nothing"
    raise TaskRejected(f"the template field {word} is not known: at {name} there is {choices}")


def _unquoted(word: str, call: _Call) -> str:
    try:
        text: str = json.loads(word)
    except ValueError:
        raise TaskRejected(f"the template {{{{{call.source}}}}}: {word} is no text that Go knows") from None
    return text


def show(value: object) -> str:
    """A value as Go prints it."""
    match value:
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return "[" + " ".join(map(show, value)) + "]"
        case Mapping():
            return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
        case _:
            return str(value)


def _index(value: Any, *keys: Any) -> object:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Labels) else value[key]
    return value


def _printf(pattern: str, *values: object) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        if match[1] not in "svdq" or not left:
            raise ValueError(f"%{match[1]} is not one of %s %v %d %q with a value")
        value = left.pop(0)
        return json.dumps(show(value), ensure_ascii=False) if match[1] == "q" else show(value)

    text = _VERB.sub(one, pattern)
    if left:
        raise ValueError("more values than the format has places")
    return text


_BUILT_IN: Final[dict[str, Function]] = {
    "index": _index,
    "len": len,
    "eq": lambda one, *others: any(one == other for other in others),
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "print": lambda *values: "".join(map(show, values)),
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "printf": _printf,
}
