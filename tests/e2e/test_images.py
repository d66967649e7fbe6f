"""Images loaded by ``swarmpy image load``, and services from them on the nodes that have them.

node-1 manages and gets no image; node-2 and node-3 have all of them.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from image_files import write_docker_save, write_layout
from lab_cli import (
    Cli,
    error,
    processes,
    reason,
    state,
    tasks_of,
    wait_ended,
    wait_for,
    wait_running,
    wait_states,
)
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

BUSYBOX: Final = Path("/usr/bin/busybox")
APPLETS: Final = ("cat", "dd", "echo", "env", "id", "pwd", "sh", "sleep", "test", "touch", "true")
HAVE_IMAGES: Final = ("node-2", "node-3")
WITH_IMAGES: Final = ("--constraint", "node.role==worker")


def busybox_layer(**files: str) -> bytes:
    """A root file system around busybox, as a tar; ``files`` lie in /etc."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "srv", "srv/data"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        content = BUSYBOX.read_bytes()
        program.size, program.mode = len(content), 0o755
        archive.addfile(program, io.BytesIO(content))
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        users = "root:x:0:0::/:/bin/sh\napp:x:4242:4343::/srv:/bin/sh\n"
        for name, text in {"passwd": users, "group": "root:x:0:\napp:x:4343:\n", **files}.items():
            file = tarfile.TarInfo(f"etc/{name}")
            file.size = len(text.encode())
            archive.addfile(file, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not BUSYBOX.exists():
        pytest.fail("busybox-static is not installed; .ci/run installs it")
    folder = tmp_path_factory.mktemp("images")
    layer = busybox_layer(release="from a rootfs tar\n")
    (folder / "rootfs.tar").write_bytes(layer)
    saved = busybox_layer(release="from docker save\n")
    config = {"Env": ["COLOUR=red", "SIZE=big"], "WorkingDir": "/srv/data", "User": "app"}
    write_docker_save(
        folder / "saved.tar",
        [saved],
        names=["bb/saved:1"],
        Entrypoint=["sh", "-c"],
        Cmd=["env; pwd; id -u; cat /etc/release"],
        **config,
    )
    laid = busybox_layer(release="from an OCI layout\n")
    write_layout(folder / "laid", [laid], name="bb/laid:1", Cmd=["cat", "/etc/release"])
    with lab_of(managers=1, workers=2) as lab:
        cli = Cli(lab)
        for node in HAVE_IMAGES:
            assert "bb" in cli.good("image", "load", "--name", "bb", str(folder / "rootfs.tar"), at=node)
            cli.good("image", "load", "-i", str(folder / "saved.tar"), at=node)
            cli.good("image", "load", str(folder / "laid"), at=node)
        yield lab


def log_of(cli: Cli, service: str) -> list[str]:
    return cli.good("service", "logs", "--raw", service).splitlines()


def run_once(cli: Cli, name: str, *words: str) -> list[str]:
    """Run a task to its end, once, and return what it wrote."""
    cli.create(name, "--restart-condition", "none", *WITH_IMAGES, *words)
    task = wait_ended(cli.lab, name)
    assert state(task) == "complete", task
    return log_of(cli, name)


def test_image_ls_shows_what_was_loaded_and_where(cli: Cli) -> None:
    shown = cli.good("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", at="node-2").split()
    assert sorted(shown) == ["bb/laid:1", "bb/saved:1", "bb:latest"]
    assert cli.good("image", "ls", "-q", at="node-1") == ""


def test_a_rootfs_tar_runs(cli: Cli) -> None:
    assert run_once(cli, "rootfs", "bb", "cat", "/etc/release") == ["from a rootfs tar"]


def test_a_docker_save_archive_runs_with_its_own_settings(cli: Cli) -> None:
    lines = run_once(cli, "saved", "bb/saved:1")

    assert {"COLOUR=red", "SIZE=big"} <= set(lines)
    assert lines[-3:] == ["/srv/data", "4242", "from docker save"]


def test_an_oci_layout_runs(cli: Cli) -> None:
    assert run_once(cli, "laid", "bb/laid:1") == ["from an OCI layout"]


def test_a_service_overrides_env_args_workdir_and_user(cli: Cli) -> None:
    lines = run_once(
        cli,
        "mine",
        *(
            "--env",
            "COLOUR=blue",
            "--env",
            "WHERE={{.Node.Hostname}}",
            "--workdir",
            "/tmp",
            "--user",
            "0:4343",
        ),
        *("bb/saved:1", 'env; pwd; id -u; id -g; echo "$0|$1"', "zero", "first arg"),
    )

    assert {"COLOUR=blue", "SIZE=big"} <= set(lines)
    assert any(f"WHERE={node}" in lines for node in HAVE_IMAGES)
    assert lines[-4:] == ["/tmp", "0", "4343", "zero|first arg"]


def test_entrypoint_replaces_the_images_own(cli: Cli) -> None:
    assert run_once(cli, "entry", "--entrypoint", "echo", "bb/saved:1", "plain", "$HOME") == ["plain $HOME"]


def test_an_image_that_is_on_no_node_says_so_and_is_tried_again(cli: Cli) -> None:
    cli.create("nowhere", "--restart-delay", "200ms", "nosuch:1", "true")

    wait_for(lambda: tasks_of(cli.lab, "nowhere"), lambda tasks: len(tasks) >= 3, what="it is tried again")
    shown = cli.good("service", "ps", "--no-trunc", "nowhere")
    assert '"No such image: nosuch:1"' in shown
    assert "Rejected" in shown


def test_a_node_without_the_image_is_avoided_after_five_rejections(cli: Cli) -> None:
    cli.create("picky", "--replicas", "3", "--restart-delay", "100ms", "bb", "sleep", "100000")

    tasks = wait_running(cli.lab, "picky", 3)

    assert {task["Node"] for task in tasks} == set(HAVE_IMAGES)
    refused = [task for task in tasks_of(cli.lab, "picky") if state(task) == "rejected"]
    assert {(task["Node"], reason(task)) for task in refused} == {("node-1", "No such image: bb:latest")}
    assert "No such image: bb:latest" in cli.good("service", "ps", "--no-trunc", "picky")


def test_an_image_in_use_stays_and_an_unused_one_goes(cli: Cli) -> None:
    cli.create("user", "--constraint", "node.hostname==node-3", "bb/laid:1", "sleep", "100000")
    wait_running(cli.lab, "user", 1, on=["node-3"])

    refusal = cli.bad("image", "rm", "bb/laid:1", at="node-3")
    assert refusal.startswith(error("conflict")), refusal
    assert "bb/laid:1" in refusal
    assert "No such image: never:1" in cli.bad("image", "rm", "never:1", at="node-3")


def test_a_file_that_is_no_image_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "letter.tar").write_text("Dear madam")

    assert cli.bad("image", "load", str(tmp_path / "letter.tar"), at="node-2").startswith("Error response")
    missing = tmp_path / "missing.tar"
    assert (
        cli.bad("image", "load", str(missing))
        == f"Error: {missing} cannot be read: No such file or directory"
    )


