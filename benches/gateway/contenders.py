"""Who is measured: cosgate, its peers on the same store, and the ceilings. Each runs from the first to the last round."""

import contextlib
import os
import pathlib
import pwd
import shutil
import socket
import subprocess

from rig import COSGATE, Rig, check, children, cpu, free_port, status, until
from store import BUCKET, KEY_ID, SECRET
from vsftpd import GUEST, Vsftpd

REGION = "ap-guangzhou"
RCLONE = os.environ.get("RCLONE", "rclone")


def clean_environment():
    """Without what would send a peer to another place than the store."""
    foreign = ("proxy", "ca_bundle", "rclone_", "aws_")
    return {name: value for name, value in os.environ.items() if not any(word in name.lower() for word in foreign)}


class Contender:
    """One way to the store, or a ceiling without one. Paths are those in the bucket."""

    name = ""
    # Whether it is a peer whose figures cosgate is held against, or a ceiling.
    is_peer = True
    # Whether what it takes ends in the store.
    has_store = True

    def __init__(self, directory, store, log):
        self.dir, self.store, self.log = pathlib.Path(directory), store, log
        self.dir.mkdir(parents=True)
        self.dir.chmod(0o755)
        self.processes = []
        self.port = None
        # The command lines as they would be typed, for the report.
        self.words = []

    @property
    def slug(self):
        return self.name.lower().replace(" ", "-")

    def start(self):
        pass

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)

    def ftp(self, path):
        """URL of a path, or None where it serves no FTP. Who does so by itself has a port, and one user."""
        return f"ftp://user0:pass0@127.0.0.1:{self.port}/{path}" if self.port else None

    def path(self, path):
        """A path as a file, or None where it is no file system."""
        return None

    def roots(self):
        """The processes whose trees are the gateway."""
        return [process.pid for process in self.processes]

    def spawn(self, words, **options):
        words = [str(word) for word in words]
        env = options.pop("env", None) or clean_environment()
        # A process group of its own: a Ctrl-C is for the benchmark, which then ends them in order.
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env,
                                   process_group=0, **options)
        self.processes.append(process)
        shown = " ".join(words).replace(f"{self.dir}/", "").replace(f"127.0.0.1:{self.store.port}", "STORE")
        self.words.append(shown)
        return process

    def ready(self, process, condition):
        """Waits until it serves, but not for one that has ended."""
        until(lambda: process.poll() is not None or condition(), 30, f"{self.name} starts")
        check(process.poll() is None, f"{self.name} ended with {process.returncode}")

    # ---- what it uses

    def tree(self):
        found, open_ends = [], self.roots()
        while open_ends:
            pid = open_ends.pop()
            found.append(pid)
            open_ends += children(pid)
        return found

    def cpu(self):
        """CPU seconds of the tree, those of ended children too."""
        return sum(cpu(pid, with_children=True) for pid in self.tree())

    def forget_peak(self):
        for pid in self.tree():
            with contextlib.suppress(OSError):
                pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self):
        return sum(status(pid, "VmHWM") for pid in self.tree()) / 1024


class Cosgate(Contender):
    """Front and mount, over an account whose bucket is the store's."""

    name = "cosgate"

    def start(self):
        self.rig = _Served(self.store)
        self.rig.__enter__()
        self.words.append("cosgate serve -c FILE (defaults)")

    def stop(self):
        self.rig.__exit__()

    def ftp(self, path):
        return self.rig.url(path)

    def path(self, path):
        return self.rig.home() / path

    def roots(self):
        return [self.rig.front]


class _Served(Rig):
    """A rig whose store is somebody else's."""

    def __init__(self, store):
        super().__init__(accounts=[{"cos_bucket": BUCKET}])
        self.store_port, self.admin_port = store.port, store.admin_port

    def start_store(self):
        self.store = _Ended()


class _Ended:
    """Nothing that a rig would have to end."""

    def poll(self):
        return 0


