"""Versions of secrets' and configs' data: whoever proposes it, nothing that is pinned is lost or changed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_values import accept, creates, group, refusal_of, revision, secret, small_cluster

from manager.store.store import Store
from swarmpy.model.changes import Update
from swarmpy.model.file_versions import with_data
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import FileVersion, Kind, Revision, Secret
from swarmpy.model.specs import ContainerSpec, SecretReference, ServiceSpec, TaskSpec

NOW = Timestamp(5)


def pinning(id_: str, version: int) -> Revision:
    reference = SecretReference(secret_id="key", secret_name="key", version=version)
    template = TaskSpec(container_spec=ContainerSpec(image="host", secrets=(reference,)))
    return replace(revision(id_, "s1"), number=2, spec=ServiceSpec(name="s1", task_template=template))


@pytest.fixture
def store() -> Store:
    """Two versions of a secret's data; a revision pins the first."""
    store = small_cluster(secret("key"))
    accept(store, creates(pinning("r2", 1)))
    item = with_data(stored(store), b"two", now=NOW, pinned={1})
    assert isinstance(item, Secret)
    accept(store, group(Update(object=item)))
    return store


def stored(store: Store) -> Secret:
    item = store.get(Kind.SECRET, "key")
    assert isinstance(item, Secret)
    return item


def test_a_pinned_version_stays(store: Store) -> None:
    without = replace(stored(store), older=())
    reason = refusal_of(store, group(Update(object=without)))
    assert reason == "version 1 of secret key is in use by revision r2"


def test_what_is_written_of_a_secret_when_something_breaks_does_not_show_it(store: Store) -> None:
    """Errors and logs may quote any object that they are about."""
    item = replace(stored(store), spec=replace(stored(store).spec, data=b"hunter2", labels={"a": "b"}))
    item = replace(item, older=(FileVersion(number=1, data=b"hunter2"),))
    shown = repr(group(Update(object=item)))
    assert "hunter2" not in shown
    assert "labels={'a': 'b'}" in shown
    assert "7 bytes" in shown


def test_a_version_never_has_other_data(store: Store) -> None:
    item = stored(store)
    for changed in (
        replace(item, older=(FileVersion(number=1, data=b"other"),)),
        replace(item, spec=replace(item.spec, data=b"other")),
    ):
        assert "has other data already" in refusal_of(store, group(Update(object=changed)))
    back = replace(item, number=1, older=())
    assert "cannot go back to version 1" in refusal_of(store, group(Update(object=back)))


def test_a_version_that_is_not_there_cannot_be_pinned(store: Store) -> None:
    assert refusal_of(store, creates(pinning("r3", 7))) == "secret key has no version 7: there is 1, 2"
    accept(store, creates(pinning("r3", 2)))
