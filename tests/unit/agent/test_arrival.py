"""A push's two ends without I/O: what one asks for the other sends, over a channel that does its worst."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.arrival import Arrival
from manager.departure import Departure
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.image_push_limits import IMAGE_LACKS_MAX, IMAGE_ROUNDS_MAX
from swarmpy.model.image_offers import Answer, BlobOffer, ImageOffer, Lack, Offer, check_offer

PART_BYTES = 4


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(data: bytes, diff_id: str = "") -> BlobOffer:
    return BlobOffer(digest=digest_of(data), size=len(data), diff_id=diff_id)


def offer_of(config: bytes, *layers: bytes) -> Offer:
    image = ImageOffer(
        id=digest_of(config),
        names=("app:1",),
        config=blob(config),
        layers=tuple(blob(data, digest_of(data)) for data in layers),
    )
    return Offer(images=(image,))


class Node:
    """A node's disk, and its end of the push."""

    def __init__(self, offer: Offer, begun: dict[str, bytes]) -> None:
        self.files = {digest: bytearray(data) for digest, data in begun.items()}
        missing = offer.blobs().keys()
        self.arrival = Arrival(offer, missing, {digest: len(data) for digest, data in begun.items()})

    def take(self, part: tuple[str, int, bytes]) -> None:
        write = self.arrival.take(*part)
        if write is None:
            return
        file = self.files.setdefault(write.digest, bytearray())
        assert write.offset <= len(file), "a file never has a hole"
        file[write.offset :] = write.data
        if write.is_last:
            self.arrival.checked(write.digest, is_right=digest_of(bytes(file)) == write.digest)


def parts_for(
    departure: Departure, lacks: tuple[Lack, ...], content: dict[str, bytes]
) -> list[tuple[str, int, bytes]]:
    parts = []
    for piece in departure.answered(Answer(lacks=lacks)):
        data = content[piece.digest]
        assert piece.size == len(data)
        starts = range(piece.offset, max(piece.size, piece.offset + 1), PART_BYTES)
        parts += [(piece.digest, at, data[at : at + PART_BYTES]) for at in starts]
    return parts


def mangled(parts: list[tuple[str, int, bytes]], chance: random.Random) -> list[tuple[str, int, bytes]]:
    """Some lost, some doubled, some late."""
    found = []
    for part in parts:
        fate = chance.randrange(6)
        if fate == 0:
            continue
        found += [part] * (2 if fate == 1 else 1)
    for _ in range(chance.randrange(3)):
        if len(found) > 1:
            found.insert(chance.randrange(len(found)), found.pop(chance.randrange(len(found))))
    return found


@settings(max_examples=150, deadline=None)
@given(
    layers=st.lists(st.binary(max_size=30), max_size=4, unique=True),
    seed=st.integers(0, 1 << 30),
    data=st.data(),
)
def test_lost_doubled_and_late_parts_do_no_harm(layers: list[bytes], seed: int, data: st.DataObject) -> None:
    config = b"configuration"
    offer = offer_of(config, *layers)
    content = {digest_of(each): each for each in (config, *layers)}
    begun = {}
    for digest, whole in content.items():
        if data.draw(st.booleans()):
            begun[digest] = whole[: data.draw(st.integers(0, max(len(whole) - 1, 0)))]
    begun = {digest: some for digest, some in begun.items() if len(some) < len(content[digest])}
    node, departure, chance = Node(offer, begun), Departure(offer), random.Random(seed)
    try:
        while not node.arrival.is_whole:
            for part in mangled(parts_for(departure, node.arrival.ask(), content), chance):
                node.take(part)
    except Unavailable:
        pass  # given up after too many bad rounds; nothing wrong counts as here
    else:
        assert {digest: bytes(file) for digest, file in node.files.items()} == content
    for digest, file in node.files.items():
        if len(file) == len(content[digest]):
            assert bytes(file) == content[digest]


