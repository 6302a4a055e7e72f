"""The shell programs of a storm."""

import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import time

from rig import MIB, until
from storm_session import HEAD, LARGEST, PATIENCE, record
from storm_worker import LOGS, POOL, SHELL_SECONDS, Worker, size_of


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
