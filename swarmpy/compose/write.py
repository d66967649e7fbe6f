"""A document as YAML again: long forms, names in order, dollar signs doubled so that it can be deployed as it
is."""

from __future__ import annotations

from typing import Final

import yaml

from swarmpy.compose.tree import Mapping, Node, Scalar, Sequence

_WIDTH: Final = 1 << 16


def yaml_text(document: Mapping) -> str:
    shown = {
        key: _plain(node, is_literal=key.startswith("x-") or key == "version")
        for key, node in document.items.items()
    }
    text: str = yaml.dump(
        shown,
        Dumper=yaml.CSafeDumper,
        default_flow_style=False,
        allow_unicode=True,
        width=_WIDTH,
    )
    return text


def _plain(node: Node, *, is_literal: bool) -> object:
    """``is_literal``: variables are not looked for here, so dollar signs stay single."""
    match node:
        case Mapping(items=items):
            return {key: _plain(item, is_literal=is_literal) for key, item in items.items()}
        case Sequence(items=found):
            return [_plain(item, is_literal=is_literal) for item in found]
        case Scalar(value=str(text)) if not is_literal:
            return text.replace("$", "$$")
    return node.value
