"""A storm: FTP clients and shell programs at once on the same names, while the store fails now and then."""

import collections
import contextlib
import ftplib
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback

from rig import MIB, Rig, check, mounts_below, scenario, shell, status, until
from soak import number
from storm_session import HEAD, LARGEST, PATIENCE, Fates, Session, Store, Strange, Touches, record, records_in

DIRECTORIES = ["s", "s/a", "s/b", "s/b/c"]
POOL = [f"{directory}/{name}" for directory in DIRECTORIES for name in "pqrstuv"]
LOGS = ["logs/one", "logs/two"]
SHELL_SECONDS = 150
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


def size_of(chance, largest=LARGEST):
    """Nothing, a little, about a part, much."""
    kinds = [
        lambda: 0, lambda: chance.randrange(HEAD, 5000), lambda: chance.randrange(HEAD, MIB),
        lambda: chance.randrange(MIB, min(largest, 9 * MIB) + 1), lambda: chance.choice([MIB, min(largest, 4 * MIB), min(largest, 4 * MIB + 1)]),
        lambda: chance.randrange(HEAD, largest)]
    return kinds[min(5, int(chance.expovariate(0.5)))]()


class Worker:
    """Does one random deed after the other until the storm is over."""

    def __init__(self, storm, name):
        self.storm, self.name, self.chance = storm, name, random.Random(f"{storm.seed} {name}")
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)
        self.thread.start()

    def notes(self, *words):
        self.storm.notes(self.name, " ".join(map(str, words)))

    def fails(self, why):
        self.storm.fails(self.name, f"{why}\n      {self.storm.around(f'{self.name}: ')}")

    def wrong_at(self, why, *names):
        """Something is wrong with what is under these names."""
        self.storm.fails(self.name, f"{why}\n      {self.storm.around(*names)}")

    @contextlib.contextmanager
    def on(self, *names):
        self.storm.notes(self.name, f"begins on {' '.join(names)}")
        with self.storm.touches.on(*names) as alone:
            yield alone

    def check(self, condition, why):
        if not condition:
            raise Strange(why() if callable(why) else why)

    def judge(self, data, where, name, asked):
        if data is not None and (why := self.storm.fates.judge(data, f"{where} {name}", asked)):
            self.wrong_at(why, name)

    def object(self, name):
        """What the store has under a name, judged."""
        asked = time.monotonic()
        found = self.storm.store.get(name)
        self.judge(found, "the object", name, asked)
        return found

    def run(self):
        try:
            self.begin()
            deeds, weights = zip(*self.deeds())
            while self.storm.goes_on():
                deed = self.chance.choices(deeds, weights)[0]
                deed()
                self.storm.done[f"{type(self).__name__}.{deed.__name__}"] += 1
            self.finish()
        except Strange as strange:
            self.fails(strange)
        except Exception:
            self.fails(traceback.format_exc())

    def begin(self):
        pass

    def finish(self):
        pass


