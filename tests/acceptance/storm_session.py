"""What a storm needs: content that tells whose it is, the store asked directly, and FTP by the line."""

import contextlib
import hashlib
import hmac
import http.client
import random
import re
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse

MIB = 1 << 20
HEAD = len(b"COSR ") + 16 + 1 + 16 + 1
LARGEST = 20 * MIB
BODIES = random.Random(0xC05).randbytes(LARGEST + 24 * MIB)
# What no reply and no end of a transfer takes longer than.
PATIENCE = 100


def record(number, size):
    """Content of `size` bytes that no other number has: its head tells both."""
    if size < HEAD:
        return b""
    begin = number * 104729 % (24 * MIB)
    return b"COSR %016x %016x\n" % (number, size) + BODIES[begin:begin + size - HEAD]


def head_at(data, at):
    found = re.match(rb"COSR ([0-9a-f]{16}) ([0-9a-f]{16})\n", data[at:at + HEAD])
    return found and (int(found[1], 16), int(found[2], 16))


class Torn(Exception):
    """Content that nobody has written as a whole."""


def records_in(data):
    """The numbers of the records that `data` is made of, whole and one behind the other.

    In front may lie the bare head of an older one: REST 39 and STOR make that.
    """
    numbers, at = [], 0
    while at < len(data):
        head = head_at(data, at)
        if head and data[at:at + head[1]] == record(*head):
            numbers.append(head[0])
            at += head[1]
        elif at == 0 and head and (len(data) == HEAD or head_at(data, HEAD)):
            at = HEAD
        else:
            raise Torn(f"{len(data)} bytes, whole records {numbers}, then at {at}: {data[at:at + HEAD]!r}")
    return numbers


class Fates:
    """What became of each record that was sent: only what ended well may ever be seen."""

    def __init__(self):
        self.lock, self.fate, self.ended = threading.Lock(), {}, {}

    def new(self, size):
        with self.lock:
            number = len(self.fate) + 1
            self.fate[number] = "open"
        return number, record(number, size)

    def ends(self, number, well):
        with self.lock:
            self.fate[number] = "stored" if well else "never"
            self.ended[number] = time.monotonic()

    def judge(self, data, where, asked):
        """Why `data`, which was asked for at `asked`, must not stand there, or None.

        What somebody has deleted right behind its publication may have been seen before its sender was told that it is gone.
        """
        try:
            numbers = records_in(data)
        except Torn as torn:
            return f"{where}: torn: {torn}"
        is_known = {n: self.ended.get(n, 0) <= asked for n in numbers}
        wrong = [n for n in numbers if self.fate.get(n, "unknown") not in ("open", "stored") and is_known[n]]
        return f"{where}: holds {wrong}, which did not end well" if wrong else None


class Touches:
    """Who works on which name, so that one can tell whether he was alone."""

    def __init__(self):
        self.lock, self.begun, self.active = threading.Lock(), {}, {}

    @contextlib.contextmanager
    def on(self, *names):
        """`*` is every name. Yields a function that tells whether nobody else has touched them so far."""
        mine = {}
        with self.lock:
            is_free = not (self.active.get("*", 0) or any(self.active.get(name, 0) for name in names))
            is_free = is_free and ("*" not in names or not any(self.active.values()))
            for name in names:
                self.begun[name] = mine[name] = self.begun.get(name, 0) + 1
                self.active[name] = self.active.get(name, 0) + 1
            everything = self.begun.get("*", 0)

        def alone():
            with self.lock:
                return is_free and self.begun.get("*", 0) == everything and all(self.begun[n] == mine[n] for n in names)
        try:
            yield alone
        finally:
            with self.lock:
                for name in names:
                    self.active[name] -= 1


class Store:
    """The store itself, asked by signed requests (COS: Request Signature) behind the gateway's back."""

    def __init__(self, rig):
        self.rig, self.local = rig, threading.local()

    def get(self, key):
        """The object's bytes, or None. Faults hit these requests too."""
        for attempt in range(20):
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, data = self.ask(key)
                # Some fail in the body of a success.
                if status == 200 and not data.startswith(b"<?xml"):
                    return data
                if status == 404:
                    return None
            self.local.wire = None
            time.sleep(0.1 * attempt)
        raise AssertionError(f"the store does not give {key}")

    def ask(self, key):
        path = f"/{self.rig.bucket()}/{key}"
        now = int(time.time())
        times = f"{now - 60};{now + 3600}"
        sha1 = lambda key, text: hmac.new(key.encode(), text.encode(), "sha1").hexdigest()
        line = hashlib.sha1(f"get\n{path}\n\n\n".encode()).hexdigest()
        signature = sha1(sha1("emulator-secret", times), f"sha1\n{times}\n{line}\n")
        words = {"Authorization": f"q-sign-algorithm=sha1&q-ak=emulator&q-sign-time={times}&q-key-time={times}"
                                  f"&q-header-list=&q-url-param-list=&q-signature={signature}"}
        if getattr(self.local, "wire", None) is None:
            self.local.wire = http.client.HTTPConnection("127.0.0.1", self.rig.store_port, timeout=30)
        self.local.wire.request("GET", urllib.parse.quote(path), headers=words)
        answer = self.local.wire.getresponse()
        return answer.status, answer.read()


class Strange(Exception):
    """What no client may meet: a hanging session, a reply too many, a connection that ends."""


