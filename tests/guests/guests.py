"""The six test guests: what they are, their QEMU command lines, starting and stopping them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from qmp import Qmp, QmpError, run_state_of, wait_for_socket  # noqa: E402

QEMU = "qemu-system-x86_64"
SHARED_SEED = 77  # the same on all guests; build.sh makes the disk's base file from it too


@dataclass(frozen=True)
class GuestSpec:
    """One guest. Rates are MiB a second; ws is the part of memory that is verified all the time."""

    name: str
    role: str  # idle | writer | disk
    ram_mib: int
    ws_mib: int
    fill_mib: int
    seed: int
    rate_mib: int = 0
    disk_mib: int = 0
    disk_kib_s: int = 1024
    works: bool = False  # spends spare time on counted work (WRK)
    memory: str = "private"  # | memfd | file: shared with other processes, as for vhost-user


def six_guests(seed: int = 1) -> list[GuestSpec]:
    """The guests of the main job, in the order in which `--vms N` takes them."""
    first = seed * 100
    return [
        GuestSpec("idle-1", "idle", 256, 8, 136, first + 1),
        GuestSpec("writer-8", "writer", 384, 64, 200, first + 2, rate_mib=8, memory="memfd"),
        GuestSpec("disk-1", "disk", 512, 8, 296, first + 3, disk_mib=512, memory="file"),
        GuestSpec("writer-2", "writer", 384, 48, 216, first + 4, rate_mib=2),
        GuestSpec("writer-1", "writer", 256, 32, 112, first + 5, rate_mib=1),
        GuestSpec("idle-2", "idle", 256, 8, 136, first + 6),
    ]


@dataclass(frozen=True)
class GuestImage:
    """What build.sh made."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.gz"

    @property
    def base_sha256(self) -> str:
        return (self.folder / "base.sha256").read_text().strip()


def build_image() -> GuestImage:
    """Runs build.sh (fast when cached)."""
    done = subprocess.run([str(HERE / "build.sh")], check=True, stdout=subprocess.PIPE, text=True)
    return GuestImage(Path(done.stdout.strip().splitlines()[-1]))


@dataclass(frozen=True)
class GuestPaths:
    """Where one guest keeps its files at one site: <vms>/<name>/..."""

    folder: Path

    @property
    def qmp(self) -> Path:  # the gateway's
        return self.folder / "qmp.sock"

    @property
    def prover(self) -> Path:  # the prover's
        return self.folder / "prover.sock"

    @property
    def serial(self) -> Path:
        return self.folder / "serial.log"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def ram(self) -> Path:
        return self.folder / "ram"

    @property
    def log(self) -> Path:
        return self.folder / "qemu.log"


def make_disk(spec: GuestSpec, image: GuestImage, path: Path) -> None:
    """An ext4 image with the base file in it; the same bytes for the same spec."""
    uuid = f"e0ac0000-0000-4000-8000-{spec.seed:012d}"
    environment = dict(os.environ, E2FSPROGS_FAKE_TIME="1700000000")
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(spec.disk_mib * 1048576)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(image.folder / "disk"), "-U", uuid,
         "-E", f"hash_seed={uuid},lazy_itable_init=0", "-F", str(path)],
        check=True, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def kernel_command_line(spec: GuestSpec) -> str:
    words = [
        "console=ttyS0 quiet loglevel=3 nokaslr mitigations=off",
        f"evac.role={spec.role} evac.seed={spec.seed} evac.shared_seed={SHARED_SEED}",
        f"evac.ws_mib={spec.ws_mib} evac.rate_mib={spec.rate_mib} evac.fill_mib={spec.fill_mib}",
    ]
    if spec.role == "disk":
        words.append(f"evac.disk_kib={spec.disk_kib_s}")
    if spec.works:
        words.append("evac.work=1")
    return " ".join(words)