class Client(Worker):
    """FTP on names that everybody uses."""

    tls = False

    def begin(self):
        self.session = Session(self.storm.rig, self.tls)

    def finish(self):
        self.session.end()

    def deeds(self):
        return [(self.stor, 8), (self.append, 2), (self.restart, 2), (self.unique, 1), (self.broken, 4), (self.retr, 6),
                (self.half_retr, 3), (self.dele, 3), (self.rename, 4), (self.rename_directory, 1), (self.directories, 1),
                (self.listing, 2), (self.facts, 3), (self.log, 2), (self.versioned, 2)]

    def said(self, deed, reply):
        self.notes(deed, "->", reply)
        self.storm.counts(deed, reply)
        if reply.code not in (226, 250, 213, 257, 200, 250, 350, 426, 450, 451, 550, 554) and reply.code != 521:
            self.storm.fails(self.name, f"{deed}: {reply}")
        return reply


    def stor(self, verb="STOR", rest=0, name=None):
        name = name or self.chance.choice(POOL)
        content_id, content = self.storm.fates.new(size_of(self.chance))
        allo = len(content) if self.chance.random() < 0.5 else None
        with self.on(name) as alone:
            _, reply = self.session.store(f"{verb} /{name}", content, rest, allo)
            self.said(f"{verb} {name} id {content_id:x} size {len(content)} rest {rest}", reply)
            self.storm.fates.ends(content_id, reply.code == 226)
            if self.chance.random() < 0.5 or reply.code != 226:
                found = self.object(name)
                if reply.code == 226 and verb == "STOR" and not rest and found != content and alone():
                    what = "no object" if found is None else f"{len(found)} bytes, {found[:HEAD]!r}"
                    what += f"; it stands at {self.storm.places_of(content)}"
                    self.wrong_at(f"226 to STOR {name}, alone, but there is {what}", name)

    def append(self):
        self.stor("APPE")

    def restart(self):
        self.stor("STOR", HEAD)

    def log(self):
        """Many append to one name that nobody removes: all that was acknowledged is there in the end."""
        name = self.chance.choice(LOGS)
        content_id, content = self.storm.fates.new(self.chance.randrange(HEAD, 3000))
        _, reply = self.session.store(f"APPE /{name}", content)
        self.said(f"APPE {name} id {content_id:x}", reply)
        self.storm.fates.ends(content_id, reply.code == 226)
        if reply.code == 226:
            self.storm.appended[name].append(content_id)

    def unique(self):
        directory = self.chance.choice(DIRECTORIES)
        content_id, content = self.storm.fates.new(size_of(self.chance, 2 * MIB))
        moved = self.session.ask(f"CWD /{directory}")
        if moved.code != 250:
            return
        with self.on("unique") as alone:
            first, reply = self.session.store("STOU", content)
            self.said(f"STOU {directory} id {content_id:x}", reply)
            self.storm.fates.ends(content_id, reply.code == 226)
            if reply.code == 226:
                name = first.split("FILE: ", 1)[1].strip().lstrip("/")
                found = self.storm.store.get(name)
                if found != content and alone():
                    self.fails(f"226 to STOU {name}, but there is {found and found[:HEAD]!r}")
                self.session.ask(f"DELE /{name}")
        self.session.expect(self.session.ask("CWD /"), 250)

    def broken(self):
        name, how = self.chance.choice(POOL), self.chance.choice(["abort", "reset", "cut"])
        content_id, content = self.storm.fates.new(self.chance.randrange(20_000, LARGEST))
        piece = content[:self.chance.randrange(1, len(content) - 1)]
        with self.on(name):
            reply = self.session.store_broken(f"STOR /{name}", piece, how)
            self.notes(how, name, f"id {content_id:x} after {len(piece)} of {len(content)}", "->", reply)
            self.storm.counts(f"STOR-{how}", reply)
            self.storm.fates.ends(content_id, False)
            self.object(name)
        if reply is None:
            self.begin()
        elif reply.code == 226:
            self.fails(f"226 to a STOR that ended by {how}")

    def retr(self):
        name = self.chance.choice(POOL)
        asked = time.monotonic()
        data, reply = self.session.fetch(f"RETR /{name}")
        self.said(f"RETR {name}", reply)
        if reply.code == 226:
            self.judge(data, "RETR", name, asked)

    def half_retr(self):
        name, how = self.chance.choice(POOL), self.chance.choice(["abort", "close"])
        data, reply = self.session.fetch(f"RETR /{name}", until=self.chance.randrange(1, 4 * MIB), how=how)
        self.notes("RETR", how, name, "->", reply)
        self.storm.counts(f"RETR-{how}", reply)
        if reply.code == 226 and how == "abort" and data:
            self.storm.counts("RETR-abort-whole", "226")

    def dele(self):
        name = self.chance.choice(POOL)
        with self.on(name) as alone:
            reply = self.said(f"DELE {name}", self.session.ask(f"DELE /{name}"))
            if reply.code == 250 and self.storm.store.get(name) is not None and alone():
                self.wrong_at(f"250 to DELE {name}, alone, but it is there", name)

    def rename(self):
        source, target = self.chance.sample(POOL, 2)
        with self.on(source, target) as alone:
            before = self.storm.store.get(source)
            if self.said(f"RNFR {source}", self.session.ask(f"RNFR /{source}")).code != 350:
                return
            reply = self.said(f"RNTO {target}", self.session.ask(f"RNTO /{target}"))
            if reply.code == 250:
                source_now, target_now = self.storm.store.get(source), self.storm.store.get(target)
                if alone() and (source_now is not None or target_now != before):
                    self.wrong_at(f"{source} renamed to {target}, alone: source {source_now and source_now[:HEAD]}, "
                                  f"target {target_now and target_now[:HEAD]}, was {before and before[:HEAD]}", source, target)

    def rename_directory(self):
        source = self.chance.choice(["s/a", "s/b", "s/b/c"])
        with self.on("*"):
            for old, new in ((source, "s/moved"), ("s/moved", source)):
                if self.said(f"RNFR-directory {old}", self.session.ask(f"RNFR /{old}")).code != 350:
                    continue
                self.said(f"RNTO-directory {new}", self.session.ask(f"RNTO /{new}"))
            self.session.ask(f"MKD /{source}")

    def directories(self):
        name = f"s/d{self.chance.randrange(3)}"
        with self.on(name):
            self.said("MKD", self.session.ask(f"MKD /{name}"))
            self.said("RMD", self.session.ask(f"RMD /{name}"))

    def listing(self):
        directory = self.chance.choice(DIRECTORIES)
        if self.chance.random() < 0.5:
            _, reply = self.session.fetch(f"LIST /{directory}")
        else:
            _, reply = self.session.names(f"/{directory}")
        self.said(f"LIST {directory}", reply)

    def facts(self):
        verb = self.chance.choice(["SIZE", "MDTM", "HASH", "MLST"])
        self.said(verb, self.session.ask(f"{verb} /{self.chance.choice(POOL)}"))

    def versioned(self):
        """A file of a shell program of its own: a download is one of the contents it has had."""
        name = f"m{self.chance.randrange(3)}/{self.chance.choice('abcd')}"
        data, reply = self.session.fetch(f"RETR /{name}")
        self.said(f"RETR {name}", reply)
        if reply.code == 226 and hashlib.sha1(data).digest() not in self.storm.versions[name]:
            self.wrong_at(f"RETR {name}: {len(data)} bytes that it has never had: {data[:80]!r}", name, name.split("/")[0])


