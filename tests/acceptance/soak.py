"""Soak runs: uploads that are killed at any moment and go on, and a million random operations on one file."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

from rig import MIB, ROOT, Rig, check, random_file, scenario, sha256, shell, until

VICTIMS = ["client", "front", "mount", "store"]
# What the account may send: the kill shall find the transfer under way.
RATE = 16 * MIB
# Upload requests that a mount process may have on their way.
FLYING = 4 * (os.cpu_count() or 1)


def number(name, default):
    return int(os.environ.get(name, default))


class Watch:
    """Looks for half objects all the time, and keeps count of what the store was sent through all its lives."""

    def __init__(self, rig):
        self.rig, self.half, self.looks, self.before = rig, [], 0, 0
        self.wanted, self.is_on = {}, True
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while self.is_on:
            # The store may be the one that was killed.
            with contextlib.suppress(OSError):
                for name, found in self.rig.objects().items():
                    if name in self.wanted and found["size"] != self.wanted[name]:
                        self.half.append((name, found["size"]))
                self.looks += 1
            time.sleep(0.03)

    def sent(self):
        requests = self.rig.admin("GET", "/requests")
        return self.before + sum(requests.get(name, {}).get("bytes_in", 0) for name in ("UploadPart", "PutObject"))

    def end(self):
        self.is_on = False
        self.thread.join()


def put(rig, file, name):
    line = f"set ftp:use-allo yes; set net:max-retries 1; set net:timeout 10; set net:reconnect-interval-base 1; put -c {file} -o {name}; bye"
    return subprocess.Popen(["lftp", "-u", "user0,pass0", "-e", line, f"ftp://127.0.0.1:{rig.ftp_port}"],
                            stdin=subprocess.DEVNULL, stdout=rig.log, stderr=rig.log)


def kill(rig, watch, victim, client):
    """Where a transfer is lost lftp sometimes begins anew by itself, without asking for the size: so it is killed as well."""
    if victim == "client":
        client.kill()
    elif victim == "mount":
        os.kill(rig.mount, signal.SIGKILL)
        client.kill()
    elif victim == "store":
        # It forgets its counters with its life.
        watch.before = watch.sent()
        rig.store.kill()
        rig.store.wait()
        rig.start_store()
    else:
        rig.serve.kill()
        client.kill()
        rig.serve.wait()
        rig.serve.stdout.close()
        # The mount process follows its parent.
        until(lambda: rig.start() or True, 60, "the front starts again")


def finished(rig, file, name):
    """Until lftp says that it is stored; how often it was asked."""
    for attempt in range(60):
        if put(rig, file, name).wait(300) == 0 and name in rig.objects():
            return attempt + 1
        time.sleep(1)
    raise AssertionError(f"{name}: not stored after 60 attempts")


class Tally:
    """What came of the runs with one victim."""

    def __init__(self):
        self.runs = self.in_flight = self.attempts = self.sent = self.size = 0
        self.most_again = 0

    def __str__(self):
        more = f"{self.sent / self.size:.3f} of their bytes sent, {self.most_again / MIB:.1f} MiB twice at most" if self.size else ""
        return f"{self.runs} whole ({self.in_flight} killed in the transfer), {self.attempts} resumptions, {more}"


def one_kill(rig, watch, chance, run, victim, part):
    """One upload with one kill; what it took."""
    size, name = int(chance.choice([chance.uniform(0, 40), chance.uniform(0, 2 * part / MIB)]) * MIB), f"f{run}"
    source = random_file(rig.dir / "source", size)
    wanted, before = sha256(source), watch.sent()
    watch.wanted[name] = size
    client = put(rig, source, name)
    time.sleep(chance.uniform(0.02, 1.0) * (0.15 + size / RATE))
    is_in_flight = client.poll() is None
    kill(rig, watch, victim, client)
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(120)
    if client.poll() is None:
        client.kill()
        client.wait()
    attempts = finished(rig, source, name)
    sent = watch.sent() - before
    again = part if victim in ("client", "front") else (FLYING + 1) * part
    check(sent <= 1.1 * size + again, f"{name} ({victim} killed): {sent} bytes sent for {size}, parts of {part}")
    back = rig.dir / "back"
    with open(back, "wb") as file, contextlib.closing(rig.ftp()) as ftp:
        ftp.retrbinary(f"RETR {name}", file.write)
    check(sha256(back) == wanted, f"{name} ({victim} killed): other bytes came back")
    check(not watch.half, f"half objects were visible: {watch.half}")
    return is_in_flight, attempts, sent, size


def rests(rig):
    """No upload is open, no note is left, and nothing else of the program's own."""
    keys = [o["key"] for o in rig.admin("GET", f"/objects?bucket={rig.bucket()}")]
    return not rig.uploads() and not [key for key in keys if key.startswith(".cosgate/")]


