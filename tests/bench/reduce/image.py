"""The corpus guests' image: a root file system of Debian's packages with filled databases, a kernel
and an initrd. Built once and cached by content under $EVAC_CACHE/reduce."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GUEST = HERE / "guest"
sys.path.insert(0, str(HERE.parents[1] / "guests"))

from guests import build_image  # noqa: E402

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PACKAGES = ["mariadb-server", "postgresql", "redis-server", "sysbench"]
FREE_MIB = 512  # of the disk, beside what is in it


class CorpusError(Exception):
    """The corpus could not be built; the text says what failed."""


@dataclass(frozen=True)
class CorpusImage:
    kernel: Path
    initrd: Path
    disk: Path  # raw ext4; copied for each run


def say(text: str) -> None:
    print(f"corpus: {text}", file=sys.stderr, flush=True)


def run(command: list[str], timeout_s: float, **options: object) -> None:
    try:
        done = subprocess.run(
            command, timeout=timeout_s, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False, **options,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CorpusError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CorpusError(f"{command[0]}: not done after {timeout_s:.0f} s") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise CorpusError(f"{' '.join(command[:4])} ...: status {done.returncode}\n{tail}")


def cache_folder() -> Path:
    return Path(os.environ.get("EVAC_CACHE", "/var/cache/evacgw-guests")) / "reduce"


def key_of(*parts: str | Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def install_tools() -> None:
    """mmdebstrap is for this benchmark only, so deploy/setup.sh does not bring it."""
    if shutil.which("mmdebstrap"):
        return
    say("installing mmdebstrap")
    run(["apt-get", "-q", "update"], 300)
    run(["apt-get", "-q", "install", "-y", "--no-install-recommends", "mmdebstrap"], 600)


def make_root(folder: Path, kernel: Path) -> None:
    install_tools()
    say(f"installing {', '.join(PACKAGES)} into a root file system (2 to 4 minutes)")
    run(["mmdebstrap", "--mode=root", "--variant=minbase",
         '--aptopt=APT::Install-Recommends "false"', f"--include={','.join(PACKAGES)}",
         SUITE, str(folder), MIRROR], 1800)  # fmt: skip
    say("filling the databases (1 minute)")
    shutil.copy2(GUEST / "load.sh", folder / "load.sh")
    run(["unshare", "--fork", "--pid", "--net", "--mount", "--kill-child",
         "chroot", str(folder), "/bin/bash", "/load.sh"], 1200)  # fmt: skip
    (folder / "load.sh").unlink()
    # A guest's kernel is on its disk, where the boot loader takes it from. What a boot leaves of it
    # in memory is the same with -kernel.
    shutil.copy2(kernel, folder / "boot" / "vmlinuz")


def make_disk(root: Path, disk: Path) -> None:
    used = subprocess.run(
        ["du", "-sm", str(root)], check=True, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    mib = int(used.stdout.split()[0]) * 105 // 100 + FREE_MIB
    with open(disk, "wb") as file:
        file.truncate(mib << 20)
    run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0", "-F",
         "-d", str(root), str(disk)], 600)  # fmt: skip


def root_disk(cache: Path, kernel: Path) -> Path:
    """The disk, from the cache or made."""
    out = cache / f"disk-{key_of(GUEST / 'load.sh', kernel, SUITE, *PACKAGES)}.raw"
    if out.exists():
        return out
    work = cache / f"work.{os.getpid()}"
    try:
        work.mkdir(parents=True)
        make_root(work / "root", kernel)
        make_disk(work / "root", work / "disk.raw")
        (work / "disk.raw").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def corpus_initrd(cache: Path, base: Path) -> Path:
    """The test guests' initrd (modules, busybox) and ours behind it: the kernel unpacks both, the
    later file of a name wins."""
    out = cache / f"initrd-{key_of(base, GUEST / 'init.sh', GUEST / 'workload.sh')}.gz"
    if out.exists():
        return out
    work = cache / f"work.{os.getpid()}.initrd"
    try:
        work.mkdir(parents=True)
        shutil.copy2(GUEST / "init.sh", work / "init")
        shutil.copy2(GUEST / "workload.sh", work / "workload.sh")
        for name in ("init", "workload.sh"):
            (work / name).chmod(0o755)
        names = "init\nworkload.sh\n"
        archive = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), cwd=work, check=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        made = work / "initrd.gz"
        made.write_bytes(base.read_bytes() + gzip.compress(archive.stdout))
        made.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def corpus_image() -> CorpusImage:
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    guests = build_image()
    initrd = corpus_initrd(cache, guests.initrd)
    return CorpusImage(guests.kernel, initrd, root_disk(cache, guests.kernel))
