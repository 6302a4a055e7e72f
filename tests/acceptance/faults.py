"""Each request of an upload fails, in each way: what the client is told, and what stands in the bucket then."""

import collections
import concurrent.futures
import contextlib
import ftplib
import os
import random
import socket
import struct
import subprocess
import threading
import time
import urllib.request

from rig import COSGATE, MIB, Rig, check, free_port, scenario, until

WORKERS = 10
OLD = b"the old object"

# What an answer can be like; those that speak of checksums, only where an answer has one.
FAULTS = {
    "connection refused": {"kind": "refuse-connection", "milliseconds": 700},
    "reset before the body": {"kind": "reset-before"},
    "reset after the body": {"kind": "reset-after"},
    "500": {"kind": "status", "status": 500, "code": "InternalError"},
    "503 SlowDown": {"kind": "status", "status": 503, "code": "SlowDown"},
    "409 PathConflict": {"kind": "status", "status": 409, "code": "PathConflict"},
    "no answer": {"kind": "stall"},
    "200 with an error": {"kind": "error-in-200"},
    "empty 200": {"kind": "empty-200"},
    "answer lost": {"kind": "lost-answer"},
    "cut answer": {"kind": "cut-body"},
    "wrong CRC": {"kind": "wrong-crc"},
    "no CRC": {"kind": "no-crc"},
}
CHECKSUMS = ("wrong CRC", "no CRC")


class Store:
    """An embedded store of its own for each account, so that rows do not meet each other's faults."""

    def __init__(self, log, bucket):
        self.port, self.admin_port, self.bucket = free_port(), free_port(), bucket
        words = [COSGATE, "emulator", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}",
                 "--bucket", bucket]
        self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until(lambda: socket.create_connection(("127.0.0.1", self.admin_port), 1).close() or True, 10, "a store starts")

    admin = Rig.admin

    def objects(self):
        return {o["key"]: o for o in self.admin("GET", f"/objects?bucket={self.bucket}")}

    def uploads(self):
        return {u["key"]: u for u in self.admin("GET", "/uploads")}

    def calls(self):
        return {name: r["count"] for name, r in self.admin("GET", "/requests").items() if r["count"]}


class Client:
    """One FTP session, whose replies are looked at."""

    def __init__(self, rig, number):
        self.ftp = rig.ftp(number, timeout=90)
        self.ftp.voidcmd("TYPE I")

    def said(self, deed, *words, **named):
        try:
            return deed(*words, **named)
        except ftplib.Error as error:
            return str(error)
        except (OSError, EOFError) as error:
            return f"000 {error!r}"

    def ask(self, line):
        return self.said(self.ftp.sendcmd, line)

    def store(self, line, content, rest=None):
        def deed():
            with contextlib.closing(self.ftp.transfercmd(line, rest)) as data, contextlib.suppress(OSError):
                data.sendall(content)
            return self.ftp.voidresp()
        return self.said(deed)

    def broken(self, line, content):
        """An upload that its client aborts, without closing the data connection."""
        def deed():
            with contextlib.closing(self.ftp.transfercmd(line)) as data:
                with contextlib.suppress(OSError):
                    data.sendall(content)
                time.sleep(0.3)
                self.ftp.putline("ABOR")
                first = self.ftp.getmultiline()
                if first.startswith("426"):
                    self.ftp.getmultiline()
                return first
        return self.said(deed)

    def close(self):
        self.ftp.close()


def resumed(client, name, content, at):
    """Goes on as lftp would: from the size that is told, or from the start."""
    size = client.ask(f"SIZE {name}")
    at = int(size.split()[1]) if size.startswith("213") else 0
    if at >= len(content):
        return size
    return client.store(f"STOR {name}", content[at:], at or None)


def content(size):
    return random.Random(size).randbytes(size)


SMALL, LARGE, TAIL = content(200_000), content(5 * MIB + 12345), content(2 * MIB + 999)


class Deed:
    """What a client does, and what then stands there: `new`."""
    new, old, has_none = LARGE, OLD, True

    def before(self, client, name):
        pass

    def do(self, client, name):
        return client.store(f"STOR {name}", self.new)


