"""Uploads that are large, many, or long at a standstill; files written in place; two gateways on one bucket."""

import functools
import os
import resource
import selectors
import signal
import socket
import subprocess
import threading
import time

from rig import MIB, Rig, check, cpu, random_file, scenario, sha256, shell, side_by_side, status, until

BLOCK = os.urandom(8 * MIB + 4099)


def pieces(start, size):
    """So many bytes of blocks that repeat, from `start` of the first one on; no copies."""
    at = start
    while size > 0:
        piece = memoryview(BLOCK)[at:at + size]
        yield piece
        size -= len(piece)
        at = 0


def stream(rig, name, size):
    """Stores so many bytes of blocks that repeat; seconds."""
    client = rig.ftp(timeout=600)
    begun = time.monotonic()
    with client.transfercmd(f"STOR {name}") as data:
        for piece in pieces(0, size):
            data.sendall(piece)
        # A reply before the end is a refusal.
        data.shutdown(socket.SHUT_WR)
    check(client.voidresp().startswith("226"), "stored")
    return time.monotonic() - begun


def is_back(rig, name, size):
    """Whether what comes back is what `stream` has sent."""
    client = rig.ftp(timeout=600)
    left, at = size, 0
    buffer = bytearray(len(BLOCK))
    with client.transfercmd(f"RETR {name}") as data:
        while got := data.recv_into(memoryview(buffer)[at:min(len(BLOCK), at + left)]):
            at, left = at + got, left - got
            if at == len(BLOCK) or left == 0:
                if buffer[:at] != BLOCK[:at]:
                    return False
                at = 0
            if left == 0:
                break
    return left == 0 and client.voidresp().startswith("226")


