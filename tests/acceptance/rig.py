"""A whole cosgate on this machine: embedded store, mounts, front; and a look at what they use.

Everything runs on loopback, in a directory of its own, and is gone when the `with` block ends.
"""

import contextlib
import ftplib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
COSGATE = os.environ.get("COSGATE", str(ROOT / "target/release/cosgate"))
MIB = 1 << 20

SCENARIOS = {}


def scenario(function):
    """Makes a function one of the scenarios, under its name."""
    SCENARIOS[function.__name__] = function
    return function


def check(condition, why):
    if not condition:
        raise AssertionError(why)


def shell(*words, check_exit=True, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, errors="replace", **options)
    if check_exit and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, words))[:200]} ended {done.returncode}: {done.stderr[-800:]}{done.stdout[-400:]}")
    return done


def until(condition, seconds, what):
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        with contextlib.suppress(Exception):
            if condition():
                return time.monotonic() - begun
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


def side_by_side(jobs):
    """Runs the jobs at once, in a thread each; number and error of those that failed."""
    failures = []

    def run(number, job):
        try:
            job()
        except Exception as error:
            failures.append((number, error))
    threads = [threading.Thread(target=run, args=numbered) for numbered in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def timed(*words):
    begun = time.monotonic()
    shell(*words)
    return time.monotonic() - begun


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children(pid):
    """Direct children of a process."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(p) for p in task.read_text().split()]
    return found


def status(pid, field):
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0


def cpu(pid, with_children=False):
    """CPU seconds a process has used, user and system; also those of its children that have ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    counted = fields[11:15] if with_children else fields[11:13]
    return sum(int(ticks) for ticks in counted) / os.sysconf("SC_CLK_TCK")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(4 * MIB):
            digest.update(piece)
    return digest.hexdigest()


def mounts_below(directory):
    lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in lines if line.split()[1].startswith(str(directory))]


def state_d():
    """Processes that nothing can end: state D, twice in a row."""
    def look():
        found = set()
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                name, rest = stat.read_text().rsplit(")", 1)
                if rest.split()[0] == "D" and "kworker" not in name and "jbd2" not in name:
                    found.add(name)
        return found
    first = look()
    time.sleep(1)
    return first & look()


class Rig:
    """An emulator and a `cosgate serve` over it."""

    def __init__(self, accounts=None, emulator=(), extra="", text=None, data=False, prepare=None,
                 certificate=False, network=""):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="cosgate-accept-"))
        self.accounts = accounts or [{}, {}]
        self.emulator_options = list(emulator)
        self.extra = extra
        self.text = text
        self.data = data
        self.prepare = prepare
        self.network = network
        self.certificate = (self.dir / "cert.pem", self.dir / "key.pem") if certificate else None
        self.store_port, self.admin_port, self.ftp_port = free_port(), free_port(), free_port()
        self.log = open(self.dir / "output.log", "ab")

    def bucket(self, n=0):
        return f"bucket{n}-1250000000"

    def home(self, n=0):
        return self.dir / f"home{n}"

    def write_config(self):
        lines = []
        for n, more in enumerate(self.accounts):
            self.home(n).mkdir(exist_ok=True)
            keys = {
                "cos_secretid": "emulator", "cos_secretkey": "emulator-secret", "cos_bucket": self.bucket(n),
                "cos_endpoint": f"127.0.0.1:{self.store_port}", "cos_protocol": "http", "home_dir": self.home(n),
                "ftp_login_user_name": f"user{n}", "ftp_login_user_password": f"pass{n}",
                # Broken uploads are aborted at once, unless a scenario is about them.
                "resume_window": "0",
            } | more
            lines += [f"[COS_ACCOUNT_{n}]"] + [f"{k} = {v}" for k, v in keys.items()]
        lines += ["[NETWORK]", f"listen_port = {self.ftp_port}", "listen_address = 127.0.0.1",
                  *self.tls_keys(), self.network, "[OPTIONAL]", f"log_dir = {self.dir}/log", self.extra]
        self.config = self.dir / "cosgate.conf"
        self.config.write_text(self.text(self) if self.text else "\n".join(lines) + "\n")
        self.config.chmod(0o600)

    def tls_keys(self):
        if not self.certificate:
            return []
        cert, key = self.certificate
        shell("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
              "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert)
        return [f"tls_cert = {cert}", f"tls_key = {key}"]

    def start_store(self):
        args = [COSGATE, "emulator", "--listen", f"127.0.0.1:{self.store_port}", "--admin", f"127.0.0.1:{self.admin_port}"]
        for n in range(len(self.accounts)):
            args += ["--bucket", self.bucket(n)]
        if self.data:
            args += ["--data", str(self.dir / "store")]
        self.store = subprocess.Popen(args + self.emulator_options, stdout=self.log, stderr=self.log)
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.admin_port), 1).close()
                return
            time.sleep(0.02)
        raise SystemExit("the embedded store did not start")

    def start(self):
        env = os.environ | {"RUNTIME_DIRECTORY": str(self.dir / "run")}
        (self.dir / "run").mkdir(exist_ok=True)
        self.serve = subprocess.Popen([COSGATE, "serve", "-c", str(self.config)], stdout=subprocess.PIPE,
                                      stderr=self.log, env=env, text=True, cwd=self.dir)
        begun = time.monotonic()
        for line in self.serve.stdout:
            if line.strip() == "ready":
                self.start_seconds = time.monotonic() - begun
                return
        raise SystemExit((self.dir / "output.log").read_text()[-3000:])

    @property
    def front(self):
        return self.serve.pid

    @property
    def mount(self):
        found = children(self.serve.pid)
        return found[0] if found else 0

    def __enter__(self):
        self.write_config()
        if self.prepare:
            self.prepare(self)
        self.start_store()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def stop(self, how=signal.SIGTERM):
        self.serve.send_signal(how)
        begun = time.monotonic()
        self.serve.wait(60)
        return time.monotonic() - begun

    def __exit__(self, *_):
        for process in (self.serve, self.store):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(45)
                    continue
                process.kill()
        left = mounts_below(self.dir)
        for point in reversed(left):
            subprocess.run(["umount", "-l", point], check=False)
        self.log.close()
        if left:
            print("  LEFT MOUNTED:", left)
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def admin(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method,
                                         data=json.dumps(body).encode() if body is not None else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def objects(self, n=0):
        found = self.admin("GET", f"/objects?bucket={self.bucket(n)}")
        return {o["key"]: o for o in found if not o["key"].startswith(".cosgate/")}

    def uploads(self):
        return self.admin("GET", "/uploads")

    def ftp(self, n=0, timeout=120):
        client = ftplib.FTP()
        client.connect("127.0.0.1", self.ftp_port, timeout=timeout)
        client.login(f"user{n}", f"pass{n}")
        return client

    def url(self, path="", n=0):
        return f"ftp://user{n}:pass{n}@127.0.0.1:{self.ftp_port}/{path}"


def random_file(path, size):
    """A file that neither compresses nor repeats within a part."""
    block = os.urandom(8 * MIB + 4099)
    with open(path, "wb") as f:
        left = size
        while left > 0:
            f.write(block[:left])
            left -= len(block)
    return path
