"""Directories of very many names: through the mount and by FTP, and the memory that takes."""

import os
import subprocess
import threading
import time

from rig import MIB, Rig, check, cpu, scenario, status

MEMORY_LIMIT = 256 * MIB
# Beyond the limit, of front and mount together.
BEYOND = 100 * MIB
NAMES = 1_000_000


class Watch:
    """The largest sum of what front and mount hold resident, looked at ten times a second."""

    def __init__(self, rig):
        self.rig, self.peak, self.over = rig, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        pids = self.rig.front, self.rig.mount
        while not self.over.wait(0.1):
            self.peak = max(self.peak, sum(status(pid, "VmRSS") for pid in pids) * 1024)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def requests(rig):
    counted = {name: figures["count"] for name, figures in rig.admin("GET", "/requests").items()}
    rig.admin("DELETE", "/requests")
    return {name: count for name, count in counted.items() if count}


def by_shell(*words):
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        count = sum(piece.count(b"\n") for piece in iter(lambda: process.stdout.read(MIB), b""))
    check(process.returncode == 0, f"{words[0]} ended {process.returncode}")
    return count


def by_ftp(rig, verb):
    count = 0

    def line(_):
        nonlocal count
        count += 1
    with rig.ftp(timeout=600) as client:
        client.retrlines(f"{verb} /many", line)
    return count


@scenario
def million():
    """1,000,000 names: find, ls -l, NLST, LIST and MLSD, in bounded memory; max_list_file cuts and tells."""
    names = int(os.environ.get("NAMES", NAMES))
    extra = f"memory_limit = {MEMORY_LIMIT // MIB}M"
    with Rig(accounts=[{}], extra=extra) as rig:
        rig.admin("POST", "/fill", {"bucket": rig.bucket(), "prefix": "many/", "count": names})
        where = rig.home() / "many"
        works = {
            "find": lambda: by_shell("find", where, "-type", "f"),
            "ls -lU": lambda: by_shell("ls", "-lU", where) - 1,
            "NLST": lambda: by_ftp(rig, "NLST"),
            "LIST": lambda: by_ftp(rig, "LIST"),
            "MLSD": lambda: by_ftp(rig, "MLSD"),
        }
        highest = 0
        for name, work in works.items():
            requests(rig)
            used, begun = cpu(rig.mount) + cpu(rig.front), time.monotonic()
            with Watch(rig) as watch:
                told = work()
            seconds, used = time.monotonic() - begun, cpu(rig.mount) + cpu(rig.front) - used
            asked = requests(rig)
            highest = max(highest, watch.peak)
            print(f"  {name:7} {seconds:6.1f} s, CPU of front and mount {used:5.1f} s, peak {watch.peak / MIB:4.0f} MiB, {asked}", flush=True)
            check(told == names, f"{name}: {told} names")
            # A page for each thousand; what grows old on the way is listed once more at most.
            pages = names // 1000
            check(asked.get("ListObjects", 0) <= 2 * pages + 20, f"{name}: {asked}")
            check(asked.get("HeadObject", 0) <= pages, f"{name}: {asked}")
        check(highest <= MEMORY_LIMIT + BEYOND, f"{highest / MIB:.0f} MiB")
    with Rig(accounts=[{}], extra="max_list_file = 1500") as rig:
        rig.admin("POST", "/fill", {"bucket": rig.bucket(), "prefix": "many/", "count": 2000})
        check(by_ftp(rig, "LIST") == 1500, "max_list_file cuts a LIST")
        check(by_ftp(rig, "MLSD") == 2000, "and never an MLSD")
        logs = "".join(path.read_text(errors="replace") for path in (rig.dir / "log").iterdir())
        logs += (rig.dir / "output.log").read_text(errors="replace")
        check("max_list_file allows no more" in logs, "the log tells of the cut")
