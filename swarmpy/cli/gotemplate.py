"""The part of Go's templates that ``--format`` is used with. Pure.

``{{.Spec.Name}}``, ``{{json .}}``, ``{{index .Labels "a"}}``, ``{{len .X}}``, ``{{join .X ", "}}``,
``{{upper .X}}``, ``{{lower .X}}``, ``{{title .X}}``, pipes, ``{{if .X}}…{{else}}…{{end}}`` and
``{{range .X}}…{{end}}``. What is missing prints as ``<no value>``, as in Go. Nothing else of the language.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

_TAG: Final = re.compile(r"(\{\{-?\s*.*?\s*-?\}\})", re.DOTALL)
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|[^\s|]+|\|')
_ESCAPES: Final = (("\\t", "\t"), ("\\n", "\n"))
_MISSING: Final = object()


class TemplateError(Exception):
    """The template does not parse; the text says where."""


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Expression:
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """``if`` or ``range`` with its two bodies."""

    kind: str
    condition: _Expression
    body: tuple[_Part, ...]
    otherwise: tuple[_Part, ...]


_Part = _Text | _Expression | _Block


def compile_template(source: str) -> Callable[[Any], str]:
    """A function from a value to text, or TemplateError."""
    for escape, character in _ESCAPES:
        source = source.replace(escape, character)
    tokens = iter(_TAG.split(source))
    parts, end = _parse(tokens)
    if end is not None:
        raise TemplateError(f"template parsing error: unexpected {{{{{end}}}}}")
    return lambda value: "".join(_write(parts, value, value))


def fields(source: str) -> list[str]:
    """The names of the plain fields of a template, in order: the header of a ``table`` format."""
    return [match[1] for match in re.finditer(r"\{\{-?\s*(?:\w+\s+)?\.(\w*)[^}]*\}\}", source)]


def _parse(tokens: Iterator[str]) -> tuple[tuple[_Part, ...], str | None]:
    """Parts up to the end of the block, and the word that ended it."""
    parts: list[_Part] = []
    for token in tokens:
        if not token.startswith("{{"):
            if token:
                parts.append(_Text(token))
            continue
        words = tuple(_WORD.findall(token[2:-2].strip("- \t\n")))
        if not words:
            raise TemplateError("template parsing error: missing value for command")
        if words[0] in ("end", "else"):
            return tuple(parts), words[0]
        if words[0] in ("if", "range"):
            parts.append(_parse_block(words, tokens))
        else:
            _check(words)
            parts.append(_Expression(words))
    return tuple(parts), None


def _parse_block(words: tuple[str, ...], tokens: Iterator[str]) -> _Block:
    condition = words[1:]
    if not condition:
        raise TemplateError(f"template parsing error: missing value for {words[0]}")
    _check(condition)
    body, end = _parse(tokens)
    otherwise: tuple[_Part, ...] = ()
    if end == "else":
        otherwise, end = _parse(tokens)
    if end != "end":
        raise TemplateError(f"template parsing error: {words[0]} without {{{{end}}}}")
    return _Block(words[0], _Expression(condition), body, otherwise)


def _check(words: Sequence[str]) -> None:
    """Refuse functions that are not there before anything is printed."""
    for index, word in enumerate(words):
        if word == "|" or word.startswith((".", '"', "`", "$")) or _is_number(word):
            continue
        if word not in _FUNCTIONS or (index > 0 and words[index - 1] != "|"):
            raise TemplateError(f'template parsing error: function "{word}" not defined')


def _write(parts: Sequence[_Part], value: Any, root: Any) -> Iterator[str]:
    for part in parts:
        match part:
            case _Text():
                yield part.text
            case _Expression():
                yield _print(_evaluate(part.words, value, root))
            case _Block(kind="if"):
                chosen = part.body if _truth(_evaluate(part.condition.words, value, root)) else part.otherwise
                yield from _write(chosen, value, root)
            case _Block():
                found = _evaluate(part.condition.words, value, root)
                items = list(found.values()) if isinstance(found, dict) else found
                if not isinstance(items, list | tuple) or not items:
                    yield from _write(part.otherwise, value, root)
                    continue
                for item in items:
                    yield from _write(part.body, item, root)


def _evaluate(words: Sequence[str], value: Any, root: Any) -> Any:
    result: Any = _MISSING
    stage: list[str] = []
    for word in (*words, "|"):
        if word != "|":
            stage.append(word)
            continue
        if not stage:
            raise TemplateError("template parsing error: missing value for command")
        arguments = [_operand(w, value, root) for w in (stage[1:] if stage[0] in _FUNCTIONS else stage)]
        if result is not _MISSING:
            arguments.append(result)
        result = _FUNCTIONS[stage[0]](*arguments) if stage[0] in _FUNCTIONS else arguments[0]
        stage.clear()
    return result


def _operand(word: str, value: Any, root: Any) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if word.startswith("`"):
        return word[1:-1]
    if _is_number(word):
        return int(word)
    if word.startswith("$"):
        value, word = root, word[1:] or "."
    for name in filter(None, word.split(".")):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _is_number(word: str) -> bool:
    return word.lstrip("-").isdigit()


def _truth(value: Any) -> bool:
    return bool(value)


def _print(value: Any) -> str:
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return "[" + " ".join(map(_print, value)) + "]"
        case dict():
            return "map[" + " ".join(f"{key}:{_print(part)}" for key, part in sorted(value.items())) + "]"
        case _:
            return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "index": _index,
    "len": lambda value: len(value or ()),
    "join": lambda items, separator: separator.join(map(str, items or ())),
    "upper": lambda value: str(value).upper(),
    "lower": lambda value: str(value).lower(),
    "title": lambda value: str(value).title(),
    "print": lambda *values: "".join(map(_print, values)),
    "println": lambda *values: " ".join(map(_print, values)) + "\n",
    "eq": lambda one, *others: any(one == other for other in others),
    "ne": lambda one, other: one != other,
    "not": lambda value: not value,
    "and": lambda *values: next((v for v in values if not v), values[-1]),
    "or": lambda *values: next((v for v in values if v), values[-1]),
}