class Owner(Worker):
    """FTP in a directory of its own, with a model: nothing may fail."""

    tls = False

    def begin(self):
        self.session, self.files, self.directories, self.outdated = Session(self.storm.rig, self.tls), {}, set(), set()
        self.expects("MKD", f"/{self.name}", 257)

    def finish(self):
        self.session.end()
        for name, content in self.files.items():
            found = self.storm.store.get(name)
            self.check(found == content, lambda: f"in the end {name} is {self.shown(found)}, not {self.shown(content)}")

    @staticmethod
    def shown(content):
        return "absent" if content is None else f"{len(content)} bytes {content[:HEAD]!r}"

    def deeds(self):
        return [(self.stor, 6), (self.append, 2), (self.restart, 2), (self.unique, 1), (self.broken, 5), (self.retr, 5),
                (self.half_retr, 3), (self.dele, 3), (self.rename, 3), (self.directory, 2), (self.rename_directory, 1),
                (self.listing, 2), (self.facts, 4)]

    def expects(self, verb, path, *codes):
        reply = self.session.ask(f"{verb} {path}")
        self.notes(verb, path, "->", reply)
        self.storm.counts(f"own-{verb}", reply)
        self.check(reply.code in codes, f"{verb} {path}: expected {codes}, got {reply}")
        return reply

    def some(self):
        """A name, there or not."""
        directory = self.chance.choice(sorted(self.directories) + [self.name] * 3)
        return f"{directory}/{self.chance.choice('abcdef')}"

    def one(self):
        return self.chance.choice(sorted(self.files)) if self.files else None

    def stands(self, name):
        found = self.storm.store.get(name)
        self.check(found == self.files.get(name),
                   lambda: f"the object {name} is {self.shown(found)}, not {self.shown(self.files.get(name))}; "
                           f"that stands at {self.storm.places_of(self.files.get(name) or b'')}")

    def sends(self, verb, name, content, becomes, rest=0):
        allo = len(content) if self.chance.random() < 0.5 else None
        _, reply = self.session.store(f"{verb} /{name}", content, rest, allo)
        self.notes(verb, name, f"rest {rest} size {len(content)} allo {allo}", "->", reply)
        self.storm.counts(f"own-{verb}", reply)
        if (rest or verb == "APPE") and name in self.outdated and reply.code == 554:
            return self.stands(name)
        self.check(reply.code == 226, f"{verb} {name}: {reply}")
        self.files[name] = becomes
        if not rest and verb != "APPE":
            self.outdated.discard(name)
        self.stands(name)

    def content(self, largest=LARGEST):
        return record(self.chance.randrange(1 << 40, 1 << 41), size_of(self.chance, largest))

    def stor(self):
        content = self.content()
        self.sends("STOR", self.some(), content, content)

    def append(self):
        name, content = self.some(), self.content(2 * MIB)
        self.sends("APPE", name, content, (self.files.get(name) or b"") + content)

    def restart(self):
        if name := self.one():
            old, content = self.files[name], self.content(2 * MIB)
            at = self.chance.randrange(len(old) + 1)
            self.sends("STOR", name, content, old[:at] + content, at)

    def unique(self):
        self.expects("CWD", f"/{self.name}", 250)
        content = self.content(MIB)
        first, reply = self.session.store("STOU", content)
        self.check(reply.code == 226, f"STOU: {reply}")
        name = first.split("FILE: ", 1)[1].strip().lstrip("/")
        self.check(name not in self.files, f"STOU took {name}, which is there")
        self.files[name] = content
        self.stands(name)
        self.expects("DELE", f"/{name}", 250)
        del self.files[name]
        self.stands(name)

    def broken(self):
        name, how = self.some(), self.chance.choice(["abort", "reset", "cut"])
        content = record(self.chance.randrange(1 << 40, 1 << 41), self.chance.randrange(20_000, LARGEST))
        piece = content[:self.chance.randrange(1, len(content) - 1)]
        reply = self.session.store_broken(f"STOR /{name}", piece, how)
        self.notes(how, name, f"after {len(piece)} of {len(content)}", "->", reply)
        self.storm.counts(f"own-STOR-{how}", reply)
        self.check(reply is None or reply.code == 426, f"STOR {name}, {how}: {reply}")
        self.outdated.add(name)
        self.stands(name)
        if reply is None:
            self.session = Session(self.storm.rig, self.tls)
        # The end of a connection reaches the server when it does, and what was under way is given up then.
        until(lambda: self.tells_truth(name), 30, f"SIZE of {name}, of which a STOR broke, tells what is there")

    def tells_truth(self, name):
        reply = self.session.ask(f"SIZE /{name}")
        self.notes("SIZE", name, "->", reply)
        content = self.files.get(name)
        return reply.code == 550 if content is None else reply == f"213 {len(content)}"

    def retr(self):
        if name := self.one():
            content = self.files[name]
            at = self.chance.randrange(len(content) + 1) if self.chance.random() < 0.3 else 0
            data, reply = self.session.fetch(f"RETR /{name}", at)
            self.notes("RETR", name, at, "->", reply)
            self.storm.counts("own-RETR", reply)
            self.check(reply.code == 226, f"RETR {name} from {at}: {reply}")
            self.check(data == content[at:], lambda: f"RETR {name} from {at}: {self.shown(data)}, not {self.shown(content[at:])}")

    def half_retr(self):
        if name := self.one():
            content, how = self.files[name], self.chance.choice(["abort", "close"])
            data, reply = self.session.fetch(f"RETR /{name}", until=self.chance.randrange(1, 4 * MIB), how=how)
            self.notes("RETR", how, name, "->", reply)
            self.storm.counts(f"own-RETR-{how}", reply)
            self.check(reply.code in (226, 426), f"RETR {name}, {how}: {reply}")
            self.check(content.startswith(data), lambda: f"RETR {name}: {self.shown(data)}, not of {self.shown(content)}")

    def dele(self):
        name = self.some()
        self.expects("DELE", f"/{name}", 250 if name in self.files else 550)
        self.files.pop(name, None)
        self.stands(name)

    def rename(self):
        if source := self.one():
            target = self.some()
            self.expects("RNFR", f"/{source}", 350)
            self.expects("RNTO", f"/{target}", 250)
            if source != target:
                self.files[target] = self.files.pop(source)
                if source in self.outdated:
                    self.outdated.add(target)
            self.stands(source)
            self.stands(target)

    def directory(self):
        path = f"{self.name}/{self.chance.choice('xyz')}"
        is_full = any(name.startswith(path + "/") for name in self.files)
        if path not in self.directories:
            self.expects("MKD", f"/{path}", 257)
            self.directories.add(path)
        else:
            self.expects("RMD", f"/{path}", 550 if is_full else 250)
            if not is_full:
                self.directories.discard(path)

    def rename_directory(self):
        free = [p for p in (f"{self.name}/{x}" for x in "xyz") if p not in self.directories]
        if not self.directories or not free:
            return
        source, target = self.chance.choice(sorted(self.directories)), self.chance.choice(free)
        self.expects("RNFR", f"/{source}", 350)
        self.expects("RNTO", f"/{target}", 250)
        self.directories ^= {source, target}
        for name in [n for n in self.files if n.startswith(source + "/")]:
            moved = target + name.removeprefix(source)
            self.files[moved] = self.files.pop(name)
            if name in self.outdated:
                self.outdated.add(moved)
            self.stands(name)
            self.stands(moved)

    def listing(self):
        directory = self.chance.choice(sorted(self.directories) + [self.name])
        facts, reply = self.session.names(f"/{directory}")
        self.check(facts is not None, f"MLSD {directory}: {reply}")
        inside = lambda names: {n.rsplit("/", 1)[1]: n for n in names if n.rsplit("/", 1)[0] == directory}
        expected = {n: len(self.files[path]) for n, path in inside(self.files).items()} | dict.fromkeys(inside(self.directories))
        told = {n: int(f["size"]) if f["type"] == "file" else None for n, f in facts.items()}
        self.check(told == expected, f"MLSD {directory}: {told}, not {expected}")

    def facts(self):
        if name := self.one():
            content = self.files[name]
            reply = self.expects("SIZE", f"/{name}", 213)
            self.check(reply == f"213 {len(content)}", f"SIZE {name}: {reply}, not {len(content)}")
            self.expects("MDTM", f"/{name}", 213)
            if self.chance.random() < 0.5:
                reply = self.expects("XSHA256", f"/{name}", 250)
                self.check(hashlib.sha256(content).hexdigest() in reply.lower(), f"XSHA256 {name}: {reply}")


