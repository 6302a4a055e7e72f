"""A storm: FTP clients and shell programs at once on the same names, while the store fails now and then."""

import collections
import os
import random
import re
import subprocess
import threading
import time

from rig import Rig, check, mounts_below, scenario, shell, status, until
from soak import number
from storm_ftp import Client, Owner, TlsClient, TlsOwner
from storm_session import PATIENCE, Fates, Store, Touches, records_in
from storm_shell import Database, Editor, Git, Shell
from storm_worker import DIRECTORIES, LOGS, POOL, SHELL_SECONDS, Worker

# Faults that end by themselves: whoever goes on gets his answer.
FAULTS = [
    {"kind": "status", "status": 500, "code": "InternalError"},
    {"kind": "status", "status": 503, "code": "SlowDown"},
    {"kind": "status", "status": 502},
    {"kind": "reset-before"},
    {"kind": "reset-after"},
    {"kind": "lost-answer", "milliseconds": 200},
    {"kind": "error-in-200", "code": "InternalError"},
    {"kind": "cut-body"},
    {"kind": "delay", "milliseconds": 1500},
    {"kind": "stall", "milliseconds": 4000},
]
OPERATIONS = ["*", "*", "PutObject", "UploadPart", "CompleteMultipartUpload", "InitiateMultipartUpload", "CopyObject",
              "UploadPartCopy", "HeadObject", "GetObject", "ListObjects", "DeleteObject"]


class Storm:
    """What all workers share."""

    def __init__(self, rig, seed, seconds):
        self.rig, self.seed, self.end = rig, seed, time.monotonic() + seconds
        self.store, self.fates, self.touches = Store(rig), Fates(), Touches()
        self.wrong, self.replies, self.done = [], collections.Counter(), collections.Counter()
        self.shells = {name: threading.Lock() for name in POOL}
        self.versions, self.lock = collections.defaultdict(set), threading.Lock()
        self.appended = collections.defaultdict(list)
        self.history, self.begun = collections.deque(maxlen=20000), time.monotonic()

    def goes_on(self):
        return time.monotonic() < self.end and len(self.wrong) < 5

    def places_of(self, content):
        """Keys with that content."""
        return [key for key, told in self.rig.objects().items() if told["size"] == len(content) and self.store.get(key) == content]

    def notes(self, who, what):
        line = f"{time.monotonic() - self.begun:7.3f} {who}: {what}"
        self.history.append(line)
        return line

    def around(self, *names):
        """What was done to these names, and to directories, of late."""
        close = [line for line in list(self.history) if any(name in line for name in names) or "-directory s" in line]
        return "\n      ".join(["lately:", *close[-int(os.environ.get("STORM_LINES", 30)):]])

    def fails(self, who, why):
        with self.lock:
            self.wrong.append(f"{who}: {why}")
            print(f"  WRONG {time.strftime('%H:%M:%S')} {who}: {why}", flush=True)

    def counts(self, deed, reply):
        with self.lock:
            self.done[deed.split()[0]] += 1
            text = re.sub(r"\d{4,}|(?<=, )\d+|(?<=213 )\d+", "N", re.sub(r"/\S+", "NAME", str(reply)))
            self.replies[f"{deed.split()[0]} {text[:70]}"] += 1


class Trouble(Worker):
    """Lets the store fail once in a while, briefly."""

    def deeds(self):
        return [(self.fault, 8), (self.lag, 1)]

    def rest(self):
        time.sleep(min(self.chance.uniform(0.3, 2.5), max(0, self.storm.end - time.monotonic())))

    def fault(self):
        self.rest()
        self.storm.rig.admin("POST", "/faults", self.chance.choice(FAULTS) | {
            "operation": self.chance.choice(OPERATIONS), "times": self.chance.choice([1, 1, 2])})

    def lag(self):
        """Lists are behind for a while, as those of COS may be."""
        number = self.storm.rig.admin("POST", "/faults", {"operation": "*", "kind": "list-lag", "times": None,
                                                          "milliseconds": self.chance.randrange(500, 2000)})["id"]
        self.rest()
        self.storm.rig.admin("DELETE", f"/faults/{number}")

    def finish(self):
        self.storm.rig.admin("DELETE", "/faults")