@scenario
def kills():
    """KILLS (20) uploads of up to 40 MiB, each with a SIGKILL of client, front, mount process or store at a random moment, resumed with lftp; KILLS_SEED."""
    runs, seed = number("KILLS", 20), number("KILLS_SEED", random.randrange(1 << 32))
    chance, begun = random.Random(seed), time.monotonic()
    print(f"  KILLS_SEED={seed}, {runs} runs", flush=True)
    tallies = {victim: Tally() for victim in VICTIMS}
    parts = [MIB, 4 * MIB, 8 * MIB]
    for share, part in enumerate(parts):
        account = {"resume_window": "24h", "max_upload_rate": f"{RATE}"}
        with Rig(accounts=[account], data=True, extra=f"min_part_size = {part}") as rig:
            watch = Watch(rig)
            for run in range(runs * share // len(parts), runs * (share + 1) // len(parts)):
                victim = VICTIMS[run % len(VICTIMS)]
                is_in_flight, attempts, sent, size = one_kill(rig, watch, chance, run, victim, part)
                tally = tallies[victim]
                tally.runs += 1
                tally.in_flight += is_in_flight
                tally.attempts += attempts
                tally.sent += sent
                tally.size += size
                tally.most_again = max(tally.most_again, sent - size)
            until(lambda: rests(rig), 150, "no upload and no note stays")
            watch.end()
            check(not watch.half, f"half objects were visible: {watch.half}")
            print(f"  parts of {part // MIB} MiB: looked for half objects {watch.looks} times", flush=True)
    for victim, tally in tallies.items():
        print(f"  {victim} killed: {tally}")
    print(f"  {time.monotonic() - begun:.0f} s")


FSX_VERSION = "0.3.2"
# Everything that fsx can do to a file. `large` does not fit into the memory that an edit may take.
FSX = {
    "small": """
flen = 1048576
[opsize]
max = 131072
[weights]
read = 5
write = 5
mapread = 3
mapwrite = 3
truncate = 1
fsync = 0.3
fdatasync = 0.2
close_open = 0.3
invalidate = 0.5
punch_hole = 0.5
posix_fallocate = 0.5
copy_file_range = 0.5
sendfile = 0.5
""",
    "large": """
flen = 16777216
[opsize]
max = 600000
[weights]
read = 5
write = 5
mapread = 2
mapwrite = 2
truncate = 0.5
fsync = 0.1
close_open = 0.1
punch_hole = 0.3
posix_fallocate = 0.3
copy_file_range = 0.5
sendfile = 0.5
""",
}


def fsx_program():
    """The fsx of crates.io; where there is none, it is installed below target/."""
    found = shutil.which("fsx") or ROOT / "target/tools/bin/fsx"
    if not os.path.exists(found):
        shell("cargo", "install", "--locked", "--quiet", "--version", FSX_VERSION, "--root", ROOT / "target/tools", "fsx", cwd=ROOT)
    return found


@scenario
def fsx():
    """FSX_OPS (1,000,000) random reads, writes, mappings, truncations, holes and copies on one file, every tenth on a large one; FSX_SEED."""
    operations, seed = number("FSX_OPS", 1_000_000), number("FSX_SEED", random.randrange(1 << 32))
    program, pieces = fsx_program(), max(1, operations // 100_000)
    print(f"  FSX_SEED={seed}, {operations} operations", flush=True)
    for kind, share in (("small", 0.9), ("large", 0.1)):
        memory = "memory_limit = 12M" if kind == "large" else ""
        with Rig(extra=memory) as rig:
            config = rig.dir / "fsx.toml"
            config.write_text(FSX[kind])
            for piece in range(pieces):
                count, begun = int(operations * share / pieces), time.monotonic()
                words = [program, "-N", count, "-S", seed + piece, "-f", config, "-P", rig.dir, rig.home() / f"file{piece}"]
                done = shell(*words, check_exit=False)
                check(done.returncode == 0, f"{kind}, -S {seed + piece}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
                took = time.monotonic() - begun
                print(f"  {kind}: {count} operations, -S {seed + piece}: {count / took:.0f} a second", flush=True)
            until(lambda: rests(rig), 60, "nothing of the program's own stays")
