"""Who may: signatures, clocks, tokens, presigned URLs, bodies that are signed in pieces; buckets and lists."""

import base64
import datetime
import unittest
import urllib.error
import urllib.request
import zlib

import botocore

from s3_store import BUCKET, OTHER, REGION, Case, Signed, admin, client, sha256

STREAMED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


def fetch(url, method="GET", data=None, headers=None):
    request = urllib.request.Request(url, method=method, data=data, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Access(Case):
    def test_wrong_secret(self):
        wrong = client(secret="wrong")
        self.refused(403, "SignatureDoesNotMatch", wrong.put_object, Bucket=BUCKET, Key="k", Body=b"x" * 100_000)
        self.refused(403, "SignatureDoesNotMatch", wrong.get_object, Bucket=BUCKET, Key="k")
        self.refused(403, "SignatureDoesNotMatch", wrong.list_objects_v2, Bucket=BUCKET)
        self.assertEqual(self.keys(), [])

    def test_unknown_id(self):
        self.refused(403, "InvalidAccessKeyId", client(key_id="nobody").list_objects_v2, Bucket=BUCKET)

    def test_older_signatures_are_refused(self):
        old = client(signature_version="s3")
        self.refused(400, "InvalidRequest", old.list_objects_v2, Bucket=BUCKET)

    def test_anonymous(self):
        self.put("private")
        self.put("public", ACL="public-read")
        anonymous = client(signature_version=botocore.UNSIGNED)
        self.refused(403, "AccessDenied", anonymous.get_object, Bucket=BUCKET, Key="private")
        self.refused(403, "AccessDenied", anonymous.put_object, Bucket=BUCKET, Key="k", Body=b"x")
        self.assertEqual(anonymous.get_object(Bucket=BUCKET, Key="public")["Body"].read(), b"content")

    def test_skewed_clocks(self):
        self.put("k")
        for hours in (-1, 1):
            fault = {"operation": "GetObject", "kind": "clock-skew", "milliseconds": hours * 3_600_000}
            admin("POST", "/faults", fault)
            self.refused(403, "RequestTimeTooSkewed", self.get, "k")
        self.assertEqual(self.get("k"), b"content")

    def test_tokens(self):
        good = client("temporary", "temporary-secret", "a token/with+signs==")
        good.put_object(Bucket=BUCKET, Key="k", Body=b"by token")
        self.assertEqual(self.get("k"), b"by token")
        bad = client("temporary", "temporary-secret", "another")
        self.refused(403, "InvalidToken", bad.get_object, Bucket=BUCKET, Key="k")
        without = client("temporary", "temporary-secret")
        self.refused(403, "InvalidToken", without.get_object, Bucket=BUCKET, Key="k")
        url = good.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "k"})
        self.assertEqual(fetch(url), (200, b"by token"))

    def test_presigned_urls(self):
        place = {"Bucket": BUCKET, "Key": "目录/a b+c%.txt"}
        url = self.s3.generate_presigned_url("put_object", place)
        self.assertEqual(fetch(url, "PUT", b"by url", {"Content-Type": "text/plain"})[0], 200)
        url = self.s3.generate_presigned_url("get_object", dict(place, ResponseContentType="x/y"))
        self.assertEqual(fetch(url), (200, b"by url"))
        status, body = fetch(url.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
        self.assertEqual((status, b"SignatureDoesNotMatch" in body), (403, True))
        status, body = fetch(url + "&prefix=more")
        self.assertEqual((status, b"SignatureDoesNotMatch" in body), (403, True))
        status, body = fetch(url, headers={"x-amz-acl": "public-read"})
        self.assertEqual((status, b"AccessDenied" in body), (403, True))
        fault = {"operation": "GetObject", "kind": "clock-skew", "milliseconds": 3_700_000}
        admin("POST", "/faults", fault)
        status, body = fetch(url)
        self.assertEqual((status, b"Request has expired" in body), (403, True))

    def test_all_headers_of_s3_must_be_signed(self):
        signed = Signed("PUT", "/k")
        signed.request.headers["x-amz-meta-a"] = "slipped in"
        status, body = signed.send(b"x")
        self.assertEqual((status, b"AccessDenied" in body), (403, True))
        self.assertEqual(self.keys(), [])


class Bodies(Case):
    """What a signature says about a body is true, or nothing is stored."""

    def wrong(self, code, signed, body):
        status, told = signed.send(body)
        self.assertIn(b"<Code>%s</Code>" % code.encode(), told)
        self.assertGreaterEqual(status, 400)
        self.assertEqual(self.keys(), [])

    def test_unsigned(self):
        self.assertEqual(Signed("PUT", "/k").send(b"anything")[0], 200)
        self.assertEqual(self.get("k"), b"anything")

    def test_digest(self):
        self.wrong("XAmzContentSHA256Mismatch", Signed("PUT", "/k", sha256=sha256(b"a")), b"b")
        self.wrong("XAmzContentSHA256Mismatch", Signed("PUT", "/k", sha256=sha256(b"a")), b"")
        self.assertEqual(Signed("PUT", "/k", sha256=sha256(b"a")).send(b"a")[0], 200)

    def test_checksums(self):
        headers = {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(b"a").to_bytes(4, "big")).decode()}
        self.wrong("BadDigest", Signed("PUT", "/k", headers), b"b")
        self.assertEqual(Signed("PUT", "/k", headers).send(b"a")[0], 200)

    def chunked(self, pieces, length=None, **headers):
        """A request whose chunks are signed, and its body."""
        sizes = str(sum(map(len, pieces)) if length is None else length)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.update({"content-encoding": "aws-chunked", "x-amz-decoded-content-length": sizes})
        kind = STREAMED + ("-TRAILER" if "x-amz-trailer" in headers else "")
        signed = Signed("PUT", "/k", headers, sha256=kind)
        body = b""
        for piece in [*pieces, b""]:
            signature = signed.next_signature("PAYLOAD", sha256(b""), sha256(piece))
            body += b"%x;chunk-signature=%s\r\n%s" % (len(piece), signature.encode(), piece)
            body += b"\r\n" if piece else b""
        return signed, body

    def test_signed_chunks(self):
        pieces = [self.bytes(65_536), self.bytes(300_001), self.bytes(1)]
        signed, body = self.chunked(pieces)
        self.assertEqual(signed.send(body + b"\r\n")[0], 200)
        self.assertEqual(self.get("k"), b"".join(pieces))
        self.assertNotIn("ContentEncoding", self.head("k"))
        signed, body = self.chunked([])
        self.assertEqual(signed.send(body + b"\r\n")[0], 200)
        self.assertEqual(self.get("k"), b"")

    def test_chunks_that_are_not_what_was_signed(self):
        pieces = [b"a" * 10_000, b"b" * 10_000]
        signed, body = self.chunked(pieces)
        self.wrong("SignatureDoesNotMatch", signed, body.replace(b"aaaa", b"aaab", 1) + b"\r\n")
        signed, body = self.chunked(pieces)
        self.wrong("SignatureDoesNotMatch", signed, body.replace(b"bbbb", b"bbbc", 1) + b"\r\n")
        signed, body = self.chunked(pieces)
        self.wrong("IncompleteBody", signed, body[: body.rindex(b"0;chunk-signature=")])
        signed, body = self.chunked(pieces)
        last = body.rindex(b"=")
        self.wrong("SignatureDoesNotMatch", signed, body[:last] + b"=%064d\r\n\r\n" % 0)
        signed, body = self.chunked(pieces, length=19_999)
        self.wrong("IncompleteBody", signed, body + b"\r\n")
        signed, body = self.chunked(pieces)
        self.wrong("InvalidRequest", signed, b"x" * 20_000)

    def test_chunks_with_trailers(self):
        for change in (None, "checksum", "signature"):
            signed, body = self.chunked([b"abc"], x_amz_trailer="x-amz-checksum-crc32")
            crc = zlib.crc32(b"abc" if change != "checksum" else b"other").to_bytes(4, "big")
            trailer = "x-amz-checksum-crc32:%s\n" % base64.b64encode(crc).decode()
            seal = signed.next_signature("TRAILER", sha256(trailer.encode()))
            seal = seal if change != "signature" else "0" * 64
            body += trailer.encode().replace(b"\n", b"\r\n") + b"x-amz-trailer-signature:%s\r\n\r\n" % seal.encode()
            if change is None:
                self.assertEqual(signed.send(body)[0], 200)
                self.assertEqual(self.get("k"), b"abc")
                self.s3.delete_object(Bucket=BUCKET, Key="k")
            else:
                self.wrong("SignatureDoesNotMatch" if change == "signature" else "BadDigest", signed, body)

    def test_unsigned_chunks_with_a_trailer(self):
        crc = base64.b64encode(zlib.crc32(b"abcdef").to_bytes(4, "big"))
        headers = {
            "content-encoding": "gzip,aws-chunked",
            "x-amz-decoded-content-length": "6",
            "x-amz-trailer": "x-amz-checksum-crc32",
        }
        unsigned = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        body = b"3\r\nabc\r\n3\r\ndef\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n"
        self.wrong("BadDigest", Signed("PUT", "/k", headers, unsigned), body.replace(b"def", b"xyz") % crc)
        self.wrong("InvalidRequest", Signed("PUT", "/k", headers, unsigned), b"6\r\nabcdef\r\n0\r\n\r\n")
        self.assertEqual(Signed("PUT", "/k", headers, unsigned).send(body % crc)[0], 200)
        self.assertEqual(self.get("k"), b"abcdef")
        self.assertEqual(self.head("k")["ContentEncoding"], "gzip")


