"""What is measured: each work is one function, which does it once by one contender and tells a figure.

Everything that takes part is fast enough not to be the limit: FTP and HTTP are spoken by client.py, the mount is used by
cp, cat and ls. What arrived is compared after the clock has stopped.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import time
from urllib.parse import urlsplit

from contenders import Bare, NullFuse, VsftpdTmpfs
from rig import MIB, check, cpu, shell

CLIENT = pathlib.Path(__file__).with_name("client.py")
PART_BYTES = 8 * MIB
BARE_CONNECTIONS = 4
SMALL_BYTES = 100_000
READ_BYTES = 64 << 10
# How long a peer may take, after its 226, until the object is there.
LATE_SECONDS_MAX = 120


@dataclasses.dataclass
class Scale:
    """How much of each work is done."""

    big: int = 1024 * MIB
    wire_big: int = 512 * MIB
    parallel: int = 256 * MIB
    small: int = 1000
    wire_small: int = 200
    names: int = 10_000
    reads: int = 1000
    wire_reads: int = 200
    seconds_max: int = 600

    @classmethod
    def quick(cls):
        return cls(64 * MIB, 64 * MIB, 16 * MIB, 100, 20, 1000, 100, 20, 120)


class NotHere(Exception):
    """The contender cannot do this work."""


@dataclasses.dataclass
class Turn:
    """One measurement: who, in which round, on which wire."""

    bench: object
    contender: object
    work: object
    round: int

    @property
    def store(self):
        return self.bench.store

    @property
    def scale(self):
        return self.bench.scale

    @property
    def on_wire(self):
        return self.bench.wire != (0, 0)

    @property
    def big(self):
        return self.scale.wire_big if self.on_wire else self.scale.big

    @property
    def label(self):
        return f"{self.work.name}-{'wire-' if self.on_wire else ''}{self.round}"

    def out(self, name):
        """Where the contender is to put something; a directory of its own, there from the start."""
        return f"{self.contender.slug}/out/{self.label}-{name}"

    def given(self, name):
        """Where something lies that only this turn reads."""
        return f"{self.contender.slug}/in/{self.label}-{name}"

    def given_bytes(self):
        return self.scale.parallel if self.work.name.startswith("retr-") else self.big

    def listed(self):
        """A directory of many names; FTP and mount each have one for each round."""
        kind = "list" if self.work.name == "list" else "ls"
        return f"many/{kind}-{'wire-' if self.on_wire else ''}{self.round}"

    def ftp(self, path):
        url = self.contender.ftp(path)
        if url is None:
            raise NotHere
        return url

    def path(self, path):
        found = self.contender.path(path)
        if found is None:
            raise NotHere
        return found

    @contextlib.contextmanager
    def clock(self, figures):
        """What passes inside, in seconds, CPU seconds, MiB and requests."""
        contender, store = self.contender, self.store
        contender.forget_peak()
        store.admin("DELETE", "/requests")
        with store.paced(self.bench.wire):
            before = contender.cpu(), cpu(store.pid), _client_cpu()
            begun = time.monotonic()
            yield
            figures["seconds"] = time.monotonic() - begun
            figures["client_cpu"] = _client_cpu() - before[2]
            # vsftpd counts a session's time when it has seen the session end.
            time.sleep(0.15)
            figures["cpu"] = contender.cpu() - before[0]
            figures["store_cpu"] = cpu(store.pid) - before[1]
            figures["peak_mib"] = contender.peak_mib()
            counts = store.admin("GET", "/requests")
            figures["requests"] = {name: entry["count"] for name, entry in counts.items() if entry["count"]}
            figures["fetched"] = counts["GetObject"]["bytes_out"]
            self._wait_for_late_objects(figures)

    def expect(self, *expected):
        """These objects (key, bytes, CRC-64 or None) are to be there when the clock stops."""
        self.expected = expected

    expected = ()

    def _wait_for_late_objects(self, figures):
        if not self.contender.has_store or not self.expected:
            return
        def missing():
            if len(self.expected) > 32:
                listed = self.store.list(os.path.dirname(self.expected[0][0]) + "/")
                return [key for key, size, _ in self.expected if listed.get(key) != size]
            return [key for key, size, _ in self.expected if (self.store.seen(key) or (None,))[0] != size]
        if not missing():
            return
        late = self.store.wait_for(lambda: not missing(), LATE_SECONDS_MAX)
        check(late is not None, f"{len(missing())} objects never came")
        figures["late"] = late

    def verify(self):
        """The objects that were to come are the bytes that were sent."""
        for key, size, crc64 in random.Random(1).sample(self.expected, min(len(self.expected), 32)):
            if self.contender.has_store:
                check(self.store.seen(key) == (size, crc64), f"{key}: {self.store.seen(key)}, wanted {size, crc64}")
            else:
                check(self.contender.local(key).stat().st_size == size, f"{key} has another size")

    def forget(self):
        """What was put is taken away again."""
        if isinstance(self.contender, VsftpdTmpfs):
            for key, _, _ in self.expected:
                self.contender.local(key).unlink(missing_ok=True)
        elif self.expected:
            self.store.remove(self.out(""))


def _client_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Clients:
    """Processes of client.py, one connection each, that wait for the word to go."""

    def __init__(self, jobs, seconds_max):
        self.seconds_max, self.processes = seconds_max, []
        try:
            for job in jobs:
                process = subprocess.Popen([sys.executable, "-S", str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)
                self.processes.append(process)
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            for process in self.processes:
                check(process.stdout.readline() == "ready\n", "a client did not start")
        except BaseException:
            self._end()
            raise

    def go(self):
        """Lets them all go; tells what each of them tells."""
        deadline = time.monotonic() + self.seconds_max
        told = []
        try:
            for process in self.processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in self.processes:
                try:
                    out, err = process.communicate(timeout=max(1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"not within {self.seconds_max} s") from None
                check(process.returncode == 0, f"client: {err.strip().splitlines()[-1:]}")
                told.append(json.loads(out))
        finally:
            self._end()
        return told

    def _end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _measured(turn, figures, jobs, after=None):
    """Runs the jobs under the clock, and `after` them what belongs to the work but to none of the clients."""
    clients = Clients(jobs, turn.scale.seconds_max)
    with turn.clock(figures):
        told = clients.go()
        if after:
            after(told)
    figures["client_cpu"] = sum(entry["cpu"] for entry in told)
    return told


def _ftp(turn, deeds):
    """A job for the contender's FTP server; in each deed, the path in the bucket is made one of the session."""
    root = urlsplit(turn.ftp("x"))
    base = root.path.lstrip("/")[:-1]
    return {
        "protocol": "ftp", "address": [root.hostname, root.port], "user": root.username or "anonymous",
        "password": root.password or "x", "deeds": [[name, base + path, *words] for name, path, *words in deeds],
    }


