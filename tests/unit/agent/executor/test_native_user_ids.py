"""Tasks whose ids are others on the node (``--userns-remap``): what is root inside is nobody outside."""

from __future__ import annotations

import os
import tarfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest
import pytest_asyncio
from box_image import box, run, said
from native_rig import NativeRig

from agent.executor.base import Command, LaunchFile, Sandbox
from agent.executor.native.id_ranges import IdRange, TaskIds
from agent.executor.native.job import HOST_NETWORK
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import Mount
from swarmpy.model.states import MountType

IDS = TaskIds(IdRange(700_000_000, 65_536), IdRange(710_000_000, 65_535))
MINE = f"{IDS.users.first}"

on_linux = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory, box_image: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path_factory.mktemp("ids"), ids=IDS)
    await rig.open()
    await rig.executor.load_image(box_image)
    yield rig
    await rig.close()


class TestTasks:
    pytestmark = on_linux

    async def test_root_inside_is_nobody_outside(self, rig: NativeRig) -> None:
        lines = await said(
            rig,
            "cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g / /dev /dev/shm /tmp /work",
            dir="/work",
            mounts=(Mount(type=MountType.TMPFS, target="/tmp"),),
        )
        assert [line.split() for line in lines[:2]] == [["0", MINE, "65536"], ["0", "710000000", "65535"]]
        assert lines[2:] == ["0:0"] * 5

    async def test_it_is_no_more_than_the_tasks_root(self, rig: NativeRig) -> None:
        plain = "grep -E '^Cap(Bnd|Eff|Prm|Inh)|NoNewPrivs|Seccomp:' /proc/self/status"
        lines = await said(rig, plain)
        assert "CapBnd:\t00000000a80425fb" in lines
        assert "CapEff:\t00000000a80425fb" in lines
        assert "Seccomp:\t2" in lines
        assert "CapEff:\t0000000000000000" in await said(rig, plain, user="1001")

    async def test_set_uid_programs_lead_to_the_tasks_root(self, rig: NativeRig) -> None:
        assert await said(rig, "sudo-id -u", user="1001") == ["0"]

    async def test_files_of_the_image_belong_to_its_own_ids(self, rig: NativeRig) -> None:
        assert await said(
            rig, "stat -c %u:%g / /bin/busybox /data /data/first; touch /made; stat -c %u /made"
        ) == [
            "0:0",
            "0:0",
            "1001:1001",
            "1001:0",
            "0",
        ]

    async def test_what_is_written_has_the_mapped_ids_on_disk(self, rig: NativeRig) -> None:
        task = await run(rig, box("touch /made"), "disk")
        await rig.output(task)
        made = rig.data_dir / "tasks" / task / "upper" / "made"
        assert (made.stat().st_uid, made.stat().st_gid) == (IDS.users.first, IDS.groups.first)

    async def test_a_task_has_its_ids_on_the_node(self, rig: NativeRig) -> None:
        task = await run(rig, box("sleep 100", user="1001"), "ids")
        [found] = [each for each in await rig.executor.list() if each.task_id == task]
        status = Path(f"/proc/{found.pid}/status").read_text()
        assert f"Uid:\t{IDS.users.first + 1001}" in status
        assert f"Gid:\t{IDS.groups.first + 1001}" in status

    async def test_commands_are_of_the_same_ids(self, rig: NativeRig) -> None:
        task = await run(rig, box("sleep 100"), "inside")
        channel = await rig.executor.exec(
            task,
            Command(argv=("/bin/sh", "-c", "cat /proc/self/uid_map; touch /by-hand; stat -c %u /by-hand")),
        )
        words = b"".join([part.data async for part in channel.output()]).split()
        assert words == [b"0", MINE.encode(), b"65536", b"0"]
        assert await channel.exit_code() == 0

    async def test_secrets_and_volumes_are_the_tasks(self, rig: NativeRig) -> None:
        mounts = (
            Mount(type=MountType.VOLUME, source="fresh", target="/fresh"),
            Mount(type=MountType.VOLUME, source="copied", target="/data"),
        )
        spec = box(
            "cat /run/secrets/key; stat -c %u:%g /run/secrets/key; touch /fresh/a /data/b;"
            " stat -c %u /fresh /fresh/a /data /data/first",
            mounts=mounts,
        )
        secret = LaunchFile(target="/run/secrets/key", data=b"s3cret\n", uid=7, gid=8, mode=0o440)
        assert (await rig.output(await run(rig, spec, files=(secret,)))).splitlines() == [
            "s3cret", "7:8", "0", "0", "1001", "1001",
        ]  # fmt: skip

    async def test_the_nodes_files_are_not_roots(self, rig: NativeRig, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        (tmp_path / "file").write_text("of the node")
        (tmp_path / "file").chmod(0o600)
        mount = Mount(type=MountType.BIND, source=str(tmp_path), target="/host")
        lines = await said(
            rig, "cat /host/file || echo refused; touch /host/new || echo refused", mounts=(mount,)
        )
        assert lines.count("refused") == 2

    async def test_a_network_that_is_not_made_for_it_is_the_nodes(self, rig: NativeRig) -> None:
        """Capabilities are for the task's own namespace, and this network's belongs to the node."""
        lines = await said(
            rig, "/bin/busybox ip link set lo down || echo refused", capability_add=("NET_ADMIN",)
        )
        assert "refused" in lines

    async def test_an_id_that_there_is_not(self, rig: NativeRig) -> None:
        with pytest.raises(TaskRejected, match="id 70000 cannot be had"):
            await run(rig, box("true", user="70000"))
        with pytest.raises(TaskRejected, match="id 65535 cannot be had"):
            await run(rig, box("true", user="65535:65535"))

    async def test_what_needs_the_nodes_own_ids_is_refused(self, rig: NativeRig) -> None:
        with pytest.raises(TaskRejected, match="privileged mode is incompatible with user namespaces"):
            await run(rig, box("true", privileged=True))
        with pytest.raises(TaskRejected, match="host's network namespace"):
            await run(rig, box("true"), sandbox=Sandbox(netns=HOST_NETWORK))
        with pytest.raises(TaskRejected, match="--userns-remap"):
            await rig.sh("host", "true")

    async def test_copies_have_the_ids_that_the_task_knows(self, rig: NativeRig) -> None:
        task = await run(rig, box("sleep 100"), "copies")
        archive = BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo("brought")
            member.uid = member.gid = 1001
            tar.addfile(member)

        async def chunks() -> AsyncIterator[bytes]:
            yield archive.getvalue()

        await rig.executor.copy_in(task, "/", chunks())
        channel = await rig.executor.exec(task, Command(argv=("/bin/stat", "-c", "%u:%g", "/brought")))
        assert b"".join([part.data async for part in channel.output()]) == b"1001:1001\n"
        content = b"".join([chunk async for chunk in rig.executor.copy_out(task, "/brought")])
        with tarfile.open(fileobj=BytesIO(content)) as tar:
            [found] = tar.getmembers()
        assert (found.uid, found.gid) == (1001, 1001)

    async def test_a_terminal_and_an_init(self, rig: NativeRig) -> None:
        lines = await said(rig, "stat -c %u /proc/self/fd/1; id -u", tty=True, init=True)
        assert lines == ["0", "0"]


class TestHostMode:
    """``docker run --userns host``: of one container, as if the node had no other ids."""

    pytestmark = on_linux

    async def test_it_has_the_nodes_ids(self, rig: NativeRig) -> None:
        mounts = (Mount(type=MountType.VOLUME, source="hosts", target="/fresh"),)
        secret = LaunchFile(target="/run/secrets/key", data=b"s3cret\n", uid=7, mode=0o440)
        task = await run(
            rig,
            box(
                "cat /proc/self/uid_map; touch /made /fresh/a;"
                " stat -c %u / /bin/busybox /dev/shm /fresh /fresh/a /run/secrets/key",
                mounts=mounts,
                userns_mode="host",
            ),
            files=(secret,),
        )
        first, *owners = (await rig.output(task)).splitlines()
        assert first.split() == ["0", "0", "4294967295"]
        assert owners == ["0", "0", "0", "0", "0", "7"]
        assert (rig.data_dir / "tasks" / task / "upper/made").stat().st_uid == 0

    async def test_what_needs_them_runs(self, rig: NativeRig) -> None:
        assert await said(rig, "echo up", privileged=True, userns_mode="host") == ["up"]
        task = await run(rig, box("echo up", userns_mode="host"), sandbox=Sandbox(netns=HOST_NETWORK))
        assert await rig.output(task) == "up\n"

    async def test_commands_and_copies_too(self, rig: NativeRig) -> None:
        task = await run(rig, box("sleep 100", userns_mode="host"))
        channel = await rig.executor.exec(task, Command(argv=("/bin/cat", "/proc/self/uid_map")))
        words = b"".join([part.data async for part in channel.output()]).split()
        assert words == [b"0", b"0", b"4294967295"]