class TlsClient(Client):
    tls = True


class TlsOwner(Owner):
    tls = True


class Shell(Worker):
    """Programs on the mount, among the names that everybody uses."""

    def begin(self):
        self.home, self.mine = self.storm.rig.home(), self.storm.rig.dir / "mine" / self.name
        self.mine.mkdir(parents=True)

    def deeds(self):
        return [(self.copy_in, 6), (self.copy_in_killed, 2), (self.append, 3), (self.copy, 2), (self.move, 3), (self.remove, 2),
                (self.read, 5), (self.list, 1), (self.log, 3)]

    def does(self, line, **words):
        """A line of shell; whether it ended well."""
        environment = os.environ | {key: str(value) for key, value in words.items()}
        done = subprocess.run(["sh", "-ec", line], env=environment, cwd=self.home, capture_output=True, timeout=SHELL_SECONDS)
        error = done.stderr.decode(errors="replace").strip()
        shown = {key: value for key, value in words.items() if key not in ("mine", "python", "program")}
        self.notes(f"{self.home.name}$", line, shown, "->", done.returncode, error[-200:])
        self.storm.counts(f"$ {line.split()[0]}", f"{line} {done.returncode} {error.rsplit(':', 1)[-1]}")
        self.output = done.stdout
        return done.returncode == 0

    def new(self, size):
        content_id, content = self.storm.fates.new(size)
        (self.mine / "new").write_bytes(content)
        return content_id, content

    @contextlib.contextmanager
    def writes(self, name):
        """Programs that write one file at once share it, as on every file system: half a `cp` may stand before a line that is
        appended, and be published with that. So here one of them writes at a time."""
        with self.storm.shells[name], self.on(name) as alone:
            yield alone

    def copy_in(self):
        name, (content_id, content) = self.chance.choice(POOL), self.new(size_of(self.chance))
        with self.writes(name) as alone:
            is_done = self.does('cp "$mine/new" "$name"', mine=self.mine, name=name)
            self.storm.fates.ends(content_id, is_done)
            found = self.object(name)
            # What is closed empty becomes an object with its last descriptor, a moment later.
            if is_done and content and found != content and alone():
                self.wrong_at(f"cp to {name} ended well, alone, but there is {found and found[:HEAD]!r}; "
                              f"it stands at {self.storm.places_of(content)}", name)

    def copy_in_killed(self):
        name = self.chance.choice(POOL)
        content_id, content = self.storm.fates.new(self.chance.randrange(20_000, LARGEST))
        piece = content[:self.chance.randrange(1, len(content) - 1)]
        with self.writes(name):
            killed = subprocess.Popen(["dd", f"of={name}", "bs=64k", "status=none"], cwd=self.home, stdin=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL)
            with contextlib.suppress(OSError):
                killed.stdin.write(piece)
                killed.stdin.flush()
            time.sleep(self.chance.random() * 0.2)
            killed.kill()
            killed.wait(PATIENCE)
            with contextlib.suppress(OSError):
                killed.stdin.close()
            self.notes("killed dd", name, f"id {content_id:x} after {len(piece)} of {len(content)}")
            self.storm.fates.ends(content_id, False)

    def append(self):
        name, (content_id, _) = self.chance.choice(POOL), self.new(self.chance.randrange(HEAD, MIB))
        with self.writes(name):
            self.storm.fates.ends(content_id, self.does('cat "$mine/new" >> "$name"', mine=self.mine, name=name))

    def log(self):
        name, (content_id, _) = self.chance.choice(LOGS), self.new(self.chance.randrange(HEAD, 3000))
        is_done = self.does('cat "$mine/new" >> "$name"', mine=self.mine, name=name)
        self.storm.fates.ends(content_id, is_done)
        if is_done:
            self.storm.appended[name].append(content_id)

    def copy(self):
        source, target = self.chance.sample(POOL, 2)
        with self.writes(target):
            self.does('cp "$source" "$target"', source=source, target=target)

    def move(self):
        source, target = self.chance.sample(POOL, 2)
        with self.on(source, target):
            self.does('mv -f "$source" "$target"', source=source, target=target)

    def remove(self):
        name = self.chance.choice(POOL)
        with self.on(name):
            self.does('rm -f "$name"', name=name)

    def read(self):
        name, asked = self.chance.choice(POOL), time.monotonic()
        if self.does('cat "$name"', name=name):
            self.judge(self.output, "cat", name, asked)

    def list(self):
        self.does("ls -lR s")


