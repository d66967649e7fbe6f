"""Names for services that were given none: an adjective and a noun, as readable as an id is not. Pure."""

from __future__ import annotations

from typing import Final

_FIRST_WORDS: Final = (
    "amber autumn bold brave bright brisk calm clear clever cosmic crisp dapper early eager fair gentle "
    "golden grand happy hidden honest humble jolly keen kind lively lucid lunar mellow merry misty modest "
    "nimble noble patient plain polite proud quick quiet rapid rustic serene sharp silent silver simple "
    "smooth snowy solar spry steady stoic sunny swift tidy tranquil upbeat vivid warm wise witty"
)
_SECOND_WORDS: Final = (
    "acorn anchor aspen badger beacon birch bison bramble brook canyon cedar cliff clover comet coral "
    "crane creek delta dune ember falcon fern finch fjord forest fox garnet glacier grove harbor hawk "
    "hazel heron island ivy juniper lagoon lark lichen lynx maple marsh meadow moss oak ocean orchid "
    "osprey otter pebble pine plover prairie quarry raven reef river robin sparrow spruce summit thicket "
    "tundra valley willow wren"
)
_FIRST: Final = tuple(_FIRST_WORDS.split())
_SECOND: Final = tuple(_SECOND_WORDS.split())
_DIGITS: Final = 10_000


def random_name(raw: bytes) -> str:
    """``quiet-otter-0417`` from eight random bytes: 30 million names, all valid for DNS."""
    number = int.from_bytes(raw)
    number, first = divmod(number, len(_FIRST))
    number, second = divmod(number, len(_SECOND))
    return f"{_FIRST[first]}-{_SECOND[second]}-{number % _DIGITS:04d}"
