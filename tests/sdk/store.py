"""Clients of the store under test, pointed at it in the way STORE_FORM names, and its admin port."""

import json
import logging
import os
import random
import socket
import unittest
import urllib.request

from qcloud_cos import CosConfig, CosS3Client, CosServiceError

PORT = int(os.environ["STORE_PORT"])
ADMIN = "http://127.0.0.1:%s" % os.environ["STORE_ADMIN_PORT"]
FORM = os.environ["STORE_FORM"]
REGION = "ap-guangzhou"
BUCKET = "demo-1250000000"
OTHER = "other-1250000000"
HOST = "%s.cos.%s.myqcloud.com" % (BUCKET, REGION)

logging.getLogger("qcloud_cos").setLevel(logging.CRITICAL)
_resolve = socket.getaddrinfo


def _resolve_here(host, port, *rest, **more):
    """Every name is this machine, and its port 80 the store's: some calls of the SDK know no other."""
    return _resolve("127.0.0.1", PORT if port == 80 else port, *rest, **more)


socket.getaddrinfo = _resolve_here


def client(secret_id="emulator", secret_key="emulator-secret", form=None, **more):
    form = form or FORM
    if form == "proxy":
        more.setdefault("Proxies", {"http": "http://127.0.0.1:%d" % PORT})
        more.setdefault("Region", REGION)
    elif form == "endpoint":
        more.setdefault("Endpoint", "cos.%s.myqcloud.com:%d" % (REGION, PORT))
    elif form == "domain":
        # Every bucket request goes to one domain; the service has its own.
        more.setdefault("Domain", "%s:%d" % (HOST, PORT))
        more.setdefault("ServiceDomain", "service.cos.myqcloud.com:%d" % PORT)
        more.setdefault("Region", REGION)
    more.setdefault("Timeout", 30)
    return CosS3Client(CosConfig(SecretId=secret_id, SecretKey=secret_key, Scheme="http", **more), retry=1)


def admin(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ADMIN + path, data=data, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


class Case(unittest.TestCase):
    """A test with a client and an empty bucket of its own making."""

    maxDiff = None

    def setUp(self):
        self.cos = client()
        admin("DELETE", "/faults")
        self.addCleanup(admin, "DELETE", "/faults")
        self.random = random.Random(self.id())
        self.empty(BUCKET)

    def empty(self, bucket):
        whole = client(form="proxy")
        for entry in admin("GET", "/uploads"):
            if entry["bucket"] == bucket:
                whole.abort_multipart_upload(Bucket=bucket, Key=entry["key"], UploadId=entry["upload_id"])
        for entry in admin("GET", "/objects?bucket=" + bucket):
            whole.delete_object(Bucket=bucket, Key=entry["key"])

    def bytes(self, length):
        return self.random.randbytes(length)

    def put(self, key, body=b"content", **more):
        return self.cos.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def get(self, key, **more):
        return self.cos.get_object(Bucket=BUCKET, Key=key, **more)["Body"].get_raw_stream().read()

    def keys(self):
        return [entry["key"] for entry in admin("GET", "/objects?bucket=" + BUCKET)]

    def refused(self, status, code, call, *args, **more):
        with self.assertRaises(CosServiceError) as caught:
            call(*args, **more)
        error = caught.exception
        self.assertEqual((error.get_status_code(), error.get_error_code()), (status, code), error)
        self.assertTrue(error.get_request_id())
        self.assertTrue(error.get_trace_id())
        return error
