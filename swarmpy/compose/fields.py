"""Typed reading of a tree's maps: each method gives the value of one key, or raises with file, line and path.

Text that came out of a variable may stand for a number or a flag, so ``replicas: "${N}"`` is read as one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from swarmpy.compose.tree import ComposeError, Mapping, Node, Place, Scalar, Sequence, kind_of, text_of
from swarmpy.errors import InvalidArgument
from swarmpy.model import quantities
from swarmpy.model.ids import Duration

T = TypeVar("T")

_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,19}\Z")
_NUMBER_MAX: Final = 1 << 63
_FLAGS: Final = {
    **dict.fromkeys(("true", "yes", "on", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "0"), False),
}


class Fields:
    """The keys of one map. ``path`` is for messages: ``services.web.deploy``."""

    def __init__(self, node: Mapping, path: str) -> None:
        self.node = node
        self.path = path

    def has(self, key: str) -> bool:
        return self.node.get(key) is not None

    def place(self, key: str) -> Place:
        return self.node.at(key)

    def error(self, key: str, message: str) -> ComposeError:
        return ComposeError(self.place(key), f"{self.path}.{key} {message}".lstrip("."))

    def parse(self, key: str, read: Callable[[], T]) -> T:
        """What ``read`` makes of the key's text, its errors with the place in front."""
        try:
            return read()
        except ComposeError:
            raise
        except InvalidArgument as error:
            raise self.error(key, f"cannot be read: {error}") from None

    def text(self, key: str) -> str:
        """A number is text too, where an unquoted one cannot be misread."""
        node = self.node.get(key)
        if node is None:
            return ""
        if not isinstance(node, Scalar) or isinstance(node.value, bool):
            raise self.error(key, f"must be a string, not {kind_of(node)}: put it in quotes")
        return text_of(node.value)

    def one_of(self, key: str, choices: type[T], *, known: list[str]) -> T | None:
        text = self.text(key)
        if not text:
            return None
        if text not in known:
            raise self.error(key, f'must be one of {", ".join(known)}, not "{text}"')
        return choices(text)  # type: ignore[call-arg]

    def whole(self, key: str, *, low: int = 0) -> int | None:
        node = self.node.get(key)
        if node is None:
            return None
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, str) and _WHOLE.match(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= _NUMBER_MAX:
            raise self.error(key, f"must be an integer, not {_quoted(node)}: write a number such as 3")
        if value < low:
            raise self.error(key, f"must be {low} or more, not {value}")
        return value

    def ratio(self, key: str) -> float:
        node = self.node.get(key)
        if node is None:
            return 0.0
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self.error(key, f"must be a number between 0 and 1, not {_quoted(node)}")
        return float(value)

    def flag(self, key: str) -> bool | None:
        node = self.node.get(key)
        if node is None:
            return None
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, str):
            value = _FLAGS.get(value.lower())
        if not isinstance(value, bool):
            raise self.error(key, f"must be a boolean: write true or false, not {_quoted(node)}")
        return value

    def duration(self, key: str) -> Duration | None:
        text = self.text(key)
        return self.parse(key, lambda: quantities.duration_ns(text)) if text else None

    def size(self, key: str) -> int:
        text = self.text(key)
        return self.parse(key, lambda: quantities.memory_bytes(text)) if text else 0

    def cpus(self, key: str) -> int:
        text = self.text(key)
        return self.parse(key, lambda: quantities.nano_cpus(text)) if text else 0

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; one string alone counts as a list of one."""
        node = self.node.get(key)
        if node is None:
            return ()
        if isinstance(node, Scalar):
            return (self.text(key),)
        if not isinstance(node, Sequence):
            raise self.error(key, f"must be a list, not {kind_of(node)}")
        return tuple(self._item(key, number, item) for number, item in enumerate(node.items))

    def _item(self, key: str, number: int, item: Node) -> str:
        if not isinstance(item, Scalar) or isinstance(item.value, bool) or item.value is None:
            raise ComposeError(
                item.place,
                f"{self.path}.{key}.{number} must be a string, not {kind_of(item)}: put it in quotes",
            )
        return text_of(item.value)

    def command(self, key: str) -> tuple[str, ...]:
        """A list of words, or one string that is split as a shell would."""
        node = self.node.get(key)
        if not isinstance(node, Scalar):
            return self.texts(key)
        text = self.text(key)
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise self.error(key, f"is no command line: {error}") from None

    def pairs(self, key: str) -> dict[str, str]:
        """A map of strings; a key without a value has an empty one."""
        return {name: value or "" for name, value in self.optional_pairs(key).items()}

    def optional_pairs(self, key: str) -> dict[str, str | None]:
        """A map of strings, or a list of ``name=value``; None where there is no value at all."""
        node = self.node.get(key)
        if node is None:
            return {}
        if isinstance(node, Sequence):
            texts = [text.partition("=") for text in self.texts(key)]
            return {name: value if equals else None for name, equals, value in texts}
        if not isinstance(node, Mapping):
            raise self.error(key, f"must be a mapping or a list of name=value, not {kind_of(node)}")
        found: dict[str, str | None] = {}
        for name, item in node.items.items():
            if not isinstance(item, Scalar) or isinstance(item.value, bool):
                raise ComposeError(
                    node.at(name),
                    f"{self.path}.{key}.{name} contains {_quoted(item)}, which is an invalid type, "
                    "it should be a string, number, or a null: put it in quotes",
                )
            found[name] = None if item.value is None else text_of(item.value)
        return found

    def fields(self, key: str) -> Fields | None:
        """The map below, or None."""
        node = self.node.get(key)
        if node is None:
            return None
        if not isinstance(node, Mapping):
            raise self.error(key, f"must be a mapping, not {kind_of(node)}")
        return Fields(node, f"{self.path}.{key}".lstrip("."))

    def each(self, key: str) -> Iterator[tuple[str, Fields]]:
        """The maps below by name; a name without a value has an empty one."""
        below = self.fields(key)
        if below is None:
            return
        for name, item in below.node.items.items():
            if isinstance(item, Scalar) and item.value is None:
                item = Mapping({}, below.place(name))
            if not isinstance(item, Mapping):
                raise below.error(name, f"must be a mapping, not {kind_of(item)}")
            yield name, Fields(item, f"{below.path}.{name}")

    def list_of_fields(self, key: str) -> Iterator[Fields]:
        node = self.node.get(key)
        if node is None:
            return
        if not isinstance(node, Sequence):
            raise self.error(key, f"must be a list, not {kind_of(node)}")
        for number, item in enumerate(node.items):
            if not isinstance(item, Mapping):
                raise ComposeError(
                    item.place, f"{self.path}.{key}.{number} must be a mapping, not {kind_of(item)}"
                )
            yield Fields(item, f"{self.path}.{key}.{number}")


def _quoted(node: Node) -> str:
    return f'"{text_of(node.value)}"' if isinstance(node, Scalar) else kind_of(node)
