"""Image names, as the store and registries use them: those of ``swarmpy/model/image_names``."""

from swarmpy.model.image_names import Reference, is_digest, parse, parse_tag, repository_of

__all__ = ["Reference", "is_digest", "parse", "parse_tag", "repository_of"]
