"""The codec loses nothing, for any value of any type, and answers garbage with our error alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmpy import codec
from swarmpy.errors import InvalidArgument
from swarmpy.model import objects
from swarmpy.model.objects import Object, Task
from swarmpy.model.value import Value
from tests.strategies import VALUE_TYPES, any_object, has_union, ids, unknown_fields, values

EXAMPLES = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
ALL_TYPES = pytest.mark.parametrize("type_", VALUE_TYPES, ids=lambda type_: type_.__name__)


@ALL_TYPES
@EXAMPLES
@given(data=st.data())
def test_bytes_round_trip(type_: type[Value], data: st.DataObject) -> None:
    value = data.draw(values(type_))
    encoded = codec.encode(value)
    decoded = codec.decode(type_, encoded)
    assert decoded == value
    assert codec.encode(decoded) == encoded
    assert codec.from_pb(type_, codec.to_pb(value)) == value


@ALL_TYPES
@EXAMPLES
@given(data=st.data())
def test_unknown_fields_survive_at_every_depth(type_: type[Value], data: st.DataObject) -> None:
    value = data.draw(values(type_, has_unknown=True))
    encoded = codec.encode(value)
    decoded = codec.decode(type_, encoded)
    assert decoded == value
    assert codec.encode(decoded) == encoded
    assert codec.from_pb(type_, codec.to_pb(value)) == value


@pytest.mark.parametrize(
    "type_", [t for t in VALUE_TYPES if not has_union(t)], ids=lambda type_: type_.__name__
)
@EXAMPLES
@given(data=st.data())
def test_json_round_trip(type_: type[Value], data: st.DataObject) -> None:
    value = data.draw(values(type_, has_unknown=True))
    assert msgspec.json.decode(msgspec.json.encode(value), type=type_) == value


@ALL_TYPES
@EXAMPLES
@given(data=st.data())
def test_garbage_is_refused_or_means_something(type_: type[Value], data: st.DataObject) -> None:
    """Random bytes, and valid ones with some bytes changed: a value comes out, or InvalidArgument."""
    garbage = data.draw(st.binary(max_size=40))
    if data.draw(st.booleans()):
        valid = bytearray(codec.encode(data.draw(values(type_))) or b"\x08")
        for _ in range(data.draw(st.integers(1, 3))):
            valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
        garbage = bytes(valid)
    try:
        value = codec.decode(type_, garbage)
    except InvalidArgument:
        return
    assert codec.decode(type_, codec.encode(value)) == value


@EXAMPLES
@given(any_object)
def test_objects_say_what_they_are(value: Object) -> None:
    assert codec.load_object(codec.dump_object(value)) == value


@EXAMPLES
@given(st.binary(max_size=60))
def test_garbage_is_no_object(garbage: bytes) -> None:
    try:
        value = codec.load_object(garbage)
    except InvalidArgument:
        return
    assert type(value) in objects.KINDS


@EXAMPLES
@given(values(Task, has_unknown=True), unknown_fields(), ids)
def test_a_copy_with_a_change_keeps_what_it_does_not_know(task: Task, extra: bytes, id_: str) -> None:
    older = codec.decode(Task, codec.encode(task) + extra)
    changed = codec.decode(Task, codec.encode(replace(older, node_id=id_, slot=task.slot)))
    assert changed.unknown_fields == task.unknown_fields + extra
    assert changed == replace(task, node_id=id_, unknown_fields=changed.unknown_fields)
