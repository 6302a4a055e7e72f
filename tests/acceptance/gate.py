"""Who gets in: what a crowd of idle sessions costs, and what abuse does to everybody else."""

import contextlib
import ftplib
import functools
import io
import os
import pathlib
import resource
import select
import socket
import statistics
import threading
import time

from rig import Rig, check, cpu, scenario, side_by_side, status, until

# Each scenario opens both ends of its sockets in this machine, the clients' in this process.
NOFILE = 20_000


def raise_nofile():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(NOFILE, hard), hard))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss(pid):
    """KiB."""
    return status(pid, "VmRSS")


def raw(rig, source="127.0.0.1", timeout=30):
    """A control connection, from any address of the loopback network."""
    return socket.create_connection(("127.0.0.1", rig.ftp_port), timeout, (source, 0))


def line(sock):
    """One line of a reply, empty at the end."""
    found = b""
    with contextlib.suppress(OSError):
        while not found.endswith(b"\n"):
            piece = sock.recv(1)
            if not piece:
                break
            found += piece
    return found.decode(errors="replace")


@scenario
def sessions():
    """1,000 sessions logged in, then 100 of them transferring: memory and CPU of front and mount."""
    raise_nofile()
    with Rig(extra="max_connection_num = 0") as rig:
        rig.ftp().quit()
        rig.ftp().storbinary("STOR seen", io.BytesIO(b"x" * (8 << 20)))
        time.sleep(0.5)
        pids = (rig.front, rig.mount)
        before, held = [rss(pid) for pid in pids], descriptors(rig.front)
        begun, used = time.monotonic(), cpu(rig.front)
        clients = [rig.ftp() for _ in range(1000)]
        seconds = time.monotonic() - begun
        idle = [rss(pid) for pid in pids]
        each = (sum(idle) - sum(before)) / 1000
        print(f"  1,000 logins in {seconds:.1f} s, {(cpu(rig.front) - used):.1f} s of CPU; RSS front {before[0]} -> {idle[0]} KiB, "
              f"mount {before[1]} -> {idle[1]} KiB: {each:.1f} KiB and {(descriptors(rig.front) - held) / 1000:.1f} descriptors a session")
        used = [cpu(pid) for pid in pids]
        time.sleep(3)
        print(f"  idle for 3 s: CPU front {cpu(pids[0]) - used[0]:.2f} s, mount {cpu(pids[1]) - used[1]:.2f} s")
        used, begun = [cpu(pid) for pid in pids], time.monotonic()

        def transfer(n):
            clients[n].storbinary(f"STOR f{n}", io.BytesIO(bytes(4 << 20)), blocksize=1 << 16)
            clients[n].retrbinary(f"RETR f{n}", lambda _: None, blocksize=1 << 16)
        failures = side_by_side([functools.partial(transfer, n) for n in range(100)])
        seconds = time.monotonic() - begun
        spent = [cpu(pid) - was for pid, was in zip(pids, used)]
        print(f"  100 of them, 4 MiB up and down each: {800 / seconds:.0f} MiB/s; CPU front {spent[0]:.1f}, mount {spent[1]:.1f} s; "
              f"peak RSS front {status(pids[0], 'VmHWM')}, mount {status(pids[1], 'VmHWM')} KiB")
        check(not failures, f"failures: {failures[:3]}")
        for client in clients[100:]:
            check(client.voidcmd("NOOP").startswith("200"), "an idle session is lost")
        for client in clients:
            client.close()
        until(lambda: descriptors(rig.front) <= held + 20, 20, "descriptors given back")
        check(each <= 64, f"{each:.1f} KiB a session")


class Neighbour:
    """Another user, who stores, lists and waits for nothing but his replies."""

    def __init__(self, rig):
        self.client = rig.ftp(1)
        self.rounds = {"STOR": [], "LIST": [], "NOOP": []}

    def work(self, until_done, least=15):
        """Milliseconds of each kind, the median."""
        for samples in self.rounds.values():
            samples.clear()
        while not until_done() or len(self.rounds["NOOP"]) < least:
            for kind, act in (("STOR", lambda: self.client.storbinary("STOR small", io.BytesIO(b"x" * 10_000))),
                              ("LIST", lambda: self.client.retrlines("LIST", lambda _: None)),
                              ("NOOP", lambda: self.client.voidcmd("NOOP"))):
                begun = time.monotonic()
                act()
                self.rounds[kind].append((time.monotonic() - begun) * 1000)
            time.sleep(0.02)
        return {kind: statistics.median(samples) for kind, samples in self.rounds.items()}


def wrong_passwords(rig):
    """10,000 from one address."""
    said = {}
    for _ in range(10_000):
        with raw(rig, "127.0.0.66") as sock:
            greeting = line(sock)
            if greeting.startswith("220"):
                sock.sendall(b"USER user0\r\n")
                line(sock)
                sock.sendall(b"PASS guess\r\n")
                greeting = line(sock)
            said[greeting[:3]] = said.get(greeting[:3], 0) + 1
    check(set(said) <= {"421", "530"} and said.get("530", 0) <= 5, f"replies {said}")
    return f"replies {said}"


def idle_crowd(rig):
    """5,000 connections that say nothing."""
    crowd = [raw(rig, f"127.0.1.{n % 250 + 1}") for n in range(5000)]
    held = descriptors(rig.front)
    time.sleep(1)
    told = 0
    for sock in crowd:
        told += line(sock).startswith("220")
        sock.close()
    check(told == 5000, f"{told} greeted")
    return f"{held} descriptors"


