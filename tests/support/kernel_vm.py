"""A virtual machine with Debian's kernel, for what this machine's may not have: IPsec, WireGuard, and control
groups of version 2 alone.

It is emulated (qemu TCG), so it runs anywhere, and slowly. Its root is this machine's, read-only, with a
scratch layer on top: programs and the project are those that are here. It runs one Python program and hands
back what that said:

    told = run_job(Path("tests/support/encryption_job.py"), timeout_s=240)

The kernel is downloaded once, by apt, and unpacked into a cache folder; nothing is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "swarmpy" / "test-kernel"
RESULT = "/dev/ttyS1"
"""Where a job writes its one line of JSON; see ``report``."""

_META_PACKAGE = "linux-image-amd64"
_QEMU = "qemu-system-x86_64"
_MEMORY_MIB = 1024
_DOWNLOAD_S = 300
_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
NETWORK = (
    *("bridge", "br_netfilter", "veth", "vxlan", "tun", "dummy"),
    *(
        "crc32c_generic",
        "nf_tables",
        "nft_ct",
        "nft_nat",
        "nft_chain_nat",
        "nft_masq",
        "nft_fib_inet",
        "nft_numgen",
    ),
    *("gcm", "ctr", "ghash_generic", "seqiv", "echainiv", "authenc", "aes_generic"),
    *("hmac", "sha512_generic", "jitterentropy_rng", "drbg", "ansi_cprng"),
    *("xfrm_user", "xfrm_algo", "esp4", "esp6", "nft_xfrm", "wireguard"),
)
DISKS = ("loop", "ext4", "crc32c_generic")
_MODULES = (*NETWORK, *DISKS)
_START = """
import runpy, sys
sys.modules["rich"] = None  # logs in colours, which take seconds to import here
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for module in {boot}; do $B insmod /modules/$module.ko; done
$B mkdir -p /lower /scratch /new
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /lower
$B mount -t tmpfs scratch /scratch
$B mkdir /scratch/upper /scratch/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work over /new
for module in {modules}; do $B insmod /modules/$module.ko; done
$B mount --move /dev /new/dev
$B mount --move /sys /new/sys
$B mount --move /proc /new/proc
$B mount -t tmpfs run /new/run
$B mount -t tmpfs tmp /new/mnt
cd /new
$B mount --move . /
$B chroot . /bin/sh {job}
echo o > proc/sysrq-trigger
$B sleep 60
"""


def run_job(
    program: Path, *, timeout_s: float, modules: Iterable[str] = NETWORK, arguments: Iterable[str] = ()
) -> Mapping[str, Any]:
    """What the program reported; an assertion with the console's end if it did not. ``modules``: those of
    NETWORK and DISKS that it needs."""
    kernel = ready_kernel()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        job = folder / "job.sh"
        job.write_text(_job(program, arguments))
        _pack_initrd(kernel, folder / "initrd.gz", job, modules)
        console, result = folder / "console", folder / "result"
        words = _qemu(kernel, folder / "initrd.gz", console, result)
        try:
            done = subprocess.run(words, timeout=timeout_s, capture_output=True, text=True, check=False)
            said = f"{done.stdout}{done.stderr}"
        except subprocess.TimeoutExpired:
            said = f"not done after {timeout_s} s"
        seen = console.read_text(errors="replace") if console.exists() else ""
        lines = result.read_text(errors="replace").splitlines() if result.exists() else []
        reports = [line for line in lines if line.startswith("{") and line.endswith("}")]
        assert reports, f"the machine reported nothing; {said}\n{seen[-6000:]}"
        told: Mapping[str, Any] = json.loads(reports[-1])
        return told


def report(told: Mapping[str, Any]) -> None:
    """For a job, within the machine."""
    with open(RESULT, "wb", buffering=0) as line:
        line.write(json.dumps(told).encode() + b"\n")
    subprocess.run(["stty", "-F", RESULT, "-echo"], check=False, capture_output=True)


def _job(program: Path, arguments: Iterable[str]) -> str:
    words = shlex.join([sys.executable, "-c", _START, str(program.resolve()), *arguments])
    return "\n".join(
        [
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root",
            f"export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={ROOT}:{ROOT}/tests/support TMPDIR=/mnt",
            f"ip link set lo up; stty -F {RESULT} raw -echo; cd {ROOT} && {words}",
            "",
        ]
    )


def _qemu(kernel: Path, initrd: Path, console: Path, result: Path) -> list[str]:
    options = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"
    return [
        *(_QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"),
        *("-serial", f"file:{console}", "-serial", f"file:{result}"),
        *("-kernel", str(kernel / "vmlinuz"), "-initrd", str(initrd), "-append", options),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
    ]


# --- the kernel


def ready_kernel() -> Path:
    """A folder with ``vmlinuz`` and ``modules``, in the order in which they are loaded."""
    for tool in (_QEMU, "busybox", "apt-get", "dpkg"):
        assert shutil.which(tool), f"{tool} is missing: install qemu-system-x86 and busybox-static on Debian"
    package = _package()
    wanted = hashlib.sha256(" ".join((*_BOOT_MODULES, *_MODULES)).encode()).hexdigest()[:8]
    folder = CACHE / f"{package}.{wanted}"
    if not (folder / "vmlinuz").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            made = _unpack(package, Path(scratch))
            try:
                made.rename(folder)
            except OSError:
                assert (folder / "vmlinuz").exists(), f"cannot make {folder}"
    return folder


def _package() -> str:
    """The newest kernel that apt knows; else the newest that is in the cache."""
    done = subprocess.run(
        ["apt-cache", "depends", _META_PACKAGE], capture_output=True, text=True, check=False
    )
    found = re.findall(r"Depends: (linux-image-\d\S+)", done.stdout)
    if found:
        return str(found[0])
    cached = sorted(path.name.rpartition(".")[0] for path in CACHE.glob("linux-image-*"))
    assert cached, f"apt knows no {_META_PACKAGE}: run apt-get update"
    return cached[-1]


def _unpack(package: str, scratch: Path) -> Path:
    done = subprocess.run(
        ["apt-get", "-o", "APT::Sandbox::User=root", "download", package],
        cwd=scratch,
        timeout=_DOWNLOAD_S,
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(scratch.glob("*.deb"))
    assert archives, f"cannot download {package}: {done.stderr}"
    subprocess.run(["dpkg", "-x", str(archives[0]), str(scratch / "all")], check=True)
    made = scratch / "made"
    (made / "modules").mkdir(parents=True)
    shutil.copy(next((scratch / "all" / "boot").glob("vmlinuz-*")), made / "vmlinuz")
    (scratch / "modules").mkdir()
    for path in (scratch / "all").rglob("*.ko"):
        path.rename(scratch / "modules" / path.name)
    needed = _in_order((*_BOOT_MODULES, *_MODULES), scratch)
    assert needed, f"{package} has no modules that are not compressed"
    for name in needed:
        shutil.copy(scratch / "modules" / f"{name}.ko", made / "modules")
    return made


def _in_order(names: Iterable[str], folder: Path) -> list[str]:
    """With what they need before them. What is no module is built in."""
    ordered: list[str] = []

    def add(name: str) -> None:
        path = _module(folder, name)
        if path is None or path.stem in ordered:
            return
        match = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in (match.group(1).decode() if match else "").split(","):
            if needed:
                add(needed)
        ordered.append(path.stem)

    for name in names:
        add(name)
    return ordered


def _module(folder: Path, name: str) -> Path | None:
    for spelling in (name, name.replace("_", "-"), name.replace("-", "_")):
        path = folder / "modules" / f"{spelling}.ko"
        if path.exists():
            return path
    return None


# --- the first file system


def _pack_initrd(kernel: Path, target: Path, job: Path, wanted: Iterable[str]) -> None:
    boot = _in_order(_BOOT_MODULES, kernel)
    modules = [name for name in _in_order(wanted, kernel) if name not in boot]
    init = _INIT.format(boot=" ".join(boot), modules=" ".join(modules), job=job)
    entries: list[tuple[str, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "modules", "proc", "sys", "dev")
    ]
    entries.append(("init", stat.S_IFREG | 0o755, init.encode()))
    busybox = shutil.which("busybox")
    assert busybox
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes()))
    for name in (*boot, *modules):
        path = kernel / "modules" / f"{name}.ko"
        entries.append((f"modules/{name}.ko", stat.S_IFREG | 0o644, path.read_bytes()))
    packed = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, start=1))
    target.write_bytes(gzip.compress(packed + _entry(0, "TRAILER!!!", 0, b""), compresslevel=1))


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One file in the format that the kernel unpacks (cpio, newc)."""
    raw = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
