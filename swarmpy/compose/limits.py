"""Bounds of Compose files, with their units last."""

from __future__ import annotations

COMPOSE_BYTES_MAX = 4 << 20
COMPOSE_DEPTH_MAX = 64
"""How deep lists and maps may be nested, aliases followed."""
COMPOSE_NODES_MAX = 200_000
"""Values in one file, every alias written out: a few lines of aliases of aliases can stand for billions."""
COMPOSE_VALUE_CHARS_MAX = 1 << 20
"""One value after its variables are put in."""
COMPOSE_DEFAULTS_DEPTH_MAX = 16
"""How deep defaults may be nested: ${A:-${B:-...}}"""
COMPOSE_FILES_MAX = 64
COMPOSE_CHAIN_MAX = 16
"""Files that include one another, or services that extend one another."""
COMPOSE_SERVICES_MAX = 2_000
COMPOSE_PORTS_MAX = 1_000
"""Ports of one service with every range written out."""
