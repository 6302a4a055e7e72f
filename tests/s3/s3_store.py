"""boto3's client of the store under test, in the style that S3_STYLE names, and requests signed by hand."""

import hashlib
import http.client
import os

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
from botocore.config import Config
from botocore.exceptions import ClientError

import store
from store import BUCKET, HOST, OTHER, PORT, REGION, admin

STYLE = os.environ["S3_STYLE"]
KEY_ID, SECRET = "emulator", "emulator-secret"


def client(key_id=KEY_ID, secret=SECRET, token=None, **config):
    # A name, not an address: only a name can carry the bucket in front.
    return boto3.session.Session().client(
        "s3",
        endpoint_url="http://s3.localhost:%d" % PORT,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        aws_session_token=token,
        region_name=REGION,
        config=Config(
            signature_version=config.pop("signature_version", "s3v4"),
            s3={"addressing_style": STYLE, **config.pop("s3", {})},
            retries={"max_attempts": 0},
            read_timeout=30,
            **config,
        ),
    )


class Signed:
    """A request with a signature of Version 4, which may say anything about the body."""

    def __init__(self, method, path, headers=None, sha256="UNSIGNED-PAYLOAD"):
        self.method, self.path = method, path
        url = "http://%s:%d%s" % (HOST, PORT, path)
        self.request = botocore.awsrequest.AWSRequest(method, url, headers=headers or {})
        self.request.headers["x-amz-content-sha256"] = sha256
        credentials = botocore.credentials.Credentials(KEY_ID, SECRET)
        self.auth = _Auth(credentials, "s3", REGION)
        self.auth.add_auth(self.request)
        self.signature = self.request.headers["Authorization"].rpartition("Signature=")[2]
        self.time = self.request.context["timestamp"]

    def next_signature(self, kind, *digests):
        """The signature of the next chunk, or of the trailers."""
        scope = self.auth.credential_scope(self.request)
        text = "\n".join(["AWS4-HMAC-SHA256-" + kind, self.time, scope, self.signature, *digests])
        self.signature = self.auth.signature(text, self.request)
        return self.signature

    def send(self, body=b""):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        headers = dict(self.request.headers.items(), Host="%s:%d" % (HOST, PORT))
        headers["Content-Length"] = str(len(body))
        connection.request(self.method, self.path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text


class _Auth(botocore.auth.S3SigV4Auth):
    """S3's signature, without a digest of its own making."""

    def payload(self, request):
        return request.headers["x-amz-content-sha256"]

    def _modify_request_before_signing(self, request):
        # The digest that stands there shall stay.
        botocore.auth.SigV4Auth._modify_request_before_signing(self, request)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Case(store.Case):
    """A test with both clients and two empty buckets."""

    def setUp(self):
        super().setUp()
        self.empty(OTHER)
        self.s3 = client()
        self.addCleanup(self.s3.close)

    def put(self, key, body=b"content", **more):
        return self.s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def get(self, key, bucket=BUCKET, **more):
        return self.s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()

    def head(self, key, **more):
        return self.s3.head_object(Bucket=BUCKET, Key=key, **more)

    def refused(self, status, code, call, *args, **more):
        with self.assertRaises(ClientError) as caught:
            call(*args, **more)
        told = caught.exception.response
        self.assertEqual((told["ResponseMetadata"]["HTTPStatusCode"], told["Error"]["Code"]), (status, code), told)
        self.assertTrue(told["ResponseMetadata"]["RequestId"])
        return told
