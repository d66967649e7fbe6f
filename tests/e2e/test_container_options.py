"""One service with many options at once, as its task sees them; and volumes of one node by way of another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from lab_cli import Cli, error, reason, tasks_of, wait_for
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

ON_WORKER: Final = ("--constraint", "node.hostname==node-2")
DEVICE: Final = "/dev/loop-control"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        yield lab


def test_many_options_at_once(cli: Cli, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    script = (
        'echo "who=$(id -u):$(id -g):$(hostname):$X:$PWD";'
        "echo shm=$(stat -f -c '%b*%S' /dev/shm);"
        "grep -E '^(NoNewPrivs|Seccomp|CapBnd|Cpus_allowed_list):' /proc/self/status;"
        "mkdir /tmp/never 2>/dev/null || echo mkdir=refused;"
        f": <{DEVICE} && echo device=there;"
        "echo nofile=$(ulimit -n) somaxconn=$(cat /proc/sys/net/core/somaxconn);"
        "echo oom=$(cat /proc/self/oom_score_adj) host=$(getent hosts db | cut -d' ' -f1);"
        "touch /mnt/file; touch /srv/x 2>/dev/null || echo srv=read-only; exec sleep 1000"
    )
    cli.create(
        "opts",
        *ON_WORKER,
        *("--user", "root", "--workdir", "/usr", "--hostname", "{{.Service.Name}}-{{.Task.Slot}}"),
        *("--env", 'X={{if eq .Task.Slot "1"}}first{{end}}', "--host", "db:10.9.8.7"),
        *("--shm-size", "1m", "--cpuset-cpus", "0", "--device", f"{DEVICE}:rw", "--oom-score-adj", "200"),
        *("--security-opt", f"seccomp={tmp_path}/profile.json", "--cap-drop", "ALL", "--cap-add", "CHOWN"),
        *("--ulimit", "nofile=77:88", "--sysctl", "net.core.somaxconn=99"),
        *("--limit-memory", "64m", "--mount", "type=volume,source=opts-data,target=/mnt,volume-label=a=b"),
        *("--mount", "type=tmpfs,target=/srv,readonly"),
        *("host", "sh", "-c", script),
    )
    wanted = {
        "who=0:0:opts-1:first:/usr",
        "shm=256*4096",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapBnd:\t0000000000000001",
        "Cpus_allowed_list:\t0",
        "mkdir=refused",
        "device=there",
        "nofile=77 somaxconn=99",
        "oom=200 host=10.9.8.7",
        "srv=read-only",
    }
    wait_for(
        lambda: set(cli.good("service", "logs", "--raw", "opts").splitlines()),
        lambda said: wanted <= said,
        what=f"the task should say {wanted}",
    )
    (task,) = tasks_of(cli.lab, "opts")
    refused = cli.bad("volume", "rm", "--node", "node-2", "opts-data")
    assert refused == error(f"remove opts-data: volume is in use - [{task['ID']}]")
    cli.remove("opts")
    wait_for(
        lambda: cli("volume", "rm", "--node", "node-2", "opts-data"),
        lambda done: done.code == 0,
        what="the volume can be removed once its task is gone",
    )


def test_volumes_of_another_node(cli: Cli) -> None:
    created = cli.good("volume", "create", "--node", "node-2", "--label", "tier=db", "there")
    assert created == "there\n"
    cli.good("volume", "create", "here")
    assert "there" not in cli.good("volume", "ls")
    (found,) = json.loads(cli.good("volume", "inspect", "--node", "node-2", "there"))
    assert (found["Driver"], found["Labels"]) == ("local", {"tier": "db"})
    assert Path(found["Mountpoint"]).is_dir()
    wait_for(
        lambda: cli.good("volume", "ls", "--all-nodes", "--format", "{{.Node}} {{.Name}}").split("\n"),
        lambda lines: {"node-1 here", "node-2 there"} <= set(lines),
        what="both nodes report their volumes",
    )
    assert cli.good("volume", "ls", "-q", "--node", "node-2", "--filter", "label=tier=db") == "there\n"
    gone = cli.good("volume", "prune", "--node", "node-2", "--all", "--force")
    assert gone.startswith("Deleted Volumes:\nthere\n")
    assert cli.bad("volume", "rm", "--node", "node-2", "there") == error("get there: no such volume")
    cli.good("volume", "rm", "here")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--device", "/dev/none"), 'custom device "/dev/none": no such file or directory'),
        (("--isolation", "hyperv"), 'invalid isolation "hyperv" on linux'),
    ],
)
def test_what_a_node_cannot_do_is_said_by_its_task(cli: Cli, flags: tuple[str, ...], text: str) -> None:
    cli.create("odd", *ON_WORKER, "--restart-condition", "none", *flags, "host", "sleep", "1000")
    (task,) = wait_for(
        lambda: [task for task in tasks_of(cli.lab, "odd") if task["Status"]["State"] == "rejected"],
        what="the task is rejected",
    )
    assert text in reason(task)


def test_cluster_volumes_are_not_supported_yet(cli: Cli) -> None:
    refused = cli.bad("service", "create", "--mount", "type=cluster,source=x,target=/x", "host", "true")
    assert "cluster volumes (CSI) are not supported yet" in refused
    reply = cli.lab.request("node-1", "POST", "/volumes/create", {"ClusterVolumeSpec": {}})
    assert reply.status == 501
