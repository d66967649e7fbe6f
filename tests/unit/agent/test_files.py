"""Secrets and configs of tasks: waited for, made of what managers sent, renewed in place, never written."""

from __future__ import annotations

import signal
import traceback
from pathlib import Path

import pytest
from agent_rig import NODE, Rig, in_virtual_time, make_revision, make_task
from msgspec.structs import replace

from agent.executor.base import LaunchFile
from agent.files import Files
from agent.journal import Journal
from swarmpy.errors import TaskRejected
from swarmpy.model.cluster_specs import ConfigSpec, SecretSpec
from swarmpy.model.file_versions import File
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.objects import Config, FileVersion, Kind, Revision, Secret
from swarmpy.model.specs import (
    ConfigReference,
    ContainerSpec,
    Driver,
    FileTarget,
    RuntimeTarget,
    SecretReference,
)
from swarmpy.model.states import TaskState

GOLANG = Driver(name="golang")
PASSWORD = b"hunter2-of-nobody-else"


def secret(data: bytes = PASSWORD, *, number: int = 1, older: tuple[FileVersion, ...] = ()) -> Secret:
    spec = SecretSpec(name="key", data=data)
    return Secret(id=SecretId("s1"), spec=spec, number=number, older=older)


def config(data: bytes, *, templating: Driver | None = None) -> Config:
    spec = ConfigSpec(name="page", data=data, templating=templating)
    return Config(id=ConfigId("c1"), spec=spec, number=1)


def revision_of(*references: SecretReference | ConfigReference, env: tuple[str, ...] = ()) -> Revision:
    container = ContainerSpec(
        image="host",
        env=env,
        secrets=tuple(each for each in references if isinstance(each, SecretReference)),
        configs=tuple(each for each in references if isinstance(each, ConfigReference)),
    )
    return make_revision("web", container=container)


def the_secret(version: int = 1, *, reload: str = "", target: FileTarget | None = None) -> SecretReference:
    return SecretReference(
        secret_id="s1",
        secret_name="key",
        version=version,
        reload_signal=reload,
        file=target or FileTarget(name="key"),
    )


def the_config(version: int = 1, *, name: str = "page") -> ConfigReference:
    return ConfigReference(
        config_id="c1", config_name="page", version=version, file=FileTarget(name=name, mode=0o440)
    )


def made(revision: Revision, *items: File) -> list[LaunchFile]:
    files = Files()
    for item in items:
        files.take(item)
    return list(files.make(make_task(1, revision), revision, NODE))


# --- what files are made of


def test_targets_owners_and_modes() -> None:
    target = FileTarget(name="/etc/app.key", uid="1000", gid="50", mode=0o400)
    revision = revision_of(the_secret(), the_secret(target=target), the_config())
    assert made(revision, secret(), config(b"hello")) == [
        LaunchFile(target="/run/secrets/key", data=PASSWORD),
        LaunchFile(target="/etc/app.key", data=PASSWORD, uid=1000, gid=50, mode=0o400),
        LaunchFile(target="/page", data=b"hello", mode=0o440),
    ]
    assert PASSWORD.decode() not in repr(made(revision, secret(), config(b"hello")))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("../../../etc/cron.d/x", "/etc/cron.d/x"),
        ("a/../b", "/run/secrets/b"),
        ("/run/secrets/../x", "/run/x"),
        ("//x", "/x"),
        ("", "/run/secrets/key"),
    ],
)
def test_a_target_leads_nowhere_but_into_the_task(name: str, target: str) -> None:
    revision = revision_of(the_secret(target=FileTarget(name=name)))
    assert [each.target for each in made(revision, secret())] == [target]


def test_a_pinned_version_is_the_old_data_for_ever() -> None:
    item = secret(b"new", number=2, older=(FileVersion(number=1, data=b"old"),))
    assert [each.data for each in made(revision_of(the_secret(1)), item)] == [b"old"]
    assert [each.data for each in made(revision_of(the_secret(2)), item)] == [b"new"]
    assert [each.data for each in made(revision_of(the_secret(0, reload="HUP")), item)] == [b"new"]


def test_a_config_for_the_runtime_is_no_file() -> None:
    reference = ConfigReference(config_id="c1", config_name="page", runtime=RuntimeTarget())
    assert made(revision_of(reference)) == []


def test_templates_see_the_task_its_environment_and_its_other_files() -> None:
    text = b'{{.Service.Name}} {{.Task.Slot}} {{.Node.Hostname}} {{env "A"}} {{secret "key"}} {{env "B"}}\xff'
    revision = revision_of(the_secret(), the_config(), env=("A={{.Task.Slot}}=a",))
    _, page = made(revision, secret(b"\xfe"), config(text, templating=GOLANG))
    assert page.data == b"web 1 host1 1=a \xfe \xff"
    _, page = made(revision, secret(b"x"), config(text))
    assert page.data == text, "without the driver nothing is expanded"


