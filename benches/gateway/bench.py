"""One run: what is sent, what lies there before, the rounds."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from contenders import RCLONE, Bare, CosFtpServer, Cosgate, Mountpoint, NullFuse, RcloneFtp, RcloneMount, S3fs, VsftpdTmpfs
from rig import check, mounts_below
from store import Store
from vsftpd import GUEST
from works import PART_BYTES, READ_BYTES, SMALL_BYTES, WORKS, NotHere, Scale, Turn

KINDS = [Cosgate, S3fs, RcloneFtp, RcloneMount, Mountpoint, CosFtpServer, Bare, VsftpdTmpfs, NullFuse]
# Latency in milliseconds and bytes per second of each connection.
WIRES = {"fast": (0, 0), "wire": (20, 40_000_000)}


class Bench:
    """Store, contenders, and what is sent."""

    def __init__(self, options, stack):
        self.options = options
        self.scale = Scale.quick() if options.quick else Scale()
        self.rounds = 1 if options.quick else options.rounds
        self.wire = (0, 0)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="cosgate-bench-"))
        stack.callback(shutil.rmtree, self.dir, True)
        # Servers that run as somebody else pass through it.
        self.dir.chmod(0o755)
        self.memory = pathlib.Path(tempfile.mkdtemp(prefix="cosgate-bench-", dir=options.memory))
        stack.callback(shutil.rmtree, self.memory, True)
        self.memory.chmod(0o755)
        self.log = stack.enter_context(open(self.dir / "output.log", "ab"))
        self.digests, self.sums = {}, {}
        wanted = options.only or []
        names = {work.name for work in WORKS} | {kind.name for kind in KINDS}
        for name in wanted:
            if name not in names:
                sys.exit(f"no such work or contender: {name}; there are {', '.join(sorted(names))}")
        self.works = [work for work in WORKS if work.name in wanted] or WORKS
        kinds = [kind for kind in KINDS if kind.name in wanted] or KINDS
        self.kinds = [kind for kind in kinds if self.installed(kind)]
        self.wires = [name for name in WIRES if options.wire in (name, "both")]
        self.store = Store(self.log)
        stack.callback(self.store.stop)

    def installed(self, kind):
        needs = {S3fs: ["s3fs", "vsftpd"], RcloneMount: [RCLONE, "vsftpd"], RcloneFtp: [RCLONE], VsftpdTmpfs: ["vsftpd"]}
        missing = [name for name in needs.get(kind, []) if not shutil.which(name)]
        if missing:
            print(f"{kind.name}: left out, {' and '.join(missing)} not installed", flush=True)
        if kind is Mountpoint:
            kind.command = self.options.mount_s3
            return bool(kind.command and shutil.which("vsftpd"))
        if kind is CosFtpServer:
            kind.command = self.options.cos_ftp_server
            return bool(kind.command)
        if kind is RcloneFtp and not missing and not kind.is_built():
            print(f"{kind.name}: left out, this rclone has no FTP server; RCLONE=PATH names another", flush=True)
            return False
        if kind is NullFuse and not (self.options.cosgate.parent / "examples/null_fuse").exists():
            print(f"{kind.name}: left out, build it: cargo build --release --example null_fuse", flush=True)
            return False
        return not missing

    # ---- what is sent

    def make_payloads(self):
        """Files of random bytes, and what the store says of them."""
        sizes = sorted({self.scale.big, self.scale.wire_big, self.scale.parallel})
        files = {size: open(self.source(size), "wb") for size in sizes}
        for at in range(sizes[-1] // PART_BYTES):
            piece = os.urandom(PART_BYTES)
            for size, file in files.items():
                if at < size // PART_BYTES:
                    file.write(piece)
        for size, file in files.items():
            file.close()
            self.digests[size] = self.digest(self.source(size))
        self.small().write_bytes(os.urandom(SMALL_BYTES))
        # The store's own checksums, once it has been shown that it holds the very bytes.
        for size in [*sizes, SMALL_BYTES]:
            source = self.small() if size == SMALL_BYTES else self.source(size)
            key = f"source/{size}"
            subprocess.run(["curl", "-sS", "--fail", "-H", "Expect:", "-T", str(source), self.store.url("PUT", key)], check=True,
                           timeout=300)
            back = self.memory / "back"
            subprocess.run(["curl", "-sS", "--fail", "-o", str(back), self.store.url("GET", key)], check=True, timeout=300)
            check(self.digest(back) == self.digest(source), "the store holds something else")
            back.unlink()
            self.sums[size] = self.store.seen(key)[1]

    def source(self, size):
        return self.memory / f"source-{size}"

    def small(self):
        return self.memory / "small"

    def crc64(self, size):
        return self.sums[size]

    def digest(self, path):
        done = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True, timeout=600)
        return done.stdout.split()[0]

    def digest_of(self, size):
        return self.digests[size]

    def digest_of_reads(self, offsets):
        size = self.scale.wire_big if self.wire != (0, 0) else self.scale.big
        digest = hashlib.sha256()
        with open(self.source(size), "rb") as file:
            for at in offsets:
                digest.update(os.pread(file.fileno(), READ_BYTES, at))
        return digest.digest()

    # ---- what lies there before

    def name(self, at):
        return f"name-{at:06}"

    def provide(self, contenders):
        """Everything that will be read, before anybody has looked: what was listed once may be remembered for minutes."""
        turns = [Turn(self, contender, work, number) for contender in contenders for work in self.works
                 for number in range(self.rounds)]
        for contender in contenders:
            self._provide_directory(contender, f"{contender.slug}/out")
            self._provide_directory(contender, f"{contender.slug}/in")
        directories = set()
        for wire in self.wires:
            self.wire = WIRES[wire]
            for turn in turns:
                for name in turn.work.given:
                    self._provide_file(turn.contender, turn.given(name), turn.given_bytes())
                if turn.work.name in ("list", "ls-cold", "ls-warm"):
                    local = isinstance(turn.contender, VsftpdTmpfs)
                    directories.add((turn.contender if local else None, turn.listed()))
        for contender, directory in directories:
            self._provide_names(contender, directory)

    def _provide_directory(self, contender, path):
        if isinstance(contender, VsftpdTmpfs):
            contender.local(path).mkdir(parents=True)
            shutil.chown(contender.local(path), GUEST)
        elif contender.has_store:
            self.store.done("PUT", f"{contender.slug}/")
            self.store.done("PUT", f"{path}/")

    def _provide_file(self, contender, path, size):
        if isinstance(contender, VsftpdTmpfs):
            os.link(self.source(size), contender.local(path))
        elif contender.has_store:
            self.store.copy(f"source/{size}", path)

    def _provide_names(self, contender, directory):
        names = [self.name(at) for at in range(self.scale.names)]
        if contender:
            contender.local(directory).mkdir(parents=True)
            for name in names:
                contender.local(f"{directory}/{name}").write_bytes(b"x")
            return
        tiny = self.memory / "tiny"
        tiny.write_bytes(b"x")
        entries = (f"fail\nupload-file = \"{tiny}\"\nurl = \"{self.store.url('PUT', f'{directory}/{name}')}\"" for name in names)
        subprocess.run(["curl", "-sS", "--fail-early", "-K", "-"], input="\nnext\n".join(entries), text=True, check=True,
                       timeout=300, stdout=subprocess.DEVNULL)

    # ---- the run

    def start(self, stack):
        contenders = []
        for kind in self.kinds:
            directory = self.dir / kind.name.replace(" ", "-")
            more = (self.memory,) if kind is VsftpdTmpfs else ()
            contenders.append(kind(directory, self.store, self.log, *more))
        for contender in contenders:
            if isinstance(contender, VsftpdTmpfs):
                stack.callback(contender.stop)
                contender.start()
        print("preparing what is sent and read", flush=True)
        self.make_payloads()
        self.provide(contenders)
        return [contender for contender in contenders if isinstance(contender, VsftpdTmpfs) or self._started(contender, stack)]

    def _started(self, contender, stack):
        stack.callback(contender.stop)
        try:
            contender.start()
        except Exception as error:
            if isinstance(contender, Cosgate):
                raise
            print(f"{contender.name}: left out, {error}", flush=True)
            return False
        return True

    def measure(self, contenders, results, keep):
        """Adds figures to `results` by wire, work and contender: a list, one for each round. What is there already is not measured again.
        `keep` is called behind each work."""
        for wire in self.wires:
            self.wire = WIRES[wire]
            for work in self.works:
                cells = results.setdefault(wire, {}).setdefault(work.name, {})
                for number in range(self.rounds):
                    # Another one begins each round.
                    turned = contenders[number % len(contenders) :] + contenders[: number % len(contenders)]
                    for contender in turned:
                        self.turn(Turn(self, contender, work, number), cells, wire)
                keep()

    def turn(self, turn, cells, wire):
        mine = cells.setdefault(turn.contender.name, [])
        # What has no store is the same on every wire; what failed once is not tried again.
        is_idle = turn.on_wire and not turn.contender.has_store
        if is_idle or len(mine) > turn.round or any("failed" in figures for figures in mine):
            return
        try:
            figures = turn.work.do(turn)
        except NotHere:
            return
        except Exception as error:
            figures = {"failed": f"{type(error).__name__}: {error}"[:300]}
        finally:
            with contextlib.suppress(Exception):
                turn.forget()
        mine.append(figures)
        print(f"{wire} {turn.work.name} round {turn.round + 1} {turn.contender.name}: {self.told(turn.work, figures)}", flush=True)

    def told(self, work, figures):
        if "failed" in figures:
            return figures["failed"]
        late = f", 226 before the object by {figures['late']:.1f} s" if "late" in figures else ""
        return (f"{figures['value']:.{work.digits}f} {work.unit}; CPU {figures['cpu']:.2f} s, store {figures['store_cpu']:.2f} s, "
                f"client {figures['client_cpu']:.2f} s; peak {figures['peak_mib']:.0f} MiB; {figures['requests']}{late}")


def leftovers(bench, processes):
    """Mounts and processes that should be gone."""
    mounts = mounts_below(bench.dir)
    alive = [pid for pid in processes if pathlib.Path(f"/proc/{pid}").exists()]
    for point in mounts:
        subprocess.run(["umount", "-l", point], check=False, timeout=60)
    return mounts + [f"process {pid}" for pid in alive]