class Buckets(Case):
    def test_service_lists_the_buckets(self):
        told = {bucket["Name"]: bucket for bucket in self.s3.list_buckets()["Buckets"]}
        self.assertLessEqual({BUCKET, OTHER}, told.keys())
        self.assertIsInstance(told[BUCKET]["CreationDate"], datetime.datetime)

    def test_bucket_of_its_own(self):
        name = "fresh-1250000000"
        self.refused(404, "NoSuchBucket", self.s3.list_objects_v2, Bucket=name)
        self.refused(404, "404", self.s3.head_bucket, Bucket=name)
        self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.s3.head_bucket(Bucket=name)
        self.s3.put_object(Bucket=name, Key="k", Body=b"x")
        self.refused(409, "BucketNotEmpty", self.s3.delete_bucket, Bucket=name)
        self.s3.delete_object(Bucket=name, Key="k")
        self.s3.delete_bucket(Bucket=name)

    def test_what_buckets_tell(self):
        self.assertEqual(self.s3.head_bucket(Bucket=BUCKET)["BucketRegion"], REGION)
        self.assertEqual(self.s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"], REGION)
        self.assertNotIn("Status", self.s3.get_bucket_versioning(Bucket=BUCKET))

    def test_what_is_not_there_is_not_implemented(self):
        self.put("k")
        self.refused(501, "NotImplemented", self.s3.get_bucket_policy, Bucket=BUCKET)
        self.refused(501, "NotImplemented", self.s3.get_object_acl, Bucket=BUCKET, Key="k")
        attributes = {"Bucket": BUCKET, "Key": "k", "ObjectAttributes": ["ETag"]}
        self.refused(501, "NotImplemented", self.s3.get_object_attributes, **attributes)


class Lists(Case):
    KEYS = ["a", "a b+c%", "dir/", "dir/1", "dir/2", "dir/sub/3", "dir0", "z<&>", "中/文", "中文", "😀"]

    def setUp(self):
        super().setUp()
        for key in self.KEYS:
            self.put(key, key.encode())

    def pages(self, operation, length, **query):
        pages = self.s3.get_paginator(operation).paginate(
            Bucket=BUCKET, PaginationConfig={"PageSize": length}, **query
        )
        keys, groups, count = [], [], 0
        for page in pages:
            count += 1
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            groups += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            if operation == "list_objects_v2":
                told = len(page.get("Contents", [])) + len(page.get("CommonPrefixes", []))
                self.assertEqual(page["KeyCount"], told)
        return keys, groups, count

    def test_pages_of_every_length(self):
        for operation in ["list_objects", "list_objects_v2"]:
            for length in [1, 2, 3, 5, 11, 1000]:
                with self.subTest(operation=operation, length=length):
                    keys, groups, count = self.pages(operation, length)
                    self.assertEqual((keys, groups), (self.KEYS, []))
                    self.assertEqual(count, -(-len(self.KEYS) // length))

    def test_groups(self):
        for operation in ["list_objects", "list_objects_v2"]:
            for length in [1, 2, 1000]:
                keys, groups, _ = self.pages(operation, length, Delimiter="/")
                self.assertEqual(keys, ["a", "a b+c%", "dir0", "z<&>", "中文", "😀"])
                self.assertEqual(groups, ["dir/", "中/"])
                keys, groups, _ = self.pages(operation, length, Delimiter="/", Prefix="dir/")
                self.assertEqual((keys, groups), (["dir/", "dir/1", "dir/2"], ["dir/sub/"]))
            self.assertEqual(self.pages(operation, 1000, Prefix="dir", Delimiter="/s")[1], ["dir/s"])

    def test_second_version(self):
        page = self.s3.list_objects_v2(Bucket=BUCKET, StartAfter="dir0", MaxKeys=2)
        self.assertEqual([entry["Key"] for entry in page["Contents"]], ["z<&>", "中/文"])
        self.assertEqual((page["IsTruncated"], page["KeyCount"], page["StartAfter"]), (True, 2, "dir0"))
        self.assertNotIn("Owner", page["Contents"][0])
        page = self.s3.list_objects_v2(Bucket=BUCKET, FetchOwner=True, MaxKeys=1)
        self.assertEqual(page["Contents"][0]["Owner"]["ID"], "1250000000")
        list_objects = self.s3.list_objects_v2
        self.refused(400, "InvalidArgument", list_objects, Bucket=BUCKET, ContinuationToken="?")

    def test_entries_tell_what_heads_tell(self):
        for page in [self.s3.list_objects(Bucket=BUCKET), self.s3.list_objects_v2(Bucket=BUCKET)]:
            for entry in page["Contents"]:
                head = self.head(entry["Key"])
                self.assertEqual(entry["ETag"], head["ETag"])
                self.assertEqual(entry["Size"], head["ContentLength"])
                self.assertEqual(entry["LastModified"], head["LastModified"])

    def test_versions_of_a_bucket_without_versions(self):
        page = self.s3.list_object_versions(Bucket=BUCKET, Prefix="dir/", Delimiter="/", MaxKeys=2)
        self.assertTrue(page["IsTruncated"])
        self.assertEqual([version["Key"] for version in page["Versions"]], ["dir/", "dir/1"])


if __name__ == "__main__":
    unittest.main()