class Looker(Worker):
    """Looks into the bucket, and at the memory, all the time."""

    def begin(self):
        self.peak = collections.Counter()

    def deeds(self):
        return [(self.look, 1)]

    def look(self):
        name = self.chance.choice(POOL)
        self.object(name)
        for who, pid in (("front", self.storm.rig.front), ("mount", self.storm.rig.mount)):
            self.peak[who] = max(self.peak[who], status(pid, "VmRSS") // 1024)
        time.sleep(0.1)


def walked(client, path=""):
    """All below `path`, by MLSD: files with their sizes, directories with None."""
    found = {}
    for name, facts in client.mlsd(f"/{path}", ["type", "size"]):
        inner = f"{path}/{name}".lstrip("/")
        if facts["type"] == "file":
            found[inner] = int(facts["size"])
        elif facts["type"] == "dir":
            found[inner] = None
            found |= walked(client, inner)
    return found


def seen_by_shell(home):
    """The same by `find`, and `ls -lR` sees as many."""
    lines = shell("find", home, "-mindepth", "1", "-printf", "%y %s %P\n", timeout=SHELL_SECONDS).stdout.splitlines()
    found = {}
    for line in lines:
        kind, size, path = line.split(" ", 2)
        found[path] = int(size) if kind == "f" else None
    listed = shell("ls", "-AlR", home, timeout=SHELL_SECONDS).stdout.splitlines()
    check(sum(line[:1] in "-d" and bool(line) for line in listed) == len(found), "ls -lR and find tell the same")
    return found


def in_bucket(rig):
    """The same by the bucket's keys."""
    found = {}
    for key, told in rig.objects().items():
        for at, letter in enumerate(key):
            if letter == "/":
                found[key[:at]] = None
        if not key.endswith("/"):
            found[key] = told["size"]
    return found


def differences(one, other):
    return {k: (one.get(k, "absent"), other.get(k, "absent")) for k in one.keys() | other.keys()
            if one.get(k, "absent") != other.get(k, "absent")}


def not_at_rest(rig):
    """Uploads that are open, and the program's own objects but for marks of STORs that broke over a file. Uploads without a
    part are those whose beginning the store has lost the answer to: nobody knows their ID."""
    keys = [o["key"] for o in rig.admin("GET", f"/objects?bucket={rig.bucket()}")]
    return [u for u in rig.uploads() if u["parts"]] + [k for k in keys if k.startswith(".cosgate/") and not k.startswith(".cosgate/outdated")]


def three_views_agree(storm):
    """`attr_ttl` (5 s) after the last fault nobody is told anything old."""
    try:
        until(lambda: not not_at_rest(storm.rig), 90, "no upload, no note and nothing else of the program's own stays")
    except AssertionError as error:
        raise AssertionError(f"{error}: {not_at_rest(storm.rig)}") from None
    time.sleep(6)
    bucket, mount = in_bucket(storm.rig), seen_by_shell(storm.rig.home())
    client = storm.rig.ftp()
    front = walked(client)
    client.quit()
    # A directory that is there without a marker exists as long as something is in it, and lists tell it so.
    check(not differences(front, mount), f"MLSD and find differ: {differences(front, mount)}")
    check(not differences(bucket, mount), f"the bucket and find differ: {differences(bucket, mount)}")
    return len(bucket)


def contents_are_whole(storm):
    for name in storm.rig.objects():
        if name.startswith("s/") and not name.endswith("/"):
            through = storm.rig.home() / name
            found, mounted = storm.store.get(name), subprocess.run(["cat", through], capture_output=True, check=True).stdout
            check(found == mounted, f"{name}: cat shows {len(mounted)} bytes, the bucket has {len(found)}")
            why = storm.fates.judge(found, f"in the end {name}", time.monotonic())
            check(why is None, why)


def logs_are_complete(storm):
    """What many appended to one name is there, each piece once."""
    for name in LOGS:
        numbers = records_in(storm.store.get(name) or b"")
        lost = set(storm.appended[name]) - set(numbers)
        check(not lost, f"{name}: {len(lost)} of {len(storm.appended[name])} appended pieces are lost: {sorted(lost)[:5]}")
        check(len(numbers) == len(set(numbers)), f"{name}: pieces stand there twice")
        extra = [n for n in numbers if storm.fates.fate[n] != "stored"]
        check(not extra, f"{name}: {len(extra)} pieces whose append failed")


def log_is_clean(rig):
    found = []
    for path in [rig.dir / "output.log", *sorted((rig.dir / "log").glob("*"))]:
        for line in path.read_text(errors="replace").splitlines():
            if re.search(r"panicked|nobody can be told|\bERROR\b", line):
                found.append(f"{path.name}: {line[:300]}")
    check(not found, f"{len(found)} lines in the log: " + "\n    ".join(found[:8]))


def told(storm, looker, memory):
    """What was done, and how it was answered."""
    deeds = collections.Counter({k: n for k, n in storm.done.items() if "." in k})
    print("  deeds: " + ", ".join(f"{k} {n}" for k, n in sorted(deeds.items())))
    if os.environ.get("STORM_REPLIES"):
        for reply, count in sorted(storm.replies.items()):
            print(f"    {count:6} {reply}")
    print(f"  RSS at most: mount {looker.peak['mount']} MiB, front {looker.peak['front']} MiB (memory_limit {memory} MiB)", flush=True)


def workers(storm, chance):
    made = [Looker(storm, "looker"), Trouble(storm, "trouble")]
    made += [Client(storm, f"client{n}") for n in range(chance.randrange(4, 8))]
    made += [TlsClient(storm, f"tls-client{n}") for n in range(2)]
    made += [Owner(storm, f"owner{n}") for n in range(chance.randrange(3, 7))]
    made += [TlsOwner(storm, f"tls-owner{n}") for n in range(2)]
    made += [Shell(storm, f"shell{n}") for n in range(chance.randrange(1, 3))]
    made += [Editor(storm, f"m{n}") for n in range(chance.randrange(1, 4))]
    return made + [Git(storm, "git"), Database(storm, "base")]


@scenario
def storm():
    """FTP clients and shell programs at once on the same names for STORM_SECONDS (60), the store failing now and then; STORM_SEED, STORM_MEMORY (MiB), STORM_REPLIES."""
    seed, seconds = number("STORM_SEED", random.randrange(1 << 32)), number("STORM_SECONDS", 60)
    chance = random.Random(seed)
    latency, memory = chance.choice([0, 5, 20]), number("STORM_MEMORY", chance.choice([64, 128, 256]))
    print(f"  STORM_SEED={seed} STORM_SECONDS={seconds} STORM_MEMORY={memory}, latency {latency} ms", flush=True)
    options = f"memory_limit = {memory}M\nstore_timeout = 10\nconfig_check_enable = false"
    with Rig(accounts=[{}], emulator=["--latency", str(latency)], extra=options, certificate=True) as rig:
        for directory in [*DIRECTORIES, "logs"]:
            (rig.home() / directory).mkdir()
        run = Storm(rig, seed, seconds)
        all_workers = workers(run, chance)
        for worker in all_workers:
            worker.thread.join(max(0, run.end - time.monotonic()) + SHELL_SECONDS + PATIENCE)
            if worker.thread.is_alive():
                worker.fails("hangs")
        rig.admin("DELETE", "/faults")
        told(run, all_workers[0], memory)
        check(not run.wrong, f"{len(run.wrong)} workers met what must not be")
        names = three_views_agree(run)
        contents_are_whole(run)
        logs_are_complete(run)
        took = rig.stop()
        check(took < 30, f"the stop took {took:.1f} s")
        check(not mounts_below(rig.dir), "a mount is left")
        log_is_clean(rig)
        print(f"  {names} names in the end, {len(run.fates.fate)} contents sent to common names; stopped in {took:.1f} s", flush=True)
        for who, limit in (("mount", memory + 100), ("front", memory + 100)):
            check(all_workers[0].peak[who] <= limit, f"the {who} had {all_workers[0].peak[who]} MiB")