# What is done to a file in a directory of one's own, there and on a local disk; each publishes once.
IN_PLACE = {
    "cp": 'cp "$mine/new" "$a"',
    "append": 'cat "$mine/new" >> "$a"',
    "truncate": 'truncate -s "$n" "$a"',
    "sed": '[ ! -e "$a" ] || sed -i "s/COSR/RSOC/;s/0/O/g" "$a"',
    "mv": '[ ! -e "$a" ] || [ "$a" = "$b" ] || mv "$a" "$b"',
    "rm": 'rm -f "$a"',
    "dd": '[ ! -e "$a" ] || dd if="$mine/new" of="$a" bs=4096 seek="$k" conv=notrunc status=none',
    "write": '[ ! -e "$a" ] || "$python" -c "$program" "$a" "$n"',
    "copy": '[ ! -e "$a" ] || [ "$a" = "$b" ] || cp "$a" "$b"',
    "directory": 'mkdir one; [ ! -e "$a" ] || cp "$a" "one/$a"; mv one two; [ ! -e "two/$a" ] || mv "two/$a" .; rmdir two',
}
WRITE = """
import os, random, sys
chance, f = random.Random(int(sys.argv[2])), open(sys.argv[1], "r+b", buffering=0)
size = os.fstat(f.fileno()).st_size
for _ in range(20):
    f.seek(chance.randrange(size + 1000))
    left = memoryview(chance.randbytes(chance.randrange(1, 100_000)))
    while left:
        left = left[f.write(left):]
    f.seek(chance.randrange(size + 1))
    f.read(10_000)
f.close()
"""
STALL = """
import os, random, sys, time
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for n in range(int(sys.argv[2])):
    os.pwrite(f, b"never" * 40_000, random.randrange(3 << 20))
print("ready", flush=True)
time.sleep(100)
"""


