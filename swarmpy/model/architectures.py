"""One name per architecture of machines: kernels and images name the same ones differently."""

from __future__ import annotations

from typing import Final

_AS_IMAGES_DO: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def normal_architecture(architecture: str) -> str:
    """As images name it, in lower case; what is not known stays as it is."""
    lowered = architecture.lower()
    return _AS_IMAGES_DO.get(lowered, lowered)
