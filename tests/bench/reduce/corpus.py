#!/usr/bin/env python3
"""RAM and disk of real guests under their work, for reduce_corpus.

  corpus.py [--quick] [--fresh] [--only WORKLOAD]     prints the folder with the captures

<folder>/<workload>/ram0.bin, disk0.raw; ram1, disk1, ... later in the same run. RAM and disk of one
number are of one instant: the guest is stopped while both are copied."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from image import GUEST, CorpusError, CorpusImage, cache_folder, corpus_image, key_of, say
from guests import QEMU  # noqa: E402  (path set by image)
from qmp import Qmp, QmpError, wait_for_socket  # noqa: E402

RAM_MIB = 1024
READY_TIMEOUT_S = 420
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workload:
    name: str
    warm_s: float  # of work before the first capture
    later_s: tuple[float, ...] = ()  # of work before each further one


FULL = [
    Workload("mariadb_rw", 60, (10, 30)),
    Workload("postgresql", 30, (10,)),
    Workload("mariadb_ro", 20),
    Workload("files", 2),
    Workload("idle", 5),
    Workload("redis", 5),
]
QUICK = [Workload("mariadb_rw", 20, (10,)), Workload("idle", 2)]


class Run:
    """One guest from its start to its end."""

    def __init__(self, workload: Workload, image: CorpusImage, folder: Path) -> None:
        self.workload = workload
        self.folder = folder
        self.disk = folder / "disk.raw"
        self.serial = folder / "serial.log"
        self.socket = folder / "qmp.sock"
        copy_sparse(image.disk, self.disk)
        append = f"console=ttyS0 quiet loglevel=3 mitigations=off corpus.workload={workload.name}"
        command = [
            QEMU, "-name", f"corpus-{workload.name}", "-M", "pc-q35-7.2", "-accel", "tcg",
            "-cpu", "qemu64", "-smp", "1", "-m", str(RAM_MIB), "-nodefaults", "-nic", "none",
            "-display", "none", "-serial", f"file:{self.serial}",
            "-qmp", f"unix:{self.socket},server=on,wait=off",
            "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", append,
            "-blockdev", f"driver=raw,node-name=disk0,file.driver=file,file.filename={self.disk}",
            "-device", "virtio-blk-pci,drive=disk0",
        ]  # fmt: skip
        self.log = open(folder / "qemu.log", "wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True,
        )  # fmt: skip

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            text = self.serial.read_text(errors="replace") if self.serial.exists() else ""
            if "CORPUS READY" in text:
                return
            trouble = [w for w in ("CORPUS FAILED", "FAILED", "Kernel panic") if w in text]
            ended = self.process.poll() is not None
            if trouble or ended or time.monotonic() > deadline:
                why = trouble[0] if trouble else "QEMU ended" if ended else "not ready in time"
                raise CorpusError(f"{self.workload.name}: {why}\n{text[-1500:]}")
            time.sleep(0.2)

    def capture(self, number: int) -> None:
        """One instant of memory and disk."""
        ram = self.folder / f"ram{number}.bin"
        dense = self.folder / "ram.dense"
        with Qmp(self.socket, timeout_s=120) as qmp:
            qmp.command("stop")
            # A stop flushes the drives, so that the file is what the guest has written.
            qmp.command("pmemsave", val=0, size=RAM_MIB << 20, filename=str(dense))
            copy_sparse(self.disk, self.folder / f"disk{number}.raw")
            qmp.command("cont")
        copy_sparse(dense, ram)
        dense.unlink()

    def failed(self) -> None:
        """Raises when the work has broken off meanwhile."""
        text = self.serial.read_text(errors="replace")
        if "CORPUS FAILED" in text or self.process.poll() is not None:
            raise CorpusError(f"{self.workload.name}: the work broke off\n{text[-1500:]}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def copy_sparse(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


def capture_workload(workload: Workload, image: CorpusImage, out: Path) -> None:
    work = out.with_suffix(f".work.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    began = time.monotonic()
    try:
        guest = Run(workload, image, work)
        try:
            wait_for_socket(guest.socket, timeout_s=30)
            guest.wait_ready()
            for number, seconds in enumerate((workload.warm_s, *workload.later_s)):
                time.sleep(seconds)
                guest.failed()
                guest.capture(number)
        finally:
            guest.close()
        guest.disk.unlink()
        work.rename(out)
        say(f"{workload.name}: captured in {time.monotonic() - began:.0f} s")
    except QmpError as error:
        raise CorpusError(f"{workload.name}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def corpus_folder(image: CorpusImage, workloads: list[Workload]) -> Path:
    key = key_of(image.disk.name, image.initrd.name, str(RAM_MIB), repr(workloads))
    return cache_folder() / f"captures-{key}"


def build(quick: bool, fresh: bool = False, only: str | None = None) -> tuple[Path, list[str]]:
    """The folder with the captures, and the workloads in it, built as far as missing."""
    image = corpus_image()
    workloads = QUICK if quick else FULL
    folder = corpus_folder(image, workloads)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for workload in workloads:
        if only and workload.name != only:
            continue
        if not (folder / workload.name).exists():
            capture_workload(workload, image, folder / workload.name)
        names.append(workload.name)
    return folder, names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two workloads, shorter")
    parser.add_argument("--fresh", action="store_true", help="capture anew")
    parser.add_argument("--only", metavar="WORKLOAD")
    arguments = parser.parse_args()
    # Unwinds, so that its guests end with it.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        folder, _ = build(arguments.quick, arguments.fresh, arguments.only)
    except CorpusError as error:
        say(str(error))
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