class Editor(Shell):
    """Programs that change files in place, in a directory of their own and on a local disk at once: both stay alike."""

    def begin(self):
        super().begin()
        self.place, self.local = self.storm.rig.home() / self.name, self.storm.rig.dir / "local" / self.name
        self.local.mkdir(parents=True)
        self.place.mkdir()

    def deeds(self):
        return [(self.change, 8), (self.killed, 1), (self.read, 2)]

    def change(self):
        what = self.chance.choice(sorted(IN_PLACE))
        a, b = self.chance.choice("abcd"), self.chance.choice("abcd")
        (self.mine / "new").write_bytes(record(self.chance.randrange(1 << 40, 1 << 41), size_of(self.chance, 6 * MIB)))
        words = {"a": a, "b": b, "n": self.chance.randrange(8 * MIB), "k": self.chance.randrange(500), "mine": self.mine,
                 "python": sys.executable, "program": WRITE}
        self.home = self.local
        self.check(self.does(IN_PLACE[what], **words), f"{what} on the local disk")
        for name in (a, b):
            with contextlib.suppress(FileNotFoundError):
                self.storm.versions[f"{self.name}/{name}"].add(hashlib.sha1((self.local / name).read_bytes()).digest())
        self.home = self.place
        self.check(self.does(IN_PLACE[what], **words), lambda: f"{what} {a} {b} n={words['n']} k={words['k']} failed")
        self.compare(a, b)

    def compare(self, *names):
        """What is closed empty becomes an object with its last descriptor, a moment later."""
        with contextlib.suppress(AssertionError):
            until(lambda: all(self.storm.store.get(f"{self.name}/{name}") == b"" for name in names if self.is_empty(name)), 5, "")
        listed = {p.name for p in self.local.iterdir()}
        prefix = f"{self.name}/"
        stored = {k.removeprefix(prefix) for k in self.storm.rig.objects() if k.startswith(prefix) and not k.endswith("/")}
        self.check(stored == listed, lambda: f"there are {sorted(stored)}, not {sorted(listed)}")
        for name in set(names) & listed:
            found, local = self.storm.store.get(prefix + name), (self.local / name).read_bytes()
            self.check(found == local, lambda: f"{name} is {found and len(found)} bytes, not the {len(local)} of the local disk; "
                       f"first other byte {next((i for i, (x, y) in enumerate(zip(found or b'', local)) if x != y), None)}")

    def is_empty(self, name):
        return (self.local / name).exists() and not (self.local / name).stat().st_size

    def killed(self):
        """SIGKILL in the middle of writing in place, or of a new file: nothing of it is ever seen."""
        a = self.chance.choice("abcd")
        victim = subprocess.Popen([sys.executable, "-c", STALL, a, str(self.chance.randrange(1, 60))], cwd=self.place,
                                  stdout=subprocess.PIPE)
        if self.chance.random() < 0.5:
            victim.stdout.readline()
        else:
            time.sleep(self.chance.random() * 0.3)
        victim.kill()
        victim.wait(PATIENCE)
        victim.stdout.close()
        self.notes("killed", a)
        # What a descriptor that is gone held is given up a moment later, and a name that is being written is busy.
        time.sleep(1)
        self.compare(a)

    def read(self):
        a = self.chance.choice("abcd")
        if (self.local / a).exists():
            self.check(self.does('cat "$a"', a=a), f"cat {a}")
            self.check(self.output == (self.local / a).read_bytes(), f"cat {a}: not what is on the local disk")