def _http(turn, deeds):
    return {"protocol": "http", "address": ["127.0.0.1", turn.store.port], "deeds": deeds}


def _target(turn, method, key, **parameters):
    """A presigned URL without its host."""
    return turn.store.url(method, key, **parameters).split(str(turn.store.port), 1)[1]


def _shares(count):
    return [range(at, count, BARE_CONNECTIONS) for at in range(min(BARE_CONNECTIONS, count))]


# ---- one large file


def stor(turn):
    figures, key = {}, turn.out("big")
    source = str(turn.bench.source(turn.big))
    turn.expect((key, turn.big, turn.bench.crc64(turn.big)))
    if isinstance(turn.contender, Bare):
        _bare_put(turn, figures, key, source)
    else:
        _measured(turn, figures, [_ftp(turn, [["stor", key, source, 0, turn.big]])])
    turn.verify()
    return _per_second(figures, turn.big)


def _bare_put(turn, figures, key, source):
    upload = turn.store.initiate(key)
    shares = _shares(turn.big // PART_BYTES)
    jobs = [_http(turn, [["put", _target(turn, "PUT", key, partNumber=at + 1, uploadId=upload), source, at * PART_BYTES, PART_BYTES]
                         for at in share]) for share in shares]

    def complete(told):
        etags = {at + 1: etag for share, entry in zip(shares, told) for at, etag in zip(share, entry["told"])}
        turn.store.complete(key, upload, etags)
    _measured(turn, figures, jobs, complete)


def retr(turn):
    figures, key = {}, turn.given("big")
    if isinstance(turn.contender, Bare):
        target = _target(turn, "GET", key)
        jobs = [_http(turn, [["get", target, at * PART_BYTES, (at + 1) * PART_BYTES - 1] for at in share])
                for share in _shares(turn.big // PART_BYTES)]
    else:
        target, jobs = None, [_ftp(turn, [["retr", key]])]
    told = _measured(turn, figures, jobs)
    taken = sum(sum(entry["told"]) for entry in told)
    check(taken == turn.big, f"{taken} of {turn.big} bytes")
    if turn.round == 0:
        back = turn.bench.memory / "back"
        job = _http(turn, [["get", target, 0, turn.big - 1, str(back)]]) if target else _ftp(turn, [["retr", key, str(back)]])
        Clients([job], turn.scale.seconds_max).go()
        check(turn.bench.digest(back) == turn.bench.digest_of(turn.big), "what came back is something else")
        back.unlink()
    return _per_second(figures, turn.big)


def first_byte(turn):
    """From the RETR to the first byte of the data, the directory having been listed, as by a client that knows the name."""
    figures, key = {}, turn.given("big")
    told, = _measured(turn, figures, [_ftp(turn, [["list", os.path.dirname(key)], ["first_byte", key]])])
    return figures | {"value": told["told"][1]}


def _per_second(figures, size):
    return figures | {"value": size / figures["seconds"] / 1e6, "bytes": size}


# ---- several at once


def _parallel(count, up):
    def work(turn):
        figures, size = {}, turn.scale.parallel
        source = str(turn.bench.source(size))
        if up:
            keys = [turn.out(f"p{n}") for n in range(count)]
            turn.expect(*((key, size, turn.bench.crc64(size)) for key in keys))
            jobs = [_ftp(turn, [["stor", key, source, 0, size]]) for key in keys]
        else:
            jobs = [_ftp(turn, [["retr", turn.given(f"p{n}")]]) for n in range(count)]
        told = _measured(turn, figures, jobs)
        check(all(entry["told"] == [size] for entry in told), "not all bytes came")
        turn.verify()
        rates = [size / entry["seconds"] for entry in told]
        return _per_second(figures, size * count) | {"fairness": min(rates) / (sum(rates) / count)}
    return work


# ---- small files


def _small(sessions):
    def work(turn):
        figures = {}
        count = (turn.scale.wire_small if turn.on_wire else turn.scale.small) // (1 if sessions == 1 else 4)
        source, crc64 = str(turn.bench.small()), turn.bench.crc64(SMALL_BYTES)
        keys = [[turn.out(f"s{session}-{n}") for n in range(count)] for session in range(sessions)]
        turn.expect(*((key, SMALL_BYTES, crc64) for session in keys for key in session))
        if isinstance(turn.contender, Bare):
            jobs = [_http(turn, [["put", _target(turn, "PUT", key), source, 0, SMALL_BYTES] for key in session]) for session in keys]
        else:
            jobs = [_ftp(turn, [["stor", key, source, 0, SMALL_BYTES] for key in session]) for session in keys]
        _measured(turn, figures, jobs)
        turn.verify()
        return figures | {"value": count * sessions / figures["seconds"], "files": count * sessions}
    return work


# ---- names


def list_names(turn):
    figures, count, where = {}, turn.scale.names, turn.listed()
    if isinstance(turn.contender, Bare):
        markers = [""] + [f"{where}/{turn.bench.name(at - 1)}" for at in range(1000, count, 1000)]
        deeds = [["get", _target(turn, "GET", "", prefix=f"{where}/", delimiter="/", marker=marker)] for marker in markers]
        _measured(turn, figures, [_http(turn, deeds)])
    else:
        told, = _measured(turn, figures, [_ftp(turn, [["list", where]])])
        check(told["told"] == [count], f"{told['told']} of {count} names")
    return figures | {"value": figures["seconds"]}


def _ls(turn, figures, where):
    with turn.clock(figures):
        text = shell("ls", "-l", where, timeout=turn.scale.seconds_max).stdout
    # The first line is a total.
    check(len(text.splitlines()) == turn.scale.names + 1, f"{len(text.splitlines()) - 1} of {turn.scale.names} names")
    return figures | {"value": figures["seconds"]}


def ls_cold(turn):
    if isinstance(turn.contender, NullFuse):
        raise NotHere
    return _ls(turn, {}, turn.path(turn.listed()))


def ls_warm(turn):
    """A directory that was listed a moment ago."""
    if isinstance(turn.contender, NullFuse):
        raise NotHere
    where = turn.path(turn.listed())
    shell("ls", "-l", where, timeout=turn.scale.seconds_max)
    return _ls(turn, {}, where)


# ---- the mount


def mount_write(turn):
    figures, key = {}, turn.out("cp")
    target = turn.path(key)
    turn.expect((key, turn.big, turn.bench.crc64(turn.big)))
    with turn.clock(figures):
        shell("cp", turn.bench.source(turn.big), target, timeout=turn.scale.seconds_max)
    if turn.contender.has_store:
        turn.verify()
    return _per_second(figures, turn.big)


def mount_read(turn):
    figures, key = {}, turn.given("cat")
    source = turn.path(key)
    with turn.clock(figures):
        with open("/dev/null", "wb") as nowhere:
            # Not stdin: cat would copy by splice, which programs do not.
            subprocess.run(["cat", str(source)], stdout=nowhere, check=True, timeout=turn.scale.seconds_max)
    size = turn.big if turn.contender.has_store else NullFuse.FILE_BYTES
    if turn.round == 0 and turn.contender.has_store:
        check(turn.bench.digest(source) == turn.bench.digest_of(turn.big), "what was read is something else")
    return _per_second(figures, size)


def random_reads(turn):
    figures, key = {}, turn.given("random")
    count = turn.scale.wire_reads if turn.on_wire else turn.scale.reads
    seeded = random.Random(turn.round)
    offsets = [seeded.randrange(0, (turn.big - READ_BYTES) // 4096) * 4096 for _ in range(count)]
    if isinstance(turn.contender, NullFuse):
        raise NotHere
    if isinstance(turn.contender, Bare):
        target = _target(turn, "GET", key)
        _measured(turn, figures, [_http(turn, [["get", target, at, at + READ_BYTES - 1] for at in offsets])])
    else:
        # Touched before: page faults are the client's own, and the bare one has none either.
        pieces = memoryview(bytearray(b"-") * (count * READ_BYTES))
        with open(turn.path(key), "rb", buffering=0) as file:
            with turn.clock(figures):
                for number, at in enumerate(offsets):
                    os.preadv(file.fileno(), [pieces[number * READ_BYTES:(number + 1) * READ_BYTES]], at)
        check(hashlib.sha256(pieces).digest() == turn.bench.digest_of_reads(offsets), "what was read is something else")
    figures["ratio"] = figures["fetched"] / (count * READ_BYTES)
    return figures | {"value": count / figures["seconds"]}


@dataclasses.dataclass
class Work:
    name: str
    title: str
    unit: str
    do: object
    # Whether more is better.
    is_rate: bool = True
    # Digits behind the point.
    digits: int = 0
    # Large files that lie there before, of the size of `big` or of `parallel`.
    given: tuple = ()


WORKS = [
    Work("stor", "STOR of one large file", "MB/s", stor),
    Work("retr", "RETR of one large file", "MB/s", retr, given=("big",)),
    Work("first-byte", "first byte of a RETR", "s", first_byte, is_rate=False, digits=3, given=("big",)),
    Work("stor-4", "4 parallel STOR", "MB/s", _parallel(4, True)),
    Work("stor-16", "16 parallel STOR", "MB/s", _parallel(16, True)),
    Work("retr-4", "4 parallel RETR", "MB/s", _parallel(4, False), given=tuple(f"p{n}" for n in range(4))),
    Work("retr-16", "16 parallel RETR", "MB/s", _parallel(16, False), given=tuple(f"p{n}" for n in range(16))),
    Work("small", "100 KB STOR, one session", "files/s", _small(1)),
    Work("small-16", "100 KB STOR, 16 sessions", "files/s", _small(16)),
    Work("list", "LIST, cold", "s", list_names, is_rate=False, digits=3),
    Work("cp", "cp onto the mount", "MB/s", mount_write),
    Work("cat", "cat from the mount", "MB/s", mount_read, given=("cat",)),
    Work("ls-cold", "ls -l on the mount, cold", "s", ls_cold, is_rate=False, digits=3),
    Work("ls-warm", "ls -l on the mount, warm", "s", ls_warm, is_rate=False, digits=3),
    Work("random", "random 64 KiB reads on the mount", "reads/s", random_reads, given=("random",)),
]
