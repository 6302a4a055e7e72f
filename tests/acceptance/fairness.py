"""Who shares the gateway gets a share of it: readers and writers at once, and transfers side by side."""

import os
import socket
import time

from load import pieces
from rig import MIB, Rig, check, scenario, side_by_side, status

SECONDS = int(os.environ.get("FAIRNESS_SECONDS", "120"))
FILE_BYTES = 64 * MIB


def store(client, name, size, end=None, moved=None):
    """Stores so many bytes, or less if `end` comes first; whether it was said to be there."""
    with client.transfercmd(f"STOR {name}") as data:
        for piece in pieces(0, size):
            view = memoryview(piece)
            while len(view):
                taken = data.send(view[:256 << 10])
                view = view[taken:]
                if moved:
                    moved(taken)
            if end and time.monotonic() >= end:
                break
        data.shutdown(socket.SHUT_WR)
    check(client.voidresp().startswith("226"), "stored")


def fetch(client, name, moved, end=None):
    """Reads a file; if `end` comes first, gives the transfer up, and the session with it."""
    buffer = bytearray(256 << 10)
    with client.transfercmd(f"RETR {name}") as data:
        while got := data.recv_into(buffer):
            moved(got)
            if end and time.monotonic() >= end:
                return
    check(client.voidresp().startswith("226"), "read")


@scenario
def fairness():
    """16 readers and 16 writers by FTP with memory_limit = 256 MiB for FAIRNESS_SECONDS (120): nobody starves, memory is bounded."""
    with Rig(emulator=["--fast-etag"], extra="memory_limit = 256M") as rig:
        for n in range(4):
            store(rig.ftp(), f"read{n}", FILE_BYTES)
        moved = {}
        end = time.monotonic() + SECONDS

        def count(who):
            moved[who] = 0

            def more(bytes_):
                moved[who] += bytes_
            return more

        def reader(n, more):
            client = rig.ftp(timeout=600)
            while time.monotonic() < end:
                fetch(client, f"read{n % 4}", more, end)

        def writer(n, more):
            client = rig.ftp(timeout=600)
            while time.monotonic() < end:
                store(client, f"write{n}", FILE_BYTES, end, more)
        jobs = [lambda n=n, more=count(("reader", n)): reader(n, more) for n in range(16)]
        jobs += [lambda n=n, more=count(("writer", n)): writer(n, more) for n in range(16)]
        failures = side_by_side(jobs)
        peaks = [status(pid, "VmHWM") // 1024 for pid in (rig.front, rig.mount)]
        shares = {}
        for kind in ("reader", "writer"):
            each = sorted(bytes_ / MIB for (who, _), bytes_ in moved.items() if who == kind)
            mean = sum(each) / len(each)
            shares[kind] = each[0] / mean
            print(f"  16 {kind}s: {sum(each) / SECONDS:.0f} MiB/s in all; slowest {each[0]:.0f}, mean {mean:.0f}, quickest {each[-1]:.0f} MiB; slowest / mean {shares[kind]:.2f}")
        print(f"  peak RSS front, mount {peaks} MiB; failures {failures[:2]}")
        check(not failures, "a transfer failed")
        check(min(shares.values()) >= 0.25, "somebody starves")
        check(sum(peaks) <= 356, "memory")


@scenario
def parallel():
    """4 and 16 STOR, then RETR, of PARALLEL_MIB (256) each at once: the slowest has half of the mean rate."""
    size = int(os.environ.get("PARALLEL_MIB", "256")) * MIB
    with Rig(data=True, emulator=["--fast-etag"]) as rig:
        shares = []
        for count in (4, 16):
            for verb in ("STOR", "RETR"):
                seconds = []

                def one(n, client, verb=verb, seconds=seconds):
                    begun = time.monotonic()
                    if verb == "STOR":
                        store(client, f"p{n}", size)
                    else:
                        fetch(client, f"p{n}", lambda _: None)
                    seconds.append(time.monotonic() - begun)
                clients = [rig.ftp(timeout=600) for _ in range(count)]
                failures = side_by_side([lambda n=n, c=c: one(n, c) for n, c in enumerate(clients)])
                check(not failures, f"a transfer failed: {failures[:2]}")
                rates = sorted(size / MIB / s for s in seconds)
                mean = sum(rates) / count
                shares.append(rates[0] / mean)
                print(f"  {count:2} x {verb}: {count * size / MIB / max(seconds):.0f} MiB/s in all; each {rates[0]:.0f} to {rates[-1]:.0f}, slowest / mean {shares[-1]:.2f}")
        peaks = [status(pid, "VmHWM") // 1024 for pid in (rig.front, rig.mount)]
        print(f"  peak RSS front, mount {peaks} MiB")
        check(min(shares) >= 0.5, "the slowest has less than half of the mean")