def long_lines(rig):
    """1 MB without an end, and with one; NUL, CR and Telnet in the middle."""
    with raw(rig, "127.0.0.67") as sock:
        line(sock)
        for _ in range(20):
            sock.sendall(b"STOR " + b"x" * 1_000_000 + b"\r\n")
            check(line(sock).startswith("500"), "a long line is taken")
        for text in (b"NOOP\0\r\n", b"NO\0OP\r\n", b"USER a\rPASS b\r\n", b"\xff\xf4\xff\xf2NOOP\r\n", b"SITE \xff\xff\r\n"):
            sock.sendall(text)
            check(line(sock)[:1] in "2345", "no reply")
        sock.sendall(b"y" * 20_000_000)
    return "20 + 5 lines"


def slow_loris(rig):
    """300 connections, a byte each half a second, until the time to log in is over."""
    crowd = [raw(rig, f"127.0.2.{n % 250 + 1}") for n in range(300)]
    begun, left = time.monotonic(), set(crowd)
    while left and time.monotonic() - begun < 20:
        for sock in list(left):
            try:
                sock.sendall(b"U")
            except OSError:
                left.discard(sock)
        readable = select.select(list(left), [], [], 0)[0] if len(left) < 500 else []
        for sock in readable:
            text = sock.recv(4096)
            if not text or b"421" in text:
                left.discard(sock)
        time.sleep(0.5)
    for sock in crowd:
        sock.close()
    check(not left, f"{len(left)} still open")
    return f"over after {time.monotonic() - begun:.1f} s"


def half_handshakes(rig):
    """300 TLS handshakes that stop half-way."""
    crowd = []
    for n in range(300):
        sock = raw(rig, f"127.0.3.{n % 250 + 1}")
        line(sock)
        sock.sendall(b"AUTH TLS\r\n")
        check(line(sock).startswith("234"), "no TLS")
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(n % 64))
        crowd.append(sock)
    time.sleep(1)
    for sock in crowd:
        sock.close()
    return "300 ClientHellos without an end"


def data_connections(rig):
    """Ports that nobody dials, that strangers dial, and bounces."""
    client = rig.ftp(0)
    for _ in range(100):
        host, port = client.makepasv()
        with contextlib.suppress(OSError):
            thief = socket.create_connection((host, port), 5, ("127.0.0.68", 0))
            thief.settimeout(5)
            stolen = b""
            with contextlib.suppress(OSError):
                stolen = thief.recv(10)
            check(stolen == b"", "a stranger reads")
            thief.close()
    for text in ("PORT 10,0,0,1,0,22", "PORT 127,0,0,1,0,22", "EPRT |1|192.0.2.1|2000|", "PORT 127,0,0,99,100,1"):
        with contextlib.suppress(ftplib.error_perm):
            raise AssertionError(f"{text}: {client.sendcmd(text)}")
    for path in ("../../etc/passwd", "/../../../etc/passwd", "//etc//passwd", "a/../../../../etc/shadow"):
        with contextlib.suppress(ftplib.error_perm):
            raise AssertionError(f"{path}: {client.sendcmd('SIZE ' + path)}")
    client.close()
    return "100 thefts, 4 bounces, 4 paths"


@scenario
def abuse():
    """Guessers, crowds, endless lines and bounces; another user's latency meanwhile, and what stays behind."""
    raise_nofile()
    with Rig(accounts=[{}, {}], certificate=True, network="login_timeout = 8s\n", extra="max_connection_num = 6000") as rig:
        neighbour = Neighbour(rig)
        neighbour.work(lambda: True)
        quiet_rss, quiet_descriptors = rss(rig.front), descriptors(rig.front)
        worst = 0
        for deed in (wrong_passwords, idle_crowd, long_lines, slow_loris, half_handshakes, data_connections):
            begun = time.monotonic()
            quiet = neighbour.work(lambda: time.monotonic() - begun > 2)
            outcome = []

            def perform():
                try:
                    outcome.append(deed(rig))
                except Exception as error:
                    outcome.append(error)
            thread = threading.Thread(target=perform)
            begun = time.monotonic()
            thread.start()
            loud = neighbour.work(lambda: not thread.is_alive())
            thread.join()
            # Half a millisecond is what the scheduler of a busy machine adds.
            ratios = {kind: loud[kind] / (quiet[kind] + 0.5) for kind in quiet}
            print(f"  {deed.__name__}: {outcome[0]}; {time.monotonic() - begun:.1f} s; neighbour's median ms "
                  + ", ".join(f"{kind} {quiet[kind]:.1f} -> {loud[kind]:.1f}" for kind in quiet), flush=True)
            check(not isinstance(outcome[0], Exception), f"{deed.__name__}: {outcome[0]}")
            worst = max(worst, *ratios.values())
        until(lambda: descriptors(rig.front) <= quiet_descriptors + 10, 30, "descriptors given back")
        time.sleep(1)
        print(f"  RSS of the front {quiet_rss} -> {rss(rig.front)} KiB (peak {status(rig.front, 'VmHWM')}), descriptors "
              f"{quiet_descriptors} -> {descriptors(rig.front)}; worst ratio {worst:.2f}")
        check(rss(rig.front) - quiet_rss < 64 * 1024, "memory stays behind")
        text = (pathlib.Path(rig.dir) / "log/cosgate-serve.log").read_text()
        check("guess" not in text and len(text) < 4 << 20, "the log holds a password, or is a flood")
        check(worst <= 2, f"latency x {worst:.2f}")