class Small(Deed):
    new = SMALL


class Abort(Deed):
    """Broken over an object; without one, it is held, and then deleted."""
    new = None

    def do(self, client, name):
        first = client.broken(f"STOR {name}", LARGE[:3 * MIB])
        if self.has_old:
            return first
        # Waits until all that had come is held.
        client.ask(f"SIZE {name}")
        return client.ask(f"DELE {name}")


class Keep(Deed):
    """Breaks, and goes on: the fault is there all the time."""

    def do(self, client, name):
        client.broken(f"STOR {name}", LARGE[:4 * MIB])
        return resumed(client, name, LARGE, 0)


class Resume(Deed):
    """Goes on with what was held before the fault."""
    has_old_variant = False

    def before(self, client, name):
        client.broken(f"STOR {name}", LARGE[:4 * MIB])

    def do(self, client, name):
        return resumed(client, name, LARGE, 0)


class Append(Deed):
    old, new, has_none = LARGE, LARGE + TAIL, False

    def do(self, client, name):
        return client.store(f"APPE {name}", TAIL)


class AppendSmall(Deed):
    old, new, has_none = SMALL, SMALL + b"and more", False

    def do(self, client, name):
        return client.store(f"APPE {name}", b"and more")


# Request, deed, operation, whose key, places.
NOTE = ".cosgate/uploads/"
ALL, ONE = ("first", "middle", "last"), ("first",)
ROWS = [
    ("PutObject", Small, "PutObject", "", ONE),
    ("InitiateMultipartUpload", Deed, "InitiateMultipartUpload", "", ONE),
    ("UploadPart", Deed, "UploadPart", "", ALL),
    ("CompleteMultipartUpload", Deed, "CompleteMultipartUpload", "", ONE),
    ("AbortMultipartUpload", Abort, "AbortMultipartUpload", "", ONE),
    ("ListObjects (the name)", Small, "ListObjects", None, ONE),
    ("HeadObject (keep, SIZE)", Keep, "HeadObject", "", ALL),
    ("ListParts (go on)", Resume, "ListParts", "", ONE),
    ("note PUT (begin)", Deed, "PutObject", NOTE, ONE),
    ("note PUT (keep, go on)", Keep, "PutObject", NOTE, ALL),
    ("note HEAD (go on)", Resume, "HeadObject", NOTE, ALL),
    ("note GET (go on)", Resume, "GetObject", NOTE, ONE),
    ("note DELETE", Deed, "DeleteObject", NOTE, ONE),
    ("APPE: UploadPartCopy", Append, "UploadPartCopy", "", ALL),
    ("APPE: UploadPart", Append, "UploadPart", "", ALL),
    ("APPE: HeadObject", Append, "HeadObject", "", ALL),
    ("APPE: CompleteMultipartUpload", Append, "CompleteMultipartUpload", "", ONE),
    ("APPE, small: GetObject", AppendSmall, "GetObject", "", ONE),
    ("APPE, small: PutObject", AppendSmall, "PutObject", "", ONE),
]
HAVE_CHECKSUM = ("PutObject", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "HeadObject", "GetObject")