class Mounted(Contender):
    """A peer's mount with vsftpd above it."""

    def mount_words(self):
        """Command and environment that mount the bucket on `self.point`, in the foreground."""
        raise NotImplementedError

    def start(self):
        self.point = self.dir / "mount"
        self.point.mkdir()
        self.guest = pwd.getpwnam(GUEST)
        words, env = self.mount_words()
        process = self.spawn(words, env=env)
        self.ready(process, lambda: os.path.ismount(self.point))
        self.vsftpd = Vsftpd(self.dir, self.point)
        self.vsftpd.__enter__()
        self.words.append("vsftpd (anonymous, root above the mount)")

    def stop(self):
        if hasattr(self, "vsftpd"):
            self.vsftpd.__exit__()
        if hasattr(self, "point") and os.path.ismount(self.point):
            subprocess.run(["umount", str(self.point)], check=False, timeout=60, capture_output=True)
        super().stop()
        if hasattr(self, "point") and os.path.ismount(self.point):
            subprocess.run(["umount", "-l", str(self.point)], check=False, timeout=60)

    def ftp(self, path):
        return self.vsftpd.url(path)

    def path(self, path):
        return self.point / path

    def roots(self):
        return [*super().roots(), self.vsftpd.process.pid]


class S3fs(Mounted):
    name = "s3fs + vsftpd"

    def mount_words(self):
        password = self.dir / "password"
        password.write_text(f"{KEY_ID}:{SECRET}\n")
        password.chmod(0o600)
        options = [f"url=http://127.0.0.1:{self.store.port}", "use_path_request_style", "sigv4", f"passwd_file={password}",
                   "allow_other", "umask=0000", f"uid={self.guest.pw_uid}", f"gid={self.guest.pw_gid}"]
        return ["s3fs", BUCKET, self.point, "-f", "-o", ",".join(options)], None


def _rclone_config(contender):
    path = contender.dir / "rclone.conf"
    path.write_text(f"[store]\ntype = s3\nprovider = Other\naccess_key_id = {KEY_ID}\nsecret_access_key = {SECRET}\n"
                    f"endpoint = http://127.0.0.1:{contender.store.port}\nforce_path_style = true\nno_check_bucket = true\n")
    return path


class RcloneMount(Mounted):
    name = "rclone mount + vsftpd"

    def mount_words(self):
        return [RCLONE, "--config", _rclone_config(self), "mount", f"store:{BUCKET}", self.point, "--allow-other",
                "--umask", "000", "--uid", self.guest.pw_uid, "--gid", self.guest.pw_gid, "--vfs-cache-mode", "writes",
                # Or the disk fills: what is stored stays there for an hour otherwise.
                "--cache-dir", self.dir / "cache", "--vfs-cache-max-age", "5s", "--vfs-cache-poll-interval", "5s"], None


class RcloneFtp(Contender):
    """Not in every build of rclone: Debian's has no FTP server."""

    name = "rclone serve ftp"

    @staticmethod
    def is_built():
        done = subprocess.run([RCLONE, "serve", "ftp", "--help"], capture_output=True, text=True, timeout=60)
        return "--passive-port" in done.stdout

    def start(self):
        self.port, first = free_port(), free_port()
        self.spawn([RCLONE, "--config", _rclone_config(self), "serve", "ftp", f"store:{BUCKET}", "--addr",
                    f"127.0.0.1:{self.port}", "--user", "user0", "--pass", "pass0", "--passive-port",
                    f"{first}-{min(first + 500, 65_535)}"])
        self.ready(self.processes[0], lambda: _listens(self.port))


class Mountpoint(Mounted):
    """Where `--mount-s3` says where it is."""

    name = "mountpoint-s3 + vsftpd"
    command = None

    def mount_words(self):
        env = clean_environment() | {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}
        return [self.command, BUCKET, self.point, "--foreground", "--endpoint-url", f"http://127.0.0.1:{self.store.port}",
                "--force-path-style", "--region", REGION, "--allow-other", "--allow-delete", "--uid", self.guest.pw_uid,
                "--gid", self.guest.pw_gid, "--dir-mode", "0777", "--file-mode", "0666"], env


