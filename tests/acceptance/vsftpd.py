"""The front beside vsftpd, on the same mount, in the same run."""

import contextlib
import os
import pwd
import socket
import statistics
import subprocess
import time

from rig import MIB, Rig, check, cpu, free_port, random_file, scenario, shell, timed

FILE_BYTES = 512 * MIB
ROUNDS = 5
# The user that the vsftpd package makes; vsftpd wants one whose own home exists.
GUEST = "ftp"


class Vsftpd:
    """vsftpd with its root above a home, for a guest who may write there: a root that he may write it refuses."""

    def __init__(self, directory, home, certificate=None):
        self.port = free_port()
        self.home = home.relative_to(directory)
        self.config = directory / "vsftpd.conf"
        tls = []
        if certificate:
            tls = ["ssl_enable=YES", "allow_anon_ssl=YES", "require_ssl_reuse=NO", "ssl_ciphers=HIGH",
                   f"rsa_cert_file={certificate[0]}", f"rsa_private_key_file={certificate[1]}"]
        self.config.write_text("\n".join([
            "listen=YES", "background=NO", f"listen_port={self.port}", "listen_address=127.0.0.1",
            "anonymous_enable=YES", "no_anon_password=YES", f"anon_root={directory}", f"ftp_username={GUEST}",
            "write_enable=YES", "anon_upload_enable=YES", "anon_other_write_enable=YES", "anon_umask=022",
            "seccomp_sandbox=NO", "connect_from_port_20=NO", "pasv_address=127.0.0.1",
            "anon_world_readable_only=NO", "xferlog_enable=NO", "secure_chroot_dir=/var/run/vsftpd/empty", *tls,
        ]) + "\n")
        os.makedirs("/var/run/vsftpd/empty", exist_ok=True)

    def __enter__(self):
        self.process = subprocess.Popen(["vsftpd", str(self.config)], stdin=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            check(self.process.poll() is None, "vsftpd does not start: apt-get install vsftpd")
            time.sleep(0.05)
        raise AssertionError("vsftpd does not listen")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def url(self, path):
        return f"ftp://127.0.0.1:{self.port}/{self.home}/{path}"

    def cpu(self):
        """Its own and that of the sessions that have ended."""
        time.sleep(0.1)
        return cpu(self.process.pid, with_children=True)


@scenario
def beside_vsftpd():
    """STOR and RETR of 512 MiB, plain and with TLS: bytes per CPU second of both servers on one mount."""
    shell("which", "vsftpd", "openssl")
    with Rig(emulator=["--fast-etag"], prepare=_own_by_guest, certificate=True) as rig:
        source = random_file(rig.dir / "half.payload", FILE_BYTES)
        with Vsftpd(rig.dir, rig.home(), rig.certificate) as vsftpd:
            servers = {
                "cosgate": (rig.url, lambda: cpu(rig.front)),
                "vsftpd": (vsftpd.url, vsftpd.cpu),
            }
            for tls in ((), ("--ssl-reqd", "-k")):
                for verb in ("STOR", "RETR"):
                    _compare(rig, source, servers, verb, tls)


def _own_by_guest(rig):
    guest = pwd.getpwnam(GUEST)
    rig.dir.chmod(0o711)
    os.chown(rig.home(), guest.pw_uid, guest.pw_gid)


def _compare(rig, source, servers, verb, tls):
    figures = {name: [] for name in servers}
    for turn in range(ROUNDS):
        for name, (url, used) in servers.items():
            path = f"{name}{turn}{'-tls' if tls else ''}"
            words = ["-T", source, url(path)] if verb == "STOR" else ["-o", "/dev/null", url(path)]
            before, mount = used(), cpu(rig.mount)
            seconds = timed("curl", "-sS", *tls, *words)
            figures[name].append((seconds, used() - before, cpu(rig.mount) - mount))
    parts = []
    for name, runs in figures.items():
        seconds, front, mount = (statistics.median(column) for column in zip(*runs))
        gib = FILE_BYTES / (1 << 30)
        parts.append(f"{name} {FILE_BYTES / seconds / 1e6:.0f} MB/s, {FILE_BYTES / max(front, 0.01) / 1e6:.0f} MB per CPU s "
                     f"(server {front / gib:.2f}, mount {mount / gib:.2f} s/GiB)")
    print(f"  {verb}{' with TLS' if tls else ''}: " + "; ".join(parts))