def test_a_good_channel_needs_one_round_and_counts_what_came() -> None:
    base, top = b"b" * 10, b"t" * 7
    offer = offer_of(b"{}", base, top)
    content = {digest_of(each): each for each in (b"{}", base, top)}
    node = Node(offer, {digest_of(base): base, digest_of(top): top[:4]})
    departure = Departure(offer)
    lacks = node.arrival.ask()
    assert lacks == (Lack(digest=digest_of(b"{}")), Lack(digest=digest_of(top), offset=4))
    for part in parts_for(departure, lacks, content):
        node.take(part)
    assert node.arrival.is_whole
    assert departure.wanted_bytes == node.arrival.received_bytes == 2 + 3
    receipt = node.arrival.receipt(("app:1",))
    assert (receipt.layers_here, receipt.layers_sent, receipt.layer_bytes) == (1, 1, 3)


def test_wrong_content_is_asked_for_anew_and_then_given_up() -> None:
    layer = b"layer"
    offer = offer_of(b"{}", layer)
    node = Node(offer, {digest_of(b"{}"): b"{}"})
    for _ in range(IMAGE_ROUNDS_MAX):
        assert node.arrival.ask() == (Lack(digest=digest_of(layer), offset=0),)
        node.take((digest_of(layer), 0, b"LAYER"))
        assert not node.arrival.is_whole
    with pytest.raises(Unavailable, match="did not come whole"):
        node.arrival.ask()


def test_more_than_was_offered_is_refused() -> None:
    offer = offer_of(b"{}", b"layer")
    arrival = Arrival(offer, offer.blobs(), {})
    arrival.ask()
    with pytest.raises(InvalidArgument, match="more was sent"):
        arrival.take(digest_of(b"layer"), 3, b"yer!")
    with pytest.raises(InvalidArgument, match="nobody has asked"):
        arrival.take(digest_of(b"other"), 0, b"other")


def test_so_many_blobs_are_asked_for_at_a_time() -> None:
    layers = [b"%d" % number for number in range(100)]
    images = tuple(
        image
        for number in range(4)
        for image in offer_of(b"config %d" % number, *(b"%d/" % number + each for each in layers)).images
    )
    arrival = Arrival(Offer(images=images), Offer(images=images).blobs(), {})
    assert len(arrival.ask()) == IMAGE_LACKS_MAX


def test_a_node_is_held_to_the_offer_and_to_an_end() -> None:
    offer = offer_of(b"{}", b"layer")
    with pytest.raises(Unavailable, match="not offered"):
        Departure(offer).answered(Answer(lacks=(Lack(digest=digest_of(b"other")),)))
    with pytest.raises(Unavailable, match="not offered"):
        Departure(offer).answered(Answer(lacks=(Lack(digest=digest_of(b"layer"), offset=6),)))
    departure, same = Departure(offer), Answer(lacks=(Lack(digest=digest_of(b"layer")),))
    with pytest.raises(Unavailable, match="again and again"):
        _answer_until(departure, same)


def _answer_until(departure: Departure, answer: Answer) -> None:
    for _ in range(20):
        departure.answered(answer)


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        (Offer(images=()), "no image"),
        (Offer(images=offer_of(b"{}").images * 33), "33 images"),
        (
            Offer(images=(ImageOffer(id="x", config=BlobOffer(digest="../etc/passwd", size=1)),)),
            "another configuration",
        ),
        (
            Offer(images=(ImageOffer(id="../x", config=BlobOffer(digest="../x", size=1)),)),
            "cannot be a part",
        ),
        (offer_of(b"{}", *(b"%d" % number for number in range(200))), "200 layers"),
        (
            Offer(
                images=(
                    ImageOffer(
                        id=digest_of(b""),
                        config=blob(b""),
                        layers=(BlobOffer(digest=digest_of(b"x"), size=1 << 50, diff_id=digest_of(b"x")),),
                    ),
                )
            ),
            "GiB",
        ),
    ],
)
def test_what_no_node_takes(offer: Offer, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_offer(offer)
