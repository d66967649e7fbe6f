"""The bounds and periods of registries and of images on their way, in one place, each with its unit."""

from __future__ import annotations

REGISTRY_CONNECT_TIMEOUT_S = 3.0
"""Also for a name's lookup: who creates a service waits for it where no registry can be reached."""
REGISTRY_ANSWER_TIMEOUT_S = 10.0
"""For the head of an answer, and for each part of its body."""
REGISTRY_AWAY_S = 20.0
"""A registry that could not be reached is not tried again for so long by tasks and for digests."""
REGISTRIES_AWAY_MAX = 256
REGISTRY_NAME_THREADS = 2
REGISTRY_TRIES_MAX = 4
REGISTRY_RETRY_DELAY_S = 0.5
REGISTRY_TOKEN_BYTES_MAX = 64 << 10
REGISTRY_ERROR_BYTES_MAX = 16 << 10
REGISTRY_AUTH_CHARS_MAX = 64 << 10
"""Of a client's X-Registry-Auth."""
REGISTRY_TRANSFERS_MAX = 3
"""Layers of one image that come or go at the same time."""
REGISTRY_REDIRECTS_MAX = 5
REGISTRY_INDEX_DEPTH_MAX = 3

IMAGE_PULLS_MAX = 8
"""Pulls and pushes of one node at a time; more wait."""
IMAGE_PROGRESS_PERIOD_S = 0.1
IMAGE_PROGRESS_LINES_MAX = 256
IMAGE_NAMES_MAX = 1_000
"""Names in one request to save images."""
IMAGE_CHANGES_CHARS_MAX = 64 << 10
IMAGE_BLOB_CHUNK_BYTES = 1 << 18

IMAGE_PIN_TIMEOUT_S = 5.0
"""Who creates a service waits so long at most for a registry to tell the digest of its image."""
IMAGE_PINS_MAX = 32
"""Digests asked for at a time by one manager; more wait."""
IMAGE_PIN_SLOW_S = 0.5
"""A registry that takes so long to fail is left alone: first for a while, then longer."""
IMAGE_PIN_AWAY_S = 60.0
IMAGE_PIN_AWAY_MAX_S = 480.0