class Row:
    """One line of work: a request that fails in one way, at one place, once or for ever, with an old object or none."""

    def __init__(self, number, request, fault, place, has_old, forever):
        self.number, self.request, self.fault, self.place = number, request, fault, place
        self.has_old, self.forever = has_old, forever
        self.title, kind, self.operation, self.whose, _ = request
        self.deed = kind()
        self.deed.has_old = has_old
        self.name = f"r{number}"

    def run(self, rig, store, worker, count):
        self.store = store
        client = Client(rig, worker)
        deed, begun = self.deed, time.monotonic()
        if self.has_old:
            reply = client.store(f"STOR {self.name}", deed.old)
            check(reply.startswith("226"), f"before {self}: {reply}")
        deed.before(client, self.name)
        skip = {"first": 0, "middle": count // 2, "last": count - 1}[self.place]
        fault = FAULTS[self.fault] | {"operation": self.operation, "skip": skip, "times": None if self.forever else 1}
        if self.whose is not None:
            fault["key"] = self.whose + self.name
        if fault["kind"] == "stall" and not self.forever:
            fault["milliseconds"] = 0
        store.admin("POST", "/faults", fault)
        try:
            self.reply = deed.do(client, self.name)
            self.now = store.objects().get(self.name)
        finally:
            until(lambda: store.admin("DELETE", "/faults") is not None, 20, "no faults any more")
        self.seconds = time.monotonic() - begun
        client.close()
        if os.environ.get("MATRIX"):
            print(f"  {self}: {self.reply!r} {self.seconds:.1f} s", flush=True)

    def judge(self, sums, objects, uploads):
        """What stands in the bucket at last, and what is wrong about it."""
        wrong, stands = [], []
        for when, found in (("at the reply", self.now), ("at last", objects.get(self.name))):
            what = "none" if found is None else sums.get((found["size"], found["crc64"]), "WRONG")
            is_old = found is not None and self.has_old and (found["size"], found["crc64"]) == sums[self.deed.old]
            is_new = found is not None and self.deed.new is not None and (found["size"], found["crc64"]) == sums[self.deed.new]
            what = "none" if found is None else "new" if is_new else "old" if is_old else "WRONG"
            stands.append(what)
            if self.reply.startswith("226") and what != "new" and self.deed.new is not None:
                wrong.append(f"226, but {what} {when}")
            if not self.reply.startswith("226") and what not in ("new", "old" if self.has_old else "none"):
                wrong.append(f"{self.reply[:3]}, but {what} {when}")
        self.stands = stands[1]
        upload, note = uploads.get(self.name), NOTE + self.name in objects
        self.left = ""
        if upload:
            is_held = note and objects.get(self.name) is None
            # An answer to Initiate that was lost leaves an upload that nobody knows the ID of.
            is_unknown = "Initiate" in self.operation and upload["parts"] == 0
            self.left = "held" if is_held else "empty upload" if is_unknown else "UPLOAD"
            if self.left == "UPLOAD":
                wrong.append(f"an upload of {upload['parts']} parts is left open")
        elif note:
            self.left = "NOTE"
            wrong.append("a note of no upload is left")
        self.wrong = wrong

    def __str__(self):
        times = "for ever" if self.forever else "once"
        return f"{self.title}, {self.fault}, {self.place}, {times}, {'over an old object' if self.has_old else 'new'} ({self.name})"


def plan(filter_by, counts):
    rows = []
    for request in ROWS:
        title, deed, operation, whose, places = request
        for fault in FAULTS:
            if fault in CHECKSUMS and operation not in HAVE_CHECKSUM:
                continue
            if filter_by and filter_by not in f"{title}/{fault}":
                continue
            for place in places[:1] if counts[title] == 1 else places[::2] if counts[title] == 2 else places:
                for has_old in (False, True):
                    if has_old and deed is Resume or not has_old and not deed.has_none:
                        continue
                    for forever in (False, True):
                        rows.append(Row(len(rows), request, fault, place, has_old, forever))
    return rows


def settled(stores):
    """Nothing is open but what is held."""
    for store in stores:
        objects, uploads = store.objects(), store.uploads()
        notes = {key.removeprefix(NOTE) for key in objects if key.startswith(NOTE)}
        held = {key for key in uploads if key in notes and key not in objects}
        if any(u["parts"] for key, u in uploads.items() if key not in held) or notes - held:
            return False
    return True


@scenario
def fault_matrix():
    """Every request of an upload x every fault x place x old object or none x once or for ever; MATRIX=text runs the rows whose `request/fault` has it."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open("/dev/null", "wb"))
        stores = []
        for n in range(WORKERS):
            stores.append(Store(log, f"bucket{n}-1250000000"))
            stack.callback(stores[n].process.wait)
            stack.callback(stores[n].process.terminate)
        accounts = [{"cos_endpoint": f"127.0.0.1:{store.port}", "resume_window": "24h"} for store in stores]
        rig = Rig(accounts=accounts, extra="store_timeout = 3\nmin_part_size = 1M\nmemory_limit = 256M\nattr_ttl = 0")
        stack.enter_context(rig)
        sums, counts = {}, {}
        measure(rig, stores[0], sums, counts)
        rows = plan(os.environ.get("MATRIX"), counts)
        print(f"  {len(rows)} rows; requests without a fault: "
              + ", ".join(f"{title} {count}" for title, count in counts.items()))
        order = list(rows)
        random.Random(1).shuffle(order)
        free = list(range(WORKERS))

        def run(row):
            worker = free.pop()
            try:
                row.run(rig, stores[worker], worker, counts[row.title])
            finally:
                free.append(worker)

        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            for future in [pool.submit(run, row) for row in order]:
                future.result()
        ran = time.monotonic() - begun
        with contextlib.suppress(AssertionError):
            until(lambda: settled(stores), 150, "all is at rest")
        rested = time.monotonic() - begun - ran
        for store in stores:
            objects, uploads = store.objects(), store.uploads()
            for row in rows:
                if row.store is store:
                    row.judge(sums, objects, uploads)
    table(rows)
    slowest = sorted(rows, key=lambda row: -row.seconds)[:3]
    print(f"  {len(rows)} rows in {ran:.0f} s, at rest {rested:.0f} s later; slowest: "
          + "; ".join(f"{row} {row.seconds:.0f} s" for row in slowest))
    wrong = [row for row in rows if row.wrong]
    for row in wrong:
        print(f"  WRONG: {row}: {'; '.join(row.wrong)}; reply {row.reply!r}")
    check(not wrong, f"{len(wrong)} rows are wrong")


def measure(rig, store, sums, counts):
    """Each deed without a fault: how often it asks, and the checksums of what it makes."""
    for title, kind, operation, whose, _ in ROWS:
        client, name, deed = Client(rig, 0), f"m{len(counts)}", kind()
        deed.has_old = not kind.has_none
        if deed.has_old:
            check(client.store(f"STOR {name}", deed.old).startswith("226"), "the old object")
            sums[deed.old] = seen(store, name)
        deed.before(client, name)
        # The note of an upload is written, and removed, behind its client's back.
        time.sleep(0.3)
        counted = count(store, operation, whose, name)
        reply = deed.do(client, name)
        if deed.new is not None:
            check(reply.startswith("226"), f"{title} without a fault: {reply}")
            sums[deed.new] = seen(store, name)
        time.sleep(0.5)
        counts[title] = counted()
        check(counts[title], f"{title}: {operation} was not asked for: {reply}")
        client.close()
    client = Client(rig, 0)
    client.store("STOR old", OLD)
    sums[OLD] = seen(store, "old")
    client.close()


def count(store, operation, whose, name):
    """Counts matching requests by a fault that does nothing to them."""
    many = 1 << 40
    fault = {"operation": operation, "kind": "delay", "skip": many, "times": 1}
    if whose is not None:
        fault["key"] = whose + name
    number = store.admin("POST", "/faults", fault)["id"]

    def counted():
        left = next(f["skip"] for f in store.admin("GET", "/faults") if f["id"] == number)
        store.admin("DELETE", f"/faults/{number}")
        return many - left
    return counted


def seen(store, name):
    found = store.objects()[name]
    return found["size"], found["crc64"]


def table(rows):
    print("| Request | Fault | once: reply → object | for ever: reply → object | left open |")
    print("|---|---|---|---|---|")
    lines = collections.OrderedDict()
    for row in rows:
        lines.setdefault((row.title, row.fault), []).append(row)
    for (title, fault), of_line in lines.items():
        cells = []
        for forever in (False, True):
            seen_here = collections.Counter(f"{row.reply[:3]} → {row.stands}" for row in of_line if row.forever == forever)
            cells.append(", ".join(f"{what} ({n})" if n > 1 else what for what, n in sorted(seen_here.items())))
        left = collections.Counter(row.left for row in of_line if row.left)
        print(f"| {title} | {fault} | {cells[0]} | {cells[1]} | {', '.join(f'{what} ({n})' for what, n in sorted(left.items()))} |")
