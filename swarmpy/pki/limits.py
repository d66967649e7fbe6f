"""Bounds of a change of the cluster's root. Times in seconds."""

from __future__ import annotations

OWN_ROOT_BYTES_MAX = 65_536
"""Of a user's certificate, and of its key."""
ROOTS_RETIRED_MAX = 3
INTERMEDIATES_MAX = ROOTS_RETIRED_MAX + 1
"""Looked at in one chain: those of the roots that were left, and of a rotation under way."""
ROOT_RETIRED_KEPT_S = 30 * 24 * 3600.0
"""So long a node that was down while the root was changed may come back by itself."""
ROOT_DOWN_GRACE_S = 10.0
"""A change of the root waits for a node until it has been down for so long."""
ROOT_RENEWALS_MAX = 30
"""Nodes that renew their certificates at a time because the root is being changed."""
RECHECKED_AT_ONCE_MAX = 20
"""Certificates behind open calls that are judged anew in one go when the roots change."""
