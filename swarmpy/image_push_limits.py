"""The bounds and periods of images on their way from a manager to nodes, in one place, each with its unit."""

from __future__ import annotations

IMAGE_PUSHES_MAX = 2
"""Pushes to nodes that one manager does at a time, each with an archive on its disk. One more is refused."""
IMAGE_PUSH_NODES_MAX = 8
"""Nodes that one push sends to at the same time; the others wait for their turn."""
IMAGE_PUSH_IMAGES_MAX = 32
"""Images in one push: what is offered of them goes to a node in one message."""
IMAGE_PART_BYTES = 256 << 10
"""Of a blob, in one part of a stream; a stream holds STREAM_QUEUE_PARTS_MAX parts in each of its queues."""
IMAGE_LACKS_MAX = 256
"""Blobs that a node asks for at a time; for the others it asks afterwards."""
IMAGE_ROUNDS_MAX = 3
"""So often in a row a node asks again, for what was lost, without one more blob being there whole."""
IMAGE_BEAT_S = 2.0
"""While a node receives, waits or unpacks, it says so this often."""
IMAGE_IDLE_S = 60.0
"""A node that has said nothing, or that has been sent nothing, for so long: the push to it is given up. One
part takes less, but where eight nodes share a few kilobytes a second."""
IMAGE_RETURN_S = 5.0
"""A node whose connection broke, or that has none right now, is waited for so long from its first failure."""
IMAGE_RETURN_LOOK_S = 0.25
IMAGE_LEFTOVERS_KEPT_S = 6 * 3600.0
"""What came of a push that broke off waits so long for another try."""