def peaks(rig):
    return [status(pid, "VmHWM") // 1024 for pid in (rig.front, rig.mount)]


@scenario
def ten_gigabytes():
    """10 GiB by STOR with memory_limit = 256 MiB beside 1 GiB: MB/s, CPU and memory; cost per byte must not grow."""
    with Rig(emulator=["--fast-etag"], extra="memory_limit = 256M") as rig:
        figures = {}
        for name, gib in (("one", 1), ("ten", 10), ("one", 1), ("one", 1)):
            pids = (rig.front, rig.mount)
            used = [cpu(pid) for pid in pids]
            seconds = stream(rig, name, gib << 30)
            spent = [(cpu(pid) - was) / gib for pid, was in zip(pids, used)]
            figures.setdefault(name, []).append(sum(spent))
            print(f"  {gib:2} GiB: {gib * 1074 / seconds:.0f} MB/s; CPU s/GiB front {spent[0]:.2f}, mount {spent[1]:.2f}; peak RSS {peaks(rig)} MiB")
        check(is_back(rig, "ten", 10 << 30), "another file came back")
        one = sorted(figures["one"])[1]
        ratio = figures["ten"][0] / one
        print(f"  CPU per byte of 10 GiB over that of 1 GiB: {ratio:.2f}; 10 GiB came back whole; peak RSS {peaks(rig)} MiB")
        check(sum(peaks(rig)) <= 356, "memory")
        check(ratio <= 1.1, "cost per byte grows")


@scenario
def thousand():
    """1,000 uploads of 20 MiB at once with memory_limit = 256 MiB, then 1,000 downloads: all finish; peak memory."""
    count = int(os.environ.get("THOUSAND", "1000"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    size = 20 * MIB
    threading.stack_size(256 << 10)
    with Rig(data=True, emulator=["--fast-etag"], extra="memory_limit = 256M\nmax_connection_num = 0") as rig:
        clients = [rig.ftp(timeout=3000) for _ in range(count)]

        def upload(n):
            with clients[n].transfercmd(f"STOR f{n}") as data:
                for piece in pieces(n, size):
                    data.sendall(piece)
                data.shutdown(socket.SHUT_WR)
            check(clients[n].voidresp().startswith("226"), "stored")

        all_at_once(rig, upload, count, size)
        objects = rig.objects()
        check(len(objects) == count and all(o["size"] == size for o in objects.values()), "all are there, and whole")
        check(not rig.uploads(), "an upload is open")
        download_all(rig, clients, size)
        # Sessions have their own memory: 64 KiB each is allowed.
        check(sum(peaks(rig)) <= 356 + count // 16, "memory")


def all_at_once(rig, job, count, size):
    """Does `job`, a transfer of `size` bytes, for each number below `count`, all at a time."""
    used, seconds = [], []
    start = threading.Barrier(count, action=lambda: used.extend(cpu(pid) for pid in (rig.front, rig.mount)))

    def run(n):
        start.wait()
        begun = time.monotonic()
        try:
            job(n)
        finally:
            seconds.append(time.monotonic() - begun)
    failures = side_by_side([functools.partial(run, n) for n in range(count)])
    tell(rig, job.__name__, size, seconds, used)
    check(not failures, f"{len(failures)} failed: {failures[:2]}")


def download_all(rig, clients, size):
    """Downloads what `pieces(n, size)` is, for each client of number n, all at a time. One thread: a thousand would wait for Python alone."""
    used = [cpu(pid) for pid in (rig.front, rig.mount)]
    buffer, seconds = bytearray(256 << 10), []
    begun = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for n, client in enumerate(clients):
            data = client.transfercmd(f"RETR f{n}")
            data.setblocking(False)
            # What is to come, and how far into its first piece it is.
            selector.register(data, selectors.EVENT_READ, [client, n, list(pieces(n, size)), 0])
        while selector.get_map():
            for key, _ in selector.select(timeout=600):
                client, n, expected, at = key.data
                wanted = len(expected[0]) - at if expected else 1
                got = key.fileobj.recv_into(buffer, min(wanted, len(buffer)))
                check(not got or (expected and buffer[:got] == expected[0][at:at + got]), f"f{n} is another file")
                if got == wanted:
                    expected.pop(0)
                    at = -got
                key.data[3] = at + got
                if not got:
                    check(not expected, f"f{n} ended early")
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    check(client.voidresp().startswith("226"), "read")
                    seconds.append(time.monotonic() - begun)
    tell(rig, "download", size, seconds, used)


def tell(rig, work, size, seconds, used):
    """What so many transfers of `size` took, and what the gateway had used before."""
    count, whole = len(seconds), max(seconds)
    spent = [cpu(pid) - was for pid, was in zip((rig.front, rig.mount), used)]
    print(f"  {count} x {size // MIB} MiB {work} in {whole:.0f} s, {count * size / whole / 1e6:.0f} MB/s; quickest {min(seconds):.0f} s; "
          f"CPU front {spent[0]:.0f}, mount {spent[1]:.0f} s; peak RSS front, mount {peaks(rig)} MiB", flush=True)


@scenario
def frozen_store():
    """The store stopped (SIGSTOP) for 30 s in the middle of an upload: the transfer finishes, and the client saw no error."""
    with Rig(emulator=["--fast-etag"]) as rig:
        source = random_file(rig.dir / "x.payload", 1024 * MIB)
        upload = subprocess.Popen(["curl", "-sS", "--limit-rate", "100M", "-T", str(source), rig.url("x")],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(3)
        rig.store.send_signal(signal.SIGSTOP)
        time.sleep(30)
        check(upload.poll() is None, f"the upload ended meanwhile: {upload.stderr.read() if upload.poll() is not None else ''}")
        rig.store.send_signal(signal.SIGCONT)
        begun = time.monotonic()
        said = upload.communicate(timeout=120)[1]
        check(upload.returncode == 0 and not said, f"curl ended {upload.returncode}: {said}")
        shell("curl", "-sS", "-o", rig.dir / "back", rig.url("x"))
        check(sha256(source) == sha256(rig.dir / "back"), "another file came back")
        check(not rig.uploads(), "an upload is open")
        print(f"  226 {time.monotonic() - begun:.1f} s after SIGCONT (with the way back); peak RSS {peaks(rig)} MiB")


@scenario
def two_gateways():
    """An upload that is broken at one gateway goes on at another one of the same bucket."""
    with Rig(accounts=[{"resume_window": "1h"}]) as one:
        two = Rig(accounts=[{"resume_window": "1h"}])
        two.store_port, two.admin_port, two.store = one.store_port, one.admin_port, one.store
        two.write_config()
        two.start()
        try:
            source = random_file(one.dir / "x.payload", 64 * MIB)
            for turn in range(5):
                name = f"x{turn}"
                client = one.ftp()
                data = client.transfercmd(f"STOR {name}")
                with open(source, "rb") as f:
                    data.sendall(f.read((10 + 9 * turn) * MIB))
                time.sleep(0.3)
                client.file.close()
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sock.close()
                data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                data.close()

                def size():
                    other = two.ftp()
                    other.voidcmd("TYPE I")
                    return other.size(name)
                took = until(lambda: size(), 30, "the other gateway knows of it")
                held = size()
                shell("lftp", "-c", f"set net:max-retries 2; open ftp://user0:pass0@127.0.0.1:{two.ftp_port}; put -c {source} -o {name}")
                check(sha256(two.home() / name) == sha256(source), "another file")
                print(f"  broken behind {10 + 9 * turn} MiB, {held / MIB:.1f} MiB held, known elsewhere after {took:.1f} s, resumed and whole")
            until(lambda: not one.uploads(), 30, "no upload is open")
        finally:
            two.stop()
            two.__exit__()


@scenario
def verified():
    """fio writes at random places, several jobs, and verifies what it reads back."""
    with Rig(accounts=[{}], extra="memory_limit = 256M\nattr_ttl = 1") as rig:
        size = os.environ.get("FIO_SIZE", "256M")
        for engine, block in (("psync", "64k"), ("psync", "4k"), ("mmap", "4k")):
            begun = time.monotonic()
            done = shell("fio", "--name=verify", f"--directory={rig.home()}", "--rw=randwrite", f"--bs={block}", f"--size={size}",
                         f"--ioengine={engine}", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--randrepeat=0", "--numjobs=2",
                         "--end_fsync=1", "--group_reporting", "--minimal", check_exit=False)
            check(done.returncode == 0, f"fio {engine} {block} ended {done.returncode}: {(done.stderr + done.stdout)[-600:]}")
            print(f"  {engine} {block}: 2 x {size} written at random and verified in {time.monotonic() - begun:.0f} s; peak RSS {peaks(rig)} MiB")
            for path in rig.home().glob("verify*"):
                path.unlink()
        check(not rig.uploads(), "an upload is open")
        check(sum(peaks(rig)) <= 356, "memory")
