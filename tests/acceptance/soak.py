"""Uploads that break at any moment and go on: SIGKILL of client, front, mount process or store."""

import contextlib
import os
import random
import signal
import subprocess
import time

from rig import MIB, Rig, check, random_file, scenario, sha256, until

VICTIMS = ["client", "front", "mount", "store"]
PART = 4 * MIB


# Parts that a mount process may have on their way.
FLYING = 4 * (os.cpu_count() or 1)


def bytes_sent(rig):
    """What COS was sent since the last kill of the store, in bodies of parts and objects."""
    requests = rig.admin("GET", "/requests")
    return sum(requests.get(name, {}).get("bytes_in", 0) for name in ("UploadPart", "PutObject"))


def put(rig, file, name):
    line = f"set net:max-retries 1; set net:timeout 10; set net:reconnect-interval-base 1; put -c {file} -o {name}; bye"
    return subprocess.Popen(["lftp", "-u", "user0,pass0", "-e", line, f"ftp://127.0.0.1:{rig.ftp_port}"],
                            stdin=subprocess.DEVNULL, stdout=rig.log, stderr=rig.log)


def kill(rig, victim, client):
    if victim == "client":
        client.kill()
    elif victim == "mount":
        os.kill(rig.mount, signal.SIGKILL)
    elif victim == "store":
        rig.store.kill()
        rig.store.wait()
        rig.start_store()
    else:
        rig.serve.kill()
        rig.serve.wait()
        rig.serve.stdout.close()
        # The mount process follows its parent.
        until(lambda: start(rig), 60, "the front starts again")


def start(rig):
    rig.start()
    return True


def finished(rig, file, name):
    """Until lftp says that it is stored."""
    for attempt in range(60):
        client = put(rig, file, name)
        if client.wait(300) == 0 and name in rig.objects():
            return attempt + 1
        time.sleep(1)
    raise AssertionError(f"{name}: not stored after 60 attempts")


@scenario
def resume():
    """RESUME_RUNS (default 8) uploads of RESUME_MIB (default 64), each with a SIGKILL at a random moment, resumed with lftp."""
    runs, size = int(os.environ.get("RESUME_RUNS", "8")), int(os.environ.get("RESUME_MIB", "64")) * MIB
    seed = int(os.environ.get("RESUME_SEED", str(random.randrange(1 << 32))))
    chance = random.Random(seed)
    print(f"  seed {seed}, {runs} runs of {size // MIB} MiB")
    account = {"resume_window": "24h", "max_upload_rate": f"{32 * MIB}"}
    with Rig(accounts=[account], data=True) as rig:
        source = random_file(rig.dir / "source", size)
        wanted, attempts = sha256(source), {victim: [] for victim in VICTIMS}
        for run in range(runs):
            victim, name = VICTIMS[run % len(VICTIMS)], f"f{run}"
            before = bytes_sent(rig)
            client = put(rig, source, name)
            time.sleep(chance.uniform(0.1, 0.95) * size / (32 * MIB))
            if client.poll() is None:
                # The store forgets its counters with its life.
                before -= bytes_sent(rig) if victim == "store" else 0
                kill(rig, victim, client)
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(120)
            if client.poll() is None:
                client.kill()
                client.wait()
            check(name not in rig.objects() or rig.objects()[name]["size"] == size, f"{name}: half an object is visible")
            attempts[victim].append(finished(rig, source, name))
            sent = bytes_sent(rig) - before
            again = PART if victim in ("client", "front") else (FLYING + 1) * PART
            check(sent <= 1.1 * size + again, f"{name} ({victim} killed): {sent} bytes sent for {size}")
            back = rig.dir / "back"
            with open(back, "wb") as file, contextlib.closing(rig.ftp()) as ftp:
                ftp.retrbinary(f"RETR {name}", file.write)
            check(sha256(back) == wanted, f"{name} ({victim} killed): other bytes came back")
        until(lambda: not rig.uploads(), 90, "no upload stays open")
        for victim, counts in attempts.items():
            print(f"  {victim} killed: {len(counts)} times whole, attempts {counts}")
