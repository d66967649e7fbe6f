"""A document as YAML again: long forms, names in order, dollar signs doubled so that it can be deployed as it
is."""

from __future__ import annotations

from typing import Final

import yaml

from swarmpy.compose.load import resolve
from swarmpy.compose.tree import Mapping, Node, Scalar, Sequence

_WIDTH: Final = 1 << 16
_TYPED: Final = frozenset(
    {
        *("attachable", "disable", "enable_ipv6", "external", "hard", "init", "internal", "max_attempts"),
        *(
            "max_failure_ratio",
            "max_replicas_per_node",
            "mode",
            "nocopy",
            "oom_score_adj",
            "parallelism",
            "pids",
        ),
        *("pids_limit", "privileged", "published", "read_only", "replicas", "retries", "scale", "soft"),
        *("stdin_open", "target", "tty", "value"),
    }
)
"""Keys whose values are numbers or flags: docker refuses text there, which is what a variable gives."""
_NAMED_FREELY: Final = frozenset(
    {"annotations", "driver_opts", "environment", "labels", "options", "sysctls"}
)


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


def _plain(node: Node, *, is_literal: bool, is_typed: bool = True, key: str = "") -> object:
    """``is_literal``: variables are not looked for here, so dollar signs stay single. ``is_typed``: a key may
    be one of ours, not one of the user's names."""
    match node:
        case Mapping(items=items):
            return {
                name: _plain(
                    item, is_literal=is_literal, is_typed=is_typed and name not in _NAMED_FREELY, key=name
                )
                for name, item in items.items()
            }
        case Sequence(items=found):
            return [_plain(item, is_literal=is_literal, is_typed=is_typed) for item in found]
        case Scalar(value=str(text)) if not is_literal:
            if is_typed and key in _TYPED:
                value = resolve(text)
                if not isinstance(value, str | None):
                    return value
            return text.replace("$", "$$")
    return node.value