class Git(Shell):
    """A repository on the mount."""

    def begin(self):
        super().begin()
        self.home = self.home / self.name
        self.home.mkdir()
        self.commits = 0
        self.runs("git init -q . && git config user.email a@b && git config user.name a && git config gc.auto 0")

    def runs(self, line, **words):
        self.check(self.does(line, **words), line)

    def deeds(self):
        return [(self.commit, 5), (self.collect, 1)]

    def commit(self):
        for _ in range(self.chance.randrange(1, 4)):
            (self.mine / "new").write_bytes(self.chance.randbytes(self.chance.randrange(200_000)))
            self.runs('cp "$mine/new" "$name"', mine=self.mine, name=self.chance.choice("abcdefg"))
        self.runs("git add -A . && git commit -q --allow-empty -m more")
        self.commits += 1

    def collect(self):
        self.runs("git gc -q" if self.chance.random() < 0.3 else "git status -s")

    def finish(self):
        self.runs("git fsck --strict && git rev-list --count HEAD")
        self.check(int(self.output or 0) == self.commits, f"{self.output} commits, not {self.commits}")
        self.runs("test -z \"$(git status -s)\"")


class Database(Shell):
    """A sqlite database on the mount: each transaction is there when the next begins."""

    def begin(self):
        super().begin()
        self.rows = 0
        (self.home / self.name).mkdir()
        self.path = self.home / self.name / "data.db"
        with contextlib.closing(sqlite3.connect(self.path)) as base, base:
            base.execute("create table t (n integer primary key, text blob)")

    def deeds(self):
        return [(self.insert, 5), (self.roll_back, 1), (self.verify, 1)]

    def insert(self):
        with contextlib.closing(sqlite3.connect(self.path)) as base, base:
            many = self.chance.randrange(1, 50)
            base.executemany("insert into t (text) values (?)", [(self.chance.randbytes(self.chance.randrange(4000)),) for _ in range(many)])
        self.rows += many
        self.notes("inserted", many)

    def roll_back(self):
        with contextlib.closing(sqlite3.connect(self.path)) as base:
            base.execute("delete from t where n % 2 = 0")
            base.rollback()
        self.notes("rolled back")

    def verify(self):
        with contextlib.closing(sqlite3.connect(self.path)) as base:
            found, whole = base.execute("select count(*) from t").fetchone()[0], base.execute("pragma integrity_check").fetchone()[0]
        self.check(found == self.rows and whole == "ok", f"{found} rows, not {self.rows}; {whole}")

    def finish(self):
        self.verify()


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