class Reply(str):
    """One reply, all its lines."""
    code = property(lambda self: int(self[:3]))


def reset(wire):
    """Ends a connection by RST."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(wire, ssl.SSLSocket):
        socket.socket(fileno=wire.detach()).close()
    else:
        wire.close()


class Session:
    """One FTP session, whose replies are counted."""

    def __init__(self, rig, tls=False):
        self.port, self.buffer = rig.ftp_port, b""
        self.wire = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        self.context = None
        self.expect(self.reply(), 220)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.expect(self.ask("AUTH TLS"), 234)
            self.wire = context.wrap_socket(self.wire)
            self.context = context
        self.expect(self.ask("USER user0"), 331)
        self.expect(self.ask("PASS pass0"), 230)
        if tls:
            self.expect(self.ask("PBSZ 0"), 200)
            self.expect(self.ask("PROT P"), 200)
        self.expect(self.ask("TYPE I"), 200)

    @staticmethod
    def expect(reply, *codes):
        if reply.code not in codes:
            raise Strange(f"expected {codes}, got {reply!r}")
        return reply

    def line(self):
        while b"\n" not in self.buffer:
            try:
                got = self.wire.recv(65536)
            except TimeoutError:
                raise Strange(f"no reply within {PATIENCE} s") from None
            except OSError as error:
                raise Strange(f"the control connection broke: {error}") from None
            if not got:
                raise Strange("the control connection ended")
            self.buffer += got
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().rstrip("\r")

    def reply(self):
        lines = [self.line()]
        if lines[0][3:4] == "-":
            while not lines[-1].startswith(lines[0][:3] + " "):
                lines.append(self.line())
        if not re.match(r"[1-5]\d\d[ -]", lines[0]):
            raise Strange(f"no reply: {lines[0]!r}")
        return Reply("\n".join(lines))

    def say(self, line):
        """Nothing may have been said since the last reply."""
        self.wire.setblocking(False)
        try:
            stray = self.buffer or (select.select([self.wire], [], [], 0)[0] and self.wire.recv(4096))
            if stray is not False and stray != []:
                raise Strange(f"before {line!r} was said: {stray!r}")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self.wire.settimeout(PATIENCE)
        self.wire.sendall(line.encode() + b"\r\n")

    def ask(self, line):
        self.say(line)
        return self.reply()

    def passive(self):
        port = int(re.search(r"\|\|\|(\d+)\|", self.expect(self.ask("EPSV"), 229))[1])
        return socket.create_connection(("127.0.0.1", port), PATIENCE)

    def protected(self, data):
        return self.context.wrap_socket(data, session=self.wire.session) if self.context else data

    def open(self, line, rest=0, allo=None):
        """The data connection behind 1xx, or the refusal; and the first reply."""
        if allo is not None:
            self.expect(self.ask(f"ALLO {allo}"), 200, 202)
        data = self.passive()
        if rest:
            refused = self.ask(f"REST {rest}")
            if refused.code != 350:
                data.close()
                return None, refused
        first = self.ask(line)
        if first.code >= 200:
            data.close()
            return None, first
        return self.protected(data), first

    def store(self, line, content, rest=0, allo=None):
        """The first reply and the last."""
        data, first = self.open(line, rest, allo)
        if data is None:
            return first, first
        with data, contextlib.suppress(OSError):
            data.sendall(content)
            if self.context:
                data.unwrap()
        return first, self.reply()

    def store_broken(self, line, content, how, rest=0):
        """Sends a piece and then aborts, resets the data connection, or resets the control connection (None)."""
        data, first = self.open(line, rest)
        if data is None:
            return first
        with contextlib.suppress(OSError):
            data.sendall(content)
        time.sleep(random.random() * 0.2)
        if how == "cut":
            reset(self.wire)
            reset(data)
            return None
        if how == "reset":
            reset(data)
            return self.reply()
        self.wire.sendall(b"ABOR\r\n")
        last = self.reply()
        self.expect(self.reply(), 225, 226)
        data.close()
        return last

    def fetch(self, line, rest=0, until=None, how=None):
        """The bytes and the last reply; `until` so many bytes came: then aborted or closed."""
        data, first = self.open(line, rest)
        if data is None:
            return b"", first
        pieces, size = [], 0
        with data:
            while until is None or size < until:
                try:
                    piece = data.recv(1 << 18)
                except TimeoutError:
                    raise Strange(f"{line}: no byte within {PATIENCE} s") from None
                except OSError:
                    break
                if not piece:
                    break
                pieces.append(piece)
                size += len(piece)
            if how == "abort":
                self.wire.sendall(b"ABOR\r\n")
                last = self.reply()
                self.expect(self.reply(), 225, 226)
                return b"".join(pieces), last
        return b"".join(pieces), self.reply()

    def names(self, path):
        """What MLSD tells: name to facts, or None; and the last reply."""
        text, last = self.fetch(f"MLSD {path}")
        if last.code != 226:
            return None, last
        facts = {}
        for line in text.decode().splitlines():
            told, name = line.split(" ", 1)
            words = dict(fact.lower().split("=", 1) for fact in told.strip(";").split(";"))
            if words["type"] in ("file", "dir"):
                facts[name] = words
        return facts, last

    def end(self):
        self.expect(self.ask("QUIT"), 221)
        self.wire.close()
