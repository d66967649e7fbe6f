"""The control groups of a task that a runtime made: all, and none of others."""

from __future__ import annotations

import pytest

from agent.executor.oci.groups import joined

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
INSIDE = "31 23 0:28 /box/a /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
ALL = "4:freezer:/s/t\n3:cpu,cpuacct:/s/t\n1:name=systemd:/s/t\n"


@pytest.mark.parametrize(
    ("table", "mountinfo", "found"),
    [
        (ALL + "0::/\n", V1, ["cpu,cpuacct", "freezer", "systemd"]),
        (ALL + "0::/s/t\n", V1, ["cpu,cpuacct", "freezer", "systemd", "unified"]),
        ("4:freezer:/s\n3:cpu,cpuacct:/s/t\n1:name=systemd:/user/s/t\n", V1, ["cpu,cpuacct"]),
        ("0::/s/t\n", V2, [""]),
        ("4:freezer:/box/a/s/t\n", INSIDE, ["freezer"]),
        ("4:freezer:/box/b/s/t\n0::/s/t\n", INSIDE, []),
    ],
)
def test_all_and_none_of_others(table: str, mountinfo: str, found: list[str]) -> None:
    folders = [f"/sys/fs/cgroup/{name}" if name else "/sys/fs/cgroup" for name in found]
    assert joined(table, mountinfo, "/s/t") == [f"{folder}/s/t" for folder in folders]