@pytest.mark.parametrize(
    ("item", "target", "sentence"),
    [
        (config(b'{{secret "gone"}}', templating=GOLANG), None, "secret target gone not found"),
        (config(b"{{.Nothing}}", templating=GOLANG), None, "config page: .*Nothing"),
        (config(b"x", templating=Driver(name="jinja")), None, "unrecognized template driver 'jinja'"),
        (config(b"x"), FileTarget(name="x", uid="root"), "invalid uid 'root' of secret key: give a number"),
    ],
)
def test_what_rejects_a_task(item: Config, target: FileTarget | None, sentence: str) -> None:
    revision = revision_of(the_secret(target=target), the_config())
    with pytest.raises(TaskRejected, match=sentence):
        made(revision, secret(), item)


@pytest.mark.parametrize("tag", ["{{", "{{.%s}}", '{{"%s}}', "{{%s}}", "{{end}}", "{{.Node.%s}}", "{{if x}}"])
def test_what_is_wrong_with_the_template_of_a_secret_does_not_tell_the_secret(tag: str) -> None:
    """What rejects a task is stored, and shown to whoever may list tasks."""
    text = f"{PASSWORD.decode()} {tag.replace('%s', PASSWORD.decode())} {PASSWORD.decode()}"
    item = secret(text.encode())
    item = replace(item, spec=replace(item.spec, templating=GOLANG))
    with pytest.raises(TaskRejected, match="the template in secret key cannot be expanded") as raised:
        made(revision_of(the_secret()), item)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_what_a_config_makes_of_a_secret_is_not_told_either() -> None:
    text = b'{{printf (secret "key") 1}}'
    with pytest.raises(TaskRejected, match="config page") as raised:
        made(revision_of(the_secret(), the_config()), secret(b"%!hunter2"), config(text, templating=GOLANG))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a/b"), ("a", "./a"), ("a/b/c", "/run/secrets/a"), ("a", "/run/secrets/b/../a")],
)
def test_two_files_in_one_place_reject_a_task(first: str, second: str) -> None:
    """An old manager may have let them through."""
    revision = revision_of(
        the_secret(target=FileTarget(name=first)), the_secret(target=FileTarget(name=second))
    )
    with pytest.raises(TaskRejected, match="cannot both be"):
        made(revision, secret())


def test_data_that_were_not_sent_are_missing() -> None:
    files = Files()
    assert files.missing(revision_of(the_secret(1))) == "secret not found: key"
    files.take(secret(b"", number=2, older=(FileVersion(number=1, data=b"old"),)))
    assert files.missing(revision_of(the_secret(1))) == ""
    assert files.missing(revision_of(the_secret(2))) == "secret not found: key"
    files.drop(Kind.SECRET, "s1")
    assert files.held == frozenset()


# --- tasks


def files_of(rig: Rig, task_id: TaskId) -> list[bytes]:
    return [each.data for each in rig.machine.tasks[task_id].launch.files]


@in_virtual_time
async def test_a_task_that_is_to_be_created_waits_for_the_first_complete_set() -> None:
    rig = Rig()
    revision = revision_of(the_secret())
    task = make_task(1, revision, desired=TaskState.READY)
    await rig.start()
    await rig.post(rig.manager.put(secret()))
    await rig.post(rig.manager.assign(task, revision=revision))
    await rig.wait_state(TaskState.READY, task.id)
    await rig.crash()
    rig.machine.tasks.clear()  # the machine lost its power

    await rig.start(has_session=False)
    await rig.wait(lambda: rig.core.is_idle)
    assert task.id not in rig.machine.tasks
    assert rig.manager.state(task.id) is TaskState.READY
    await rig.connect()
    await rig.post(rig.manager.order(task.id, TaskState.RUNNING))
    await rig.wait_state(TaskState.RUNNING, task.id)
    assert files_of(rig, task.id) == [PASSWORD]


@in_virtual_time
async def test_a_secret_that_was_removed_rejects_the_task() -> None:
    rig = Rig()
    revision = revision_of(the_secret())
    await rig.start()
    await rig.post(rig.manager.assign(task := make_task(1, revision), revision=revision))
    await rig.wait_state(TaskState.REJECTED, task.id)
    assert rig.manager.tasks[task.id].status.err == "secret not found: key"


