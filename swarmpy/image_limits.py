"""The bounds and periods of registries and of images on their way, in one place, each with its unit."""

from __future__ import annotations

REGISTRY_CONNECT_TIMEOUT_S = 3.0
"""Also for a name's lookup: who creates a service waits for it where no registry can be reached."""
REGISTRY_ANSWER_TIMEOUT_S = 10.0
"""For the head of an answer, and for each part of its body."""
REGISTRY_SMALL_TIMEOUT_S = 60.0
"""For the whole body of what is no layer: a manifest, a configuration, a token, an error."""
REGISTRY_AWAY_S = 20.0
"""A registry that could not be reached is not tried again for so long by tasks and for digests."""
REGISTRIES_AWAY_MAX = 256
REGISTRY_NAME_THREADS = 2
REGISTRY_TRIES_MAX = 4
REGISTRY_RETRY_DELAY_S = 0.5
"""Before the first repetition; twice as long before each that follows."""
REGISTRY_RETRY_DELAY_MAX_S = 8.0
REGISTRY_RETRY_AFTER_MAX_S = 30.0
"""A registry that wants to be left alone for longer is asked again all the same."""
REGISTRY_BLOB_TRIES_MAX = 5
"""Of a layer's transfer, in a row, without a byte that came."""
REGISTRY_BLOB_PIECES_MAX = 200
"""In which a layer may come, however small they are."""
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
IMAGE_HEADER_BYTES_MAX = 1 << 20
"""Of what an archive says of one file, before the file: its name, where it leads, its attributes."""
IMAGE_HEADERS_GLOBAL_MAX = 64
"""Attributes that an archive gives to all of its files."""
IMAGE_DEPTH_MAX = 256
"""Folders in folders in one layer."""
IMAGE_ARCHIVE_FILES_MAX = 100_000
"""Files of an archive of images; one that holds more is a root file system."""
IMAGE_INDEXES_MAX = 64
"""Indexes within the index of one archive."""

IMAGE_PIN_TIMEOUT_S = 5.0
"""Who creates a service waits so long at most for a registry to tell the digest of its image."""
IMAGE_PINS_MAX = 32
"""Digests asked for at a time by one manager; more wait."""
IMAGE_PINS_OWN_S = 2.0
"""That an image was only ever loaded on this node is believed for so long."""
IMAGE_PINS_OWN_MAX = 256
IMAGE_PIN_SLOW_S = 0.5
"""A registry that takes so long to fail is left alone: first for a while, then longer."""
IMAGE_PIN_AWAY_S = 60.0
IMAGE_PIN_AWAY_MAX_S = 480.0

IMAGE_GC_AGE_S = 14 * 24 * 3600
"""An image that no task has used for so long goes, unless the node's settings say otherwise."""
IMAGE_GC_AGE_MIN_S = 60
"""Between an image's use being noted and its task being made there is less than that."""
IMAGE_GC_HIGH_PERCENT = 85
IMAGE_GC_LOW_PERCENT = 75
IMAGE_GC_FRESH_S = 3600
"""However full the disk is, an image that was used or brought less than so long ago stays."""
IMAGE_GC_FIRST_S = 600.0
"""After the daemon's start: tasks that were to go on have been found, or made anew."""
IMAGE_GC_PERIOD_S = 600.0

IMAGE_INFLATED_FLOOR_BYTES = 1 << 30
IMAGE_INFLATED_RATIO_MAX = 200
"""What is compressed may unpack to this many times its size, beyond the first GiB."""
IMAGE_ZSTD_WINDOW_BYTES_MAX = 128 << 20
IMAGE_XZ_MEMORY_BYTES_MAX = 128 << 20
"""The strongest of xz's own levels needs 65 MiB."""
IMAGE_UNPACK_THREADS = 4
"""Layers of one image that are unpacked at the same time."""
IMAGE_READ_BYTES = 1 << 18

IMAGE_EVENTS_KEPT_MAX = 1_024
"""What happened to a node's images, for those who ask for events of the past. dockerd keeps 256, of all."""
IMAGE_EVENT_LABEL_CHARS_MAX = 16 << 10
"""Of an image's labels, names and values, in each event of it; what goes beyond is left out."""