# --- limits


def cgroup_file(pid: int, controller: str, v1_name: str, v2_name: str) -> str:
    """One setting of a process's cgroup, in whichever hierarchy its controller lives."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    legacy = Path("/sys/fs/cgroup", controller) if controller in paths else None
    folder = (
        legacy / paths[controller].lstrip("/") if legacy else Path("/sys/fs/cgroup") / paths[""].lstrip("/")
    )
    return (folder / (v1_name if legacy else v2_name)).read_text().strip()


def only_process(mark: str) -> int:
    return wait_for(lambda: processes(mark), lambda pids: len(pids) == 1, what=f"one process {mark}").pop()


def test_limits_stand_in_the_cgroup(cli: Cli) -> None:
    mark = f"{os.getpid()}.111"
    cli.create(
        "limited",
        *("--limit-memory", "64m", "--limit-cpu", "0.25", "--limit-pids", "17", *WITH_IMAGES),
        *("bb", "sleep", mark),
    )
    wait_running(cli.lab, "limited", 1)
    pid = only_process(mark)

    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert cgroup_file(pid, "pids", "pids.max", "pids.max") == "17"
    quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]
    assert quota == "25000"


def test_too_much_memory_ends_the_task(cli: Cli) -> None:
    cli.create(
        "greedy",
        *("--restart-condition", "none", "--limit-memory", "16m", *WITH_IMAGES),
        *("bb", "sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"),
    )

    task = wait_ended(cli.lab, "greedy")

    assert (state(task), reason(task)) == ("failed", "task: non-zero exit (137): out of memory")
    assert task["Status"]["ContainerStatus"]["ExitCode"] == 137
    assert "task: non-zero exit (137): out of memory" in cli.good("service", "ps", "--no-trunc", "greedy")


def test_too_many_processes_are_refused_to_the_task(cli: Cli) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo all of them"
    cli.create(
        "forky", "--restart-condition", "none", "--limit-pids", "5", *WITH_IMAGES, "bb", "sh", "-c", script
    )

    task = wait_ended(cli.lab, "forky")

    assert state(task) == "failed"
    lines = log_of(cli, "forky")
    assert any("can't fork" in line for line in lines) or "can't fork" in cli("service", "logs", "forky").err


# --- ends


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("exit 0", ("complete", "", 0)),
        ("exit 3", ("failed", "task: non-zero exit (3)", 3)),
        ("exit 255", ("failed", "task: non-zero exit (255)", 255)),
    ],
)
def test_the_exit_code_is_told(cli: Cli, script: str, wanted: tuple[str, str, int]) -> None:
    cli.create("ender", "--restart-condition", "none", *WITH_IMAGES, "bb", "sh", "-c", script)

    task = wait_ended(cli.lab, "ender")

    code = task["Status"]["ContainerStatus"].get("ExitCode", 0)
    assert (state(task), reason(task), code) == wanted


def test_a_command_that_does_not_exist_is_told(cli: Cli) -> None:
    cli.create("typo", "--restart-condition", "none", *WITH_IMAGES, "bb", "no-such-program")

    task = wait_ended(cli.lab, "typo")

    assert state(task) in ("failed", "rejected")
    assert "no-such-program" in reason(task)
    assert "executable file not found in $PATH" in reason(task)


def test_the_stop_signal_reaches_the_task_and_it_may_end_in_its_own_way(cli: Cli) -> None:
    traps = 'trap "echo said goodbye; exit 0" USR1; trap "echo wrong signal" TERM'
    script = f"{traps}; echo up; while :; do sleep 0.1; done"
    cli.create("polite", "--stop-signal", "SIGUSR1", *WITH_IMAGES, "bb", "sh", "-c", script)
    wait_for(lambda: log_of(cli, "polite"), lambda lines: lines == ["up"], what="it is up")

    cli.good("service", "update", "--detach", "--force", "polite")

    old = wait_states(cli.lab, "polite", ["running", "shutdown"])[-1]
    assert cli.good("service", "logs", "--raw", old["ID"]).splitlines() == ["up", "said goodbye"]


def test_a_task_that_ignores_the_stop_signal_is_killed_after_its_grace(cli: Cli) -> None:
    mark = f"{os.getpid()}.222"
    script = f'trap "echo no" TERM; echo up; while :; do sleep 0.1; done # {mark}'
    cli.create("deaf", "--stop-grace-period", "1s", *WITH_IMAGES, "bb", "sh", "-c", script)
    wait_for(lambda: log_of(cli, "deaf"), lambda lines: lines == ["up"], what="it is up")

    cli.good("service", "update", "--detach", "--force", "deaf")

    old = wait_states(cli.lab, "deaf", ["running", "shutdown"])[-1]
    assert state(old) == "shutdown"
    assert cli.good("service", "logs", "--raw", old["ID"]).splitlines() == ["up", "no"]
    assert len(processes(mark)) == 1