@in_virtual_time
async def test_newer_data_reach_the_tasks_that_reload_and_no_others() -> None:
    rig = Rig()
    pins, follows = revision_of(the_secret(1)), revision_of(the_secret(0, reload="USR1"))
    follows = replace(follows, id=type(follows.id)("revision-follows"))
    tasks = make_task(1, pins), make_task(2, follows)
    await rig.start()
    await rig.post(rig.manager.put(secret(b"old")))
    for task, revision in zip(tasks, (pins, follows), strict=True):
        await rig.post(rig.manager.assign(task, revision=revision))
    await rig.wait_state(TaskState.RUNNING, *(task.id for task in tasks))

    newer = secret(b"new", number=2, older=(FileVersion(number=1, data=b"old"),))
    await rig.post(rig.manager.put(newer))
    await rig.wait(lambda: files_of(rig, tasks[1].id) == [b"new"])
    await rig.wait_quiet()
    assert files_of(rig, tasks[0].id) == [b"old"]
    assert [rig.machine.tasks[task.id].reloads for task in tasks] == [[], [signal.SIGUSR1]]
    assert set(rig.machine.starts.values()) == {1}

    # what changed while the daemon was away is put in place when it is back; what did not is left alone
    await rig.crash()
    rig.manager.put(secret(b"newer", number=3, older=newer.older))
    await rig.start()
    await rig.wait(lambda: files_of(rig, tasks[1].id) == [b"newer"])
    await rig.crash()
    await rig.start()
    await rig.wait_quiet()
    assert rig.machine.tasks[tasks[1].id].reloads == [signal.SIGUSR1] * 2


@in_virtual_time
async def test_a_task_that_waits_for_its_start_gets_newer_data_without_a_signal() -> None:
    rig = Rig()
    revision = revision_of(the_secret(0, reload="HUP"))
    task = make_task(1, revision, desired=TaskState.READY)
    await rig.start()
    await rig.post(rig.manager.put(secret(b"old")))
    await rig.post(rig.manager.assign(task, revision=revision))
    await rig.wait_state(TaskState.READY, task.id)
    await rig.post(rig.manager.put(secret(b"new", number=2)))
    await rig.wait(lambda: files_of(rig, task.id) == [b"new"])
    await rig.post(rig.manager.order(task.id, TaskState.RUNNING))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.wait_quiet()
    assert rig.machine.tasks[task.id].reloads == []


@in_virtual_time
async def test_newer_data_that_make_no_file_leave_the_task_as_it_is() -> None:
    rig = Rig()
    reference = replace(the_config(0), reload_signal="HUP")
    revision = revision_of(reference)
    await rig.start()
    await rig.post(rig.manager.put(config(b"{{.Task.Slot}}", templating=GOLANG)))
    await rig.post(rig.manager.assign(task := make_task(1, revision), revision=revision))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.post(rig.manager.put(replace(config(b"{{.Nothing}}", templating=GOLANG), number=2)))
    await rig.wait(lambda: "Nothing" in rig.manager.tasks[task.id].status.err)
    assert (rig.manager.state(task.id), files_of(rig, task.id)) == (TaskState.RUNNING, [b"1"])
    await rig.post(rig.manager.put(replace(config(b"fine", templating=GOLANG), number=3)))
    await rig.wait(lambda: files_of(rig, task.id) == [b"fine"])
    await rig.wait(lambda: rig.manager.tasks[task.id].status.err == "")
    await rig.wait_quiet()


@pytest.mark.parametrize(("verb", "desired"), [("reload", TaskState.RUNNING), ("create", TaskState.READY)])
@in_virtual_time
async def test_trouble_on_the_way_to_newer_data_is_tried_again(verb: str, desired: TaskState) -> None:
    rig = Rig()
    left = [2]

    def script(asked: str, subject: str) -> float:
        if asked == verb and left[0]:
            left[0] -= 1
            raise OSError("no space")
        return 0.0

    revision = revision_of(the_secret(0, reload="HUP"))
    await rig.start()
    await rig.post(rig.manager.put(secret(b"old")))
    task = make_task(1, revision, desired=desired)
    await rig.post(rig.manager.assign(task, revision=revision))
    await rig.wait_state(desired, task.id)
    rig.machine.script = script
    await rig.post(rig.manager.put(secret(b"new", number=2)))
    await rig.wait(lambda: files_of(rig, task.id) == [b"new"])
    await rig.wait_quiet()
    assert left == [0]


# --- in memory only


@in_virtual_time
async def test_the_journal_never_sees_a_secret(tmp_path: Path) -> None:
    rig = Rig(journal=Journal(tmp_path / "agent.db"))
    revision = revision_of(the_secret(0, reload="HUP"), the_config())
    await rig.start()
    await rig.post(rig.manager.put(secret(), config(PASSWORD)))
    await rig.post(rig.manager.assign(task := make_task(1, revision), revision=revision))
    await rig.wait_state(TaskState.RUNNING, task.id)
    await rig.post(rig.manager.put(secret(PASSWORD + b"2", number=2)))
    await rig.wait(lambda: files_of(rig, task.id)[0] == PASSWORD + b"2")
    await rig.crash()
    written = [path for path in tmp_path.iterdir() if path.is_file()]
    assert any(b"service-web" in path.read_bytes() for path in written), "the task itself is on record"
    assert not any(PASSWORD in path.read_bytes() for path in written)
