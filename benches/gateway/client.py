"""The client of every measurement: FTP or HTTP over one connection, in a process of its own.

Not curl: 7.88 at times sleeps a second between two FTP transfers. Bytes go from a mapped file into the socket and from the
socket into one buffer, in large pieces, so the interpreter has no part in them. The control connection acknowledges at
once: a server that leaves Nagle's algorithm on (vsftpd) would otherwise wait 40 ms for each reply, and what is behind it could not
be seen.

Reads a job as JSON, says `ready`, waits for `go`, and tells seconds and CPU seconds as JSON.
"""

import json
import mmap
import resource
import socket
import sys
import time

PIECE = 1 << 20
SILENCE_MAX = 120


def connect(address):
    stream = socket.create_connection(tuple(address), SILENCE_MAX)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


class Lines:
    """What a server says, line by line and body by body."""

    def __init__(self, stream):
        self.stream, self.ahead = stream, bytearray()
        self.buffer = memoryview(bytearray(PIECE))

    def line(self):
        while (at := self.ahead.find(b"\n")) < 0:
            self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            piece = self.stream.recv(65_536)
            if not piece:
                raise ConnectionError("the server has hung up")
            self.ahead += piece
        line = bytes(self.ahead[:at]).rstrip(b"\r").decode()
        del self.ahead[: at + 1]
        return line

    def body(self, length, keep=None):
        """Takes `length` bytes; None = to the end of the connection. Tells how many came."""
        taken = 0
        if self.ahead:
            first = bytes(self.ahead) if length is None else bytes(self.ahead[:length])
            del self.ahead[: len(first)]
            taken = len(first)
            if keep:
                keep(first)
        while length is None or taken < length:
            want = PIECE if length is None else min(PIECE, length - taken)
            got = self.stream.recv_into(self.buffer, want)
            if got == 0:
                break
            taken += got
            if keep:
                keep(self.buffer[:got])
        if length is not None and taken < length:
            raise ConnectionError(f"{taken} of {length} bytes")
        return taken


def send_all(stream, view):
    for at in range(0, len(view), PIECE):
        stream.sendall(view[at : at + PIECE])


class Sources:
    """Files to be sent, mapped once."""

    def __init__(self):
        self.mapped = {}

    def view(self, path):
        if path not in self.mapped:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            # Its pages are there before the clock starts, as they are for a program that has just made the file.
            mapped.madvise(mmap.MADV_WILLNEED)
            self.mapped[path] = memoryview(mapped)
        return self.mapped[path]


class Ftp:
    def __init__(self, job):
        self.stream = connect(job["address"])
        self.host = job["address"][0]
        self.lines = Lines(self.stream)
        self.reply("220")
        self.say(f"USER {job['user']}", "331", "230")
        self.say(f"PASS {job['password']}", "230", "202")
        self.say("TYPE I", "200")

    def reply(self, *wanted):
        line = self.lines.line()
        if line[3:4] == "-":
            while not (last := self.lines.line()).startswith(line[:3] + " "):
                pass
            line = last
        if line[:3] not in wanted:
            raise RuntimeError(line)
        return line

    def say(self, command, *wanted):
        self.stream.sendall(command.encode() + b"\r\n")
        return self.reply(*wanted)

    def begin(self, command):
        port = int(self.say("EPSV", "229").rsplit("|", 2)[1])
        data = connect((self.host, port))
        self.say(command, "150", "125")
        return data

    def stor(self, path, view):
        data = self.begin(f"STOR {path}")
        send_all(data, view)
        data.close()
        self.reply("226", "250")
        return len(view)

    def retr(self, path, keep):
        data = self.begin(f"RETR {path}")
        taken = Lines(data).body(None, keep)
        data.close()
        self.reply("226", "250")
        return taken

    def list(self, path):
        pieces = []
        data = self.begin(f"LIST {path}")
        Lines(data).body(None, lambda piece: pieces.append(bytes(piece)))
        data.close()
        self.reply("226", "250")
        return b"".join(pieces).count(b"\n")

    def first_byte(self, path):
        """Seconds from RETR to the first byte of data. The rest is not waited for."""
        begun = time.monotonic()
        data = self.begin(f"RETR {path}")
        if not data.recv(1):
            raise RuntimeError("no byte")
        seconds = time.monotonic() - begun
        data.close()
        self.stream.close()
        return seconds


class Http:
    def __init__(self, job):
        self.host = "{}:{}".format(*job["address"])
        self.stream = connect(job["address"])
        self.lines = Lines(self.stream)

    def exchange(self, method, target, view, more=""):
        length = f"Content-Length: {len(view)}\r\n" if method == "PUT" else ""
        self.stream.sendall(f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\n{length}{more}\r\n".encode())
        send_all(self.stream, view)
        status, headers = self.lines.line(), {}
        while line := self.lines.line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if status.split()[1] not in ("200", "206"):
            raise RuntimeError(status)
        return headers

    def put(self, target, view):
        headers = self.exchange("PUT", target, view)
        self.lines.body(int(headers["content-length"]))
        return headers["etag"]

    def get(self, target, first=None, last=None, keep=None):
        more = "" if first is None else f"Range: bytes={first}-{last}\r\n"
        headers = self.exchange("GET", target, b"", more)
        return self.lines.body(int(headers["content-length"]), keep)


def run(job, sources):
    """One value for each deed: bytes, lines, seconds or an ETag."""
    session = {"ftp": Ftp, "http": Http}[job["protocol"]](job)
    told = []
    for name, *words in job["deeds"]:
        if name in ("stor", "put"):
            path, source, first, length = words
            view = sources.view(source)[first : first + length]
            told.append(getattr(session, name)(path, view))
        elif name in ("retr", "get") and isinstance(words[-1], str) and len(words) > 1:
            with open(words.pop(), "wb", buffering=0) as file:
                told.append(getattr(session, name)(*words, keep=file.write))
        elif name == "retr":
            told.append(session.retr(words[0], None))
        else:
            told.append(getattr(session, name)(*words))
    return told


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main():
    job, sources = json.loads(sys.stdin.readline()), Sources()
    for name, *words in job["deeds"]:
        if name in ("stor", "put"):
            sources.view(words[1])
    print("ready", flush=True)
    sys.stdin.readline()
    begun, before = time.monotonic(), cpu()
    told = run(job, sources)
    print(json.dumps({"seconds": time.monotonic() - begun, "cpu": cpu() - before, "told": told}), flush=True)


if __name__ == "__main__":
    main()