def qemu_command(
    spec: GuestSpec, image: GuestImage, paths: GuestPaths, incoming: bool = False
) -> list[str]:
    """What an operator would write: pinned machine version, every PCI address explicit."""
    command = [
        QEMU, "-name", spec.name, "-M", "pc-q35-7.2", "-accel", "tcg", "-cpu", "qemu64",
        "-smp", "1", "-m", str(spec.ram_mib), "-nodefaults", "-nic", "none", "-display", "none",
        "-vga", "none",
        "-device", "VGA,id=vga0,bus=pcie.0,addr=0x1",
        "-serial", f"file:{paths.serial}",
        "-qmp", f"unix:{paths.qmp},server=on,wait=off",
        "-qmp", f"unix:{paths.prover},server=on,wait=off",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", kernel_command_line(spec),
    ]  # fmt: skip
    if spec.memory != "private":
        backend = {"memfd": "memory-backend-memfd", "file": "memory-backend-file"}[spec.memory]
        where = f",mem-path={paths.ram}" if spec.memory == "file" else ""
        command[command.index("-M") + 1] += ",memory-backend=pc.ram"
        command += ["-object", f"{backend},id=pc.ram,size={spec.ram_mib}M,share=on{where}"]
    if spec.disk_mib:
        command += [
            "-blockdev", f"driver=raw,node-name=disk0,file.driver=file,file.filename={paths.disk}",
            "-device", "virtio-blk-pci,id=virtio-disk0,drive=disk0,bus=pcie.0,addr=0x4",
        ]  # fmt: skip
    if incoming:
        command += ["-incoming", "defer"]
    return command


@dataclass
class Guest:
    """A QEMU process that we started. `stop` ends that process and no other."""

    spec: GuestSpec
    paths: GuestPaths
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def qmp(self) -> Qmp:
        return Qmp(self.paths.prover)

    def stop(self, timeout_s: float = 5.0) -> None:
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_guest(
    spec: GuestSpec,
    image: GuestImage,
    folder: Path,
    netns: str | None = None,
    incoming: bool = False,
) -> Guest:
    """Starts one guest with its files in `folder`; returns when its QMP answers."""
    paths = GuestPaths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (paths.qmp, paths.prover, paths.serial, paths.ram):
        stale.unlink(missing_ok=True)
    if spec.disk_mib:
        if incoming:
            with open(paths.disk, "wb") as file:
                file.truncate(spec.disk_mib * 1048576)
        else:
            make_disk(spec, image, paths.disk)
    command = qemu_command(spec, image, paths, incoming)
    if netns:
        command = ["ip", "netns", "exec", netns, *command]
    with open(paths.log, "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    guest = Guest(spec, paths, process)
    try:
        wait_for_socket(paths.prover)
    except QmpError as error:
        guest.stop()
        raise RuntimeError(
            f"{spec.name} did not start: {error}\n{paths.log.read_text()}"
        ) from error
    return guest


def is_ready(guest: Guest) -> bool:
    """True once the guest printed READY; raises when its set-up failed or its QEMU ended."""
    text = guest.paths.serial.read_bytes() if guest.paths.serial.exists() else b""
    trouble = re.search(rb"^(FAILED|.*Kernel panic).*$", text, re.M)
    if trouble:
        raise RuntimeError(f"{guest.spec.name}: {trouble.group().decode(errors='replace')}")
    if not guest.alive():
        raise RuntimeError(f"{guest.spec.name}: QEMU ended: {guest.paths.log.read_text()}")
    return re.search(rb"^READY \w+\s", text, re.M) is not None


def wait_ready(guests: list[Guest], timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = list(guests)
    while waiting:
        waiting = [guest for guest in waiting if not is_ready(guest)]
        if waiting and time.monotonic() > deadline:
            raise RuntimeError(
                f"not ready after {timeout_s:.0f} s: {[g.spec.name for g in waiting]}"
            )
        time.sleep(0.2)


def stop_guests(guests: list[Guest]) -> None:
    for guest in guests:
        guest.stop()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


__all__ = [
    "Guest", "GuestImage", "GuestPaths", "GuestSpec", "Qmp", "QmpError", "build_image", "is_ready",
    "make_disk", "qemu_command", "remove_folder", "run_state_of", "six_guests", "start_guest",
    "stop_guests", "wait_for_socket", "wait_ready",
]  # fmt: skip