class CosFtpServer(Contender):
    """Where `--cos-ftp-server` says where its `ftp_server.py` is; reaches the store as an HTTP proxy."""

    name = "cos-ftp-server"
    command = None

    def start(self):
        self.port = free_port()
        (self.dir / "conf").mkdir()
        (self.dir / "log").mkdir()
        (self.dir / "conf/vsftpd.conf").write_text(
            f"[COS_ACCOUNT_0]\ncos_secretid = {KEY_ID}\ncos_secretkey = {SECRET}\ncos_bucket = {BUCKET}\n"
            f"cos_region = {REGION}\ncos_protocol = http\ncos_endpoint = cos.{REGION}.myqcloud.com\n"
            f"home_dir = /home/user0\nftp_login_user_name = user0\nftp_login_user_password = pass0\n"
            f"authority = RW\ndelete_enable = true\n[NETWORK]\nmasquerade_address = 127.0.0.1\n"
            f"listen_port = {self.port}\npassive_port = 40000,45000\n[FILE_OPTION]\nsingle_file_max_size = 21474836480\n"
            "[OPTIONAL]\nmin_part_size = default\nupload_thread_num = default\nmax_connection_num = 512\n"
            f"max_list_file = 10000\nlog_level = INFO\nlog_dir = {self.dir}/log\n")
        env = clean_environment() | {"http_proxy": f"http://127.0.0.1:{self.store.port}"}
        self.spawn([*self.command.split(), "-c", self.dir / "conf/vsftpd.conf"], env=env, cwd=self.dir)
        self.ready(self.processes[0], lambda: _listens(self.port))


class Bare(Contender):
    """Ceiling: a client with presigned URLs, parts and ranges of 8 MiB over 4 connections. No gateway at all."""

    name = "bare HTTP client"
    is_peer = False


class VsftpdTmpfs(Contender):
    """Ceiling: vsftpd over a directory in memory."""

    name = "vsftpd on tmpfs"
    is_peer = False
    has_store = False

    def __init__(self, directory, store, log, memory):
        super().__init__(directory, store, log)
        # Beside the payloads, which are linked into it.
        self.root = pathlib.Path(memory) / "vsftpd"

    def start(self):
        home = self.root / "home"
        home.mkdir(parents=True)
        self.root.chmod(0o755)
        guest = pwd.getpwnam(GUEST)
        os.chown(home, guest.pw_uid, guest.pw_gid)
        self.vsftpd = Vsftpd(self.root, home)
        self.vsftpd.__enter__()
        self.words.append("vsftpd (anonymous, root on tmpfs)")

    def stop(self):
        if hasattr(self, "vsftpd"):
            self.vsftpd.__exit__()
        shutil.rmtree(self.root, ignore_errors=True)

    def ftp(self, path):
        return self.vsftpd.url(path)

    def local(self, path):
        """Where a path lies."""
        return self.root / "home" / path

    def roots(self):
        return [self.vsftpd.process.pid]


class NullFuse(Contender):
    """Ceiling: a FUSE file system that throws away what it gets and invents what it gives."""

    name = "null FUSE"
    is_peer = False
    has_store = False
    FILE_BYTES = 1 << 30

    def start(self):
        self.point = self.dir / "mount"
        self.point.mkdir()
        process = self.spawn([pathlib.Path(COSGATE).parent / "examples/null_fuse", self.point])
        self.ready(process, lambda: os.path.ismount(self.point))

    def stop(self):
        if hasattr(self, "point") and os.path.ismount(self.point):
            subprocess.run(["umount", "-l", str(self.point)], check=False, timeout=60)
        super().stop()

    def path(self, path):
        # It has one directory, in which every name is a file of 1 GiB.
        return self.point / path.replace("/", "-")


def _listens(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False
