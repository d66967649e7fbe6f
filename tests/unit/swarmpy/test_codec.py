"""The codec's promises that a round trip does not show: presence, versions, bytes, errors, mismatches."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import pytest

from swarmpy import codec
from swarmpy.codec import schema
from swarmpy.codec.unknown import varint_field
from swarmpy.errors import InvalidArgument
from swarmpy.model.changes import Batch, Create, Group
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import Duration, NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import KINDS, Node, NodeStatus, Service, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, Global, Replicated, RestartPolicy, ServiceMode
from swarmpy.model.states import NodeAvailability, NodeRole, NodeState, Owner, TaskState
from swarmpy.model.value import Value
from swarmpy.pb import changes_pb2, objects_pb2, specs_pb2, types_pb2
from tests.strategies import VALUE_TYPES

ROLE_FIELD = specs_pb2.NodeSpec.DESCRIPTOR.fields_by_name["role"].number
UNKNOWN_ROLE = 77


def test_every_value_type_has_its_message() -> None:
    for type_ in VALUE_TYPES:
        assert schema.fields_of(type_) or not schema.descriptor_of(type_).fields


def test_wire_bytes_are_pinned() -> None:
    """These bytes stand in logs and snapshots: a field number that changes breaks every cluster."""
    task = Task(
        id=TaskId("t1"),
        version=7,
        created_at=Timestamp(1),
        updated_at=Timestamp(2),
        service_id=ServiceId("s1"),
        slot=3,
        node_id=NodeId("n1"),
        revision_id=RevisionId("r1"),
        desired_state=TaskState.RUNNING,
        status=TaskStatus(state=TaskState.PENDING, err="full", report=4),
    )
    wire = "0a0274311007180120022a02733130033a026e314202723148800452 0a 1040 220466756c6c 2804"
    assert codec.encode(task).hex() == wire.replace(" ", "")
    batch = Batch(groups=(Group(owner=Owner.SCHEDULER, changes=(Create(object=Node(id=NodeId("n"))),)),))
    assert codec.encode(batch).hex() == "0a130802120f0a0d0a0b12090a016e30014202 0801".replace(" ", "")


def test_presence_is_kept() -> None:
    for policy in (
        RestartPolicy(),
        RestartPolicy(delay=Duration(0)),
        RestartPolicy(max_attempts=0, window=None),
    ):
        assert codec.decode(RestartPolicy, codec.encode(policy)) == policy
    for mode in (ServiceMode(), ServiceMode(global_=Global()), ServiceMode(replicated=Replicated())):
        assert codec.decode(ServiceMode, codec.encode(mode)) == mode
    for init in (None, True, False):
        assert codec.decode(ContainerSpec, codec.encode(ContainerSpec(init=init))).init is init


def test_a_default_that_is_not_zero_is_written() -> None:
    assert codec.decode(Task, codec.encode(Task(id=TaskId("t")))).desired_state is TaskState.RUNNING
    new = Task(id=TaskId("t"), desired_state=TaskState.NEW)
    assert codec.decode(Task, codec.encode(new)).desired_state is TaskState.NEW
    assert codec.decode(NodeStatus, codec.encode(NodeStatus())).state is NodeState.UNKNOWN
    unspecified = NodeStatus(state=NodeState.UNSPECIFIED)
    assert codec.decode(NodeStatus, codec.encode(unspecified)).state is NodeState.UNSPECIFIED
    node = Node(id=NodeId("n"), status=unspecified)
    assert codec.decode(Node, codec.encode(node)) == node


def test_equal_values_give_equal_bytes_whatever_the_order_of_their_labels() -> None:
    one = codec.encode(NodeSpec(labels={"b": "2", "a": "1", "c": "3"}))
    other = codec.encode(NodeSpec(labels={"c": "3", "a": "1", "b": "2"}))
    assert one == other
    assert list(codec.decode(NodeSpec, one).labels) == ["a", "b", "c"]


def test_an_unknown_number_of_an_enumeration_survives() -> None:
    data = codec.encode(NodeSpec(name="x", availability=NodeAvailability.DRAIN))
    data += varint_field(ROLE_FIELD, UNKNOWN_ROLE)
    spec = codec.decode(NodeSpec, data)
    assert spec.role is NodeRole.UNSPECIFIED
    assert spec.availability is NodeAvailability.DRAIN
    assert specs_pb2.NodeSpec.FromString(codec.encode(spec)).role == UNKNOWN_ROLE
    assert codec.decode(NodeSpec, codec.encode(spec)) == spec


def test_a_known_number_replaces_an_unknown_one() -> None:
    spec = codec.decode(NodeSpec, varint_field(ROLE_FIELD, UNKNOWN_ROLE))
    promoted = NodeSpec(role=NodeRole.MANAGER, unknown_fields=spec.unknown_fields)
    assert specs_pb2.NodeSpec.FromString(codec.encode(promoted)).role == types_pb2.NODE_ROLE_MANAGER


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (TaskStatus, varint_field(2, 550)),
        (Group, varint_field(1, 99)),
        (Create, b""),
        (Create, b"\x0a\x00"),
        (Batch, b"\x0a\x02\x12\x00"),
        (Task, b"\x0a\xff"),
        (Task, b"\x0a\x02\xff\xfe"),
    ],
    ids=["task state", "owner", "no object", "no kind", "no change", "cut", "no utf-8"],
)
def test_what_can_not_be_read_safely_is_refused(type_: type[Value], data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        codec.decode(type_, data)


def test_garbage_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="are not a Service"):
        codec.decode(Service, b"\xff\xff\xff")
    with pytest.raises(InvalidArgument, match="written by a newer version"):
        codec.load_object(b"")


@pytest.mark.parametrize(
    "value",
    [
        Task(id=TaskId("\ud800")),
        Task(id=TaskId("t"), slot=1 << 63),
        Task(id=TaskId("t"), unknown_fields=b"\xff"),
    ],
    ids=["surrogate", "large", "bad unknown fields"],
)
def test_what_has_no_wire_form_is_refused(value: Task) -> None:
    for write in (codec.encode, codec.dump_object, codec.to_pb):
        with pytest.raises(InvalidArgument, match="Task can't be written"):
            write(value)


def test_a_message_can_be_filled_in_place() -> None:
    change = changes_pb2.Report()
    codec.write_pb(TaskStatus(), change.status)
    assert change.HasField("status")
    with pytest.raises(TypeError, match=r"can't be read from a swarmpy\.v1\.Report"):
        codec.from_pb(TaskStatus, change)


def test_equal_reasons_are_one_string() -> None:
    tasks = [Task(id=TaskId(f"t{n}"), status=TaskStatus(err="no suitable " + "node")) for n in range(2)]
    one, other = (codec.decode(Task, codec.encode(task)) for task in tasks)
    assert one.status.err is other.status.err


def test_objects_go_by_kind() -> None:
    assert {field.name for field in objects_pb2.Object.DESCRIPTOR.fields} == {k.value for k in KINDS.values()}


# --- both schemas are held against each other


def _struct(name: str, /, **fields: Any) -> type[Value]:
    body = {"__annotations__": fields, "__module__": __name__}
    metaclass: Any = type(Value)
    made: type[Value] = metaclass(name, (Value,), body, frozen=True, kw_only=True)
    return made


class _Color(StrEnum):
    UNSPECIFIED = ""
    RED = "red"


class _State(IntEnum):
    NEW = 0


@pytest.mark.parametrize(
    ("struct", "complaint"),
    [
        (_struct("Platform", architecture=str), "only the message has os"),
        (_struct("Platform", architecture=str, os=str, bits=int), "only the message has bits"),
        (_struct("Platform", architecture=str, os=int), "another type than int"),
        (_struct("Platform", architecture=str, os=str | None), "optional on one side only"),
        (_struct("Replicated", replicas=int), "optional on one side only"),
        (_struct("Platform", architecture=str, os=tuple[str, ...]), "repeated on one side only"),
        (_struct("Platform", architecture=str, os=tuple[str, str]), "can be repeated"),
        (_struct("Platform", architecture=str, os=dict[str, str]), "is a map"),
        (_struct("Platform", architecture=str, os=_Color), "enumeration is a plain"),
        (_struct("Driver", name=str, options=dict[str, int]), "is a map"),
        (_struct("SpreadOver", spread_descriptor=list[str]), "no wire form"),
        (_struct("TaskDefaults", log_driver=NodeSpec | None), "another type than NodeSpec"),
        (_struct("Create", object=Task | Node), "different alternatives"),
        (_struct("TaskDefaults", log_driver=Task | Node), "exactly one oneof"),
        (_struct("Order", task_id=str, desired_state=_State), "other members"),
        (_struct("NoSuchMessage"), "has no message"),
    ],
    ids=lambda case: case if isinstance(case, str) else case.__name__,
)
def test_schemas_that_differ_are_refused(struct: type[Value], complaint: str) -> None:
    with pytest.raises(codec.SchemaMismatch, match=complaint):
        schema.fields_of(struct)


def test_values_without_a_message_are_refused() -> None:
    with pytest.raises(codec.SchemaMismatch):
        codec.encode(_struct("Nothing")())
