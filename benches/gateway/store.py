"""The embedded store in a process of its own, and what the benchmark asks of it behind the gateways' backs."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from xml.sax.saxutils import escape

from rig import COSGATE, free_port, until

BUCKET = "bench-1250000000"
KEY_ID, SECRET = "emulator", "emulator-secret"
# A signature is made once per URL and must outlive the run.
VALID = "1600000000;4000000000"


class Store:
    """`cosgate emulator` with one bucket, in memory."""

    def __init__(self, log):
        self.port, self.admin_port = free_port(), free_port()
        words = [COSGATE, "emulator", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin_port}",
                 "--bucket", BUCKET, "--fast-etag"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
        self.connection = None
        until(lambda: socket.create_connection(("127.0.0.1", self.admin_port), 1).close() is None, 20, "the store listens")

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)

    # ---- the admin port

    def admin(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin_port}{path}", method=method, data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    @contextlib.contextmanager
    def paced(self, wire):
        """Latency in milliseconds and bytes per second of each connection, for as long as the block lasts."""
        self.admin("PUT", "/pace", {"latency_ms": wire[0], "per_connection_bandwidth": wire[1]})
        try:
            yield
        finally:
            # Where it is gone, that is told by whatever comes next; an interrupt must stay one.
            with contextlib.suppress(OSError):
                self.admin("PUT", "/pace", {})

    # ---- requests, signed as COS wants it (Request Signature), the bucket in the path

    def url(self, method, key, **parameters):
        """A presigned URL: whoever has it needs no key."""
        path = f"/{BUCKET}/{key}"
        text = f"{method.lower()}\n{path}\n\n\n"
        sign_key = hmac.new(SECRET.encode(), VALID.encode(), "sha1").hexdigest()
        digest = hashlib.sha1(text.encode()).hexdigest()
        signature = hmac.new(sign_key.encode(), f"sha1\n{VALID}\n{digest}\n".encode(), "sha1").hexdigest()
        fields = parameters | {
            "q-sign-algorithm": "sha1", "q-ak": KEY_ID, "q-sign-time": VALID, "q-key-time": VALID,
            "q-header-list": "", "q-url-param-list": "", "q-signature": signature,
        }
        return f"http://127.0.0.1:{self.port}{urllib.parse.quote(path)}?{urllib.parse.urlencode(fields)}"

    def ask(self, method, key, body=b"", headers=None, **parameters):
        """Status, headers and body of the answer."""
        target = self.url(method, key, **parameters).split(str(self.port), 1)[1]
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                self.connection.request(method, target, body, headers or {})
                answer = self.connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except (OSError, http.client.HTTPException):
                # The store may have closed a connection that was idle.
                self.connection.close()
                self.connection = None
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def done(self, method, key, body=b"", headers=None, **parameters):
        status, head, text = self.ask(method, key, body, headers, **parameters)
        if status // 100 != 2 or b"<Error>" in text:
            raise AssertionError(f"store: {method} {key}: {status} {text[:300]}")
        return head, text

    def seen(self, key):
        """Length and CRC-64 of an object, or None where there is none."""
        status, head, _ = self.ask("HEAD", key)
        if status != 200:
            return None
        return int(head["Content-Length"]), head["x-cos-hash-crc64ecma"]

    def copy(self, source, key):
        """Another name for the same bytes; the store moves none."""
        source = f"127.0.0.1/{BUCKET}/{urllib.parse.quote(source)}"
        self.done("PUT", key, headers={"x-cos-copy-source": source})

    def list(self, prefix):
        """Keys and sizes."""
        marker, found = "", {}
        while True:
            _, text = self.done("GET", "", prefix=prefix, marker=marker)
            text = text.decode()
            for entry in re.findall(r"<Contents>.*?</Contents>", text, re.S):
                key = re.search("<Key>(.*?)</Key>", entry)[1]
                found[key] = int(re.search("<Size>(.*?)</Size>", entry)[1])
            if "<IsTruncated>true" not in text:
                return found
            marker = re.search("<NextMarker>(.*?)</NextMarker>", text)[1]

    def remove(self, prefix):
        """Everything below a prefix; names of the benchmark need no escapes."""
        keys = list(self.list(prefix))
        for at in range(0, len(keys), 1000):
            objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys[at : at + 1000])
            body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
            digest = base64.b64encode(hashlib.md5(body).digest()).decode()
            self.done("POST", "", body, {"Content-MD5": digest}, delete="")

    def initiate(self, key):
        _, text = self.done("POST", key, uploads="")
        return re.search("<UploadId>(.*?)</UploadId>", text.decode())[1]

    def complete(self, key, upload, etags):
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n, etag in sorted(etags.items()))
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        self.done("POST", key, body, uploadId=upload)

    def wait_for(self, condition, seconds):
        """How long it took until the condition held; None where it never did."""
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            if condition():
                return time.monotonic() - begun
            time.sleep(0.1)
        return None
