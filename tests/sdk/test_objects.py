"""Objects: put, get, head, delete, conditions, copies, metadata, tags, appends."""

import hashlib
import os
import tempfile
import unittest

from store import BUCKET, FORM, OTHER, REGION, Case, admin

ODD_KEYS = [
    "plain",
    "with blank.txt",
    "plus+and%percent%20.txt",
    "中文/目录/文件 名.txt",
    "emoji 😀👍.bin",
    "quotes'\"<>&;=?#[]{}|^`\\.txt",
    "a/../b",
    "./dots/./x..",
    "double//slash",
    "ends/with/slash/",
    "tab\tnew\nline\x01\x1f",
    "~tilde-_.!*'()",
    "k" * 850,
    "中" * 283,
]


class Objects(Case):
    def test_put_of_every_kind_of_body(self):
        body = self.bytes(300_000)
        answer = self.put("bytes", body)
        self.assertEqual(answer["ETag"], '"%s"' % hashlib.md5(body).hexdigest())
        self.assertTrue(answer["x-cos-hash-crc64ecma"].isdigit())
        self.assertTrue(answer["x-cos-request-id"])
        self.put("text", "text 中文")
        with tempfile.TemporaryFile() as file:
            file.write(body)
            file.seek(0)
            self.put("file", file)
        with tempfile.TemporaryFile() as file:
            self.put("empty file", file)
        self.put("empty", b"")
        self.put("generator", (body[at : at + 7919] for at in range(0, len(body), 7919)))
        self.assertEqual(self.get("bytes"), body)
        self.assertEqual(self.get("text"), "text 中文".encode())
        self.assertEqual(self.get("file"), body)
        self.assertEqual(self.get("empty file"), b"")
        self.assertEqual(self.get("empty"), b"")
        self.assertEqual(self.get("generator"), body)

    def test_known_checksums(self):
        self.assertEqual(self.put("k", b"123456789")["x-cos-hash-crc64ecma"], "11051210869376104954")
        self.assertEqual(self.put("k", b"[Object Content]")["x-cos-hash-crc64ecma"], "16749565679157681890")
        self.assertEqual(self.put("k", b"")["x-cos-hash-crc64ecma"], "0")

    def test_odd_keys(self):
        for key in ODD_KEYS:
            with self.subTest(key=key):
                body = key.encode()
                self.put(key, body)
                self.assertEqual(self.get(key), body)
                self.assertEqual(int(self.cos.head_object(Bucket=BUCKET, Key=key)["Content-Length"]), len(body))
        self.assertEqual(sorted(self.keys()), sorted(ODD_KEYS))
        listed = self.cos.list_objects(Bucket=BUCKET)
        names = [entry["Key"] for entry in listed["Contents"]]
        self.assertEqual(names, sorted(ODD_KEYS, key=lambda key: key.encode()))
        for key in ODD_KEYS:
            self.cos.delete_object(Bucket=BUCKET, Key=key)
        self.assertEqual(self.keys(), [])

    def test_a_and_a_slash_are_two_objects(self):
        self.put("a", b"file")
        self.put("a/", b"")
        self.put("a/b", b"inside")
        self.cos.delete_object(Bucket=BUCKET, Key="a/")
        self.assertEqual(self.keys(), ["a", "a/b"])

    def test_head_tells_what_was_put(self):
        answer = self.put(
            "k",
            b"0123456789",
            ContentType="text/plain",
            CacheControl="no-cache",
            ContentDisposition='attachment; filename="x"',
            ContentEncoding="identity",
            ContentLanguage="zh",
            Expires="Wed, 21 Oct 2065 07:28:00 GMT",
            Metadata={"x-cos-meta-color": "blue", "x-cos-meta-a-b": "c d"},
            StorageClass="STANDARD_IA",
        )
        head = self.cos.head_object(Bucket=BUCKET, Key="k")
        self.assertEqual(head["Content-Length"], "10")
        self.assertEqual(head["ETag"], answer["ETag"])
        self.assertEqual(head["x-cos-hash-crc64ecma"], answer["x-cos-hash-crc64ecma"])
        self.assertEqual(head["Content-Type"], "text/plain")
        self.assertEqual(head["Cache-Control"], "no-cache")
        self.assertEqual(head["Content-Disposition"], 'attachment; filename="x"')
        self.assertEqual(head["Content-Encoding"], "identity")
        self.assertEqual(head["Content-Language"], "zh")
        self.assertEqual(head["Expires"], "Wed, 21 Oct 2065 07:28:00 GMT")
        self.assertEqual(head["x-cos-meta-color"], "blue")
        self.assertEqual(head["x-cos-meta-a-b"], "c d")
        self.assertEqual(head["x-cos-storage-class"], "STANDARD_IA")
        self.assertRegex(head["Last-Modified"], r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")
        self.put("plain")
        self.assertNotIn("x-cos-storage-class", self.cos.head_object(Bucket=BUCKET, Key="plain"))
        self.put("k", b"new")
        self.assertNotIn("x-cos-meta-color", self.cos.head_object(Bucket=BUCKET, Key="k"))

    def test_ranges(self):
        body = self.bytes(5000)
        self.put("k", body)
        for header, first, last in [
            ("bytes=0-0", 0, 0),
            ("bytes=10-99", 10, 99),
            ("bytes=4990-9999", 4990, 4999),
            ("bytes=4000-", 4000, 4999),
            ("bytes=-7", 4993, 4999),
        ]:
            answer = self.cos.get_object(Bucket=BUCKET, Key="k", Range=header)
            self.assertEqual(answer["Content-Range"], "bytes %d-%d/5000" % (first, last))
            self.assertEqual(answer["Content-Length"], str(last - first + 1))
            self.assertEqual(answer["Accept-Ranges"], "bytes")
            self.assertEqual(answer["Body"].get_raw_stream().read(), body[first : last + 1])
        self.refused(416, "InvalidRange", self.get, "k", Range="bytes=5000-")
        self.put("empty", b"")
        self.refused(416, "InvalidRange", self.get, "empty", Range="bytes=0-0")

    def test_conditions(self):
        etag = self.put("k", b"x")["ETag"]
        head = self.cos.head_object(Bucket=BUCKET, Key="k")
        self.assertEqual(self.get("k", IfMatch=etag), b"x")
        self.refused(412, "PreconditionFailed", self.get, "k", IfMatch='"other"')
        same = self.cos.get_object(Bucket=BUCKET, Key="k", IfNoneMatch=etag)
        self.assertEqual(same["Content-Length"], "0")
        self.assertEqual(same["ETag"], etag)
        self.assertEqual(self.get("k", IfNoneMatch='"other"'), b"x")
        since = self.cos.get_object(Bucket=BUCKET, Key="k", IfModifiedSince=head["Last-Modified"])
        self.assertEqual(since["Content-Length"], "0")
        long_ago = "Fri, 10 Apr 2020 09:35:05 GMT"
        self.refused(412, "PreconditionFailed", self.get, "k", IfUnmodifiedSince=long_ago)
        with self.assertRaises(Exception) as caught:
            self.cos.head_object(Bucket=BUCKET, Key="k", IfMatch='"other"')
        self.assertEqual(caught.exception.get_status_code(), 412)

    def test_response_headers_can_be_overridden(self):
        self.put("k", b"x")
        answer = self.cos.get_object(
            Bucket=BUCKET, Key="k", ResponseContentType="text/html", ResponseCacheControl="private"
        )
        self.assertEqual(answer["Content-Type"], "text/html")
        self.assertEqual(answer["Cache-Control"], "private")

    def test_delete(self):
        self.put("k")
        self.cos.delete_object(Bucket=BUCKET, Key="k")
        self.cos.delete_object(Bucket=BUCKET, Key="k")
        self.refused(404, "NoSuchKey", self.get, "k")
        self.refused(404, "NoSuchResource", self.cos.head_object, Bucket=BUCKET, Key="k")
        self.assertFalse(self.cos.object_exists(Bucket=BUCKET, Key="k"))

    def test_multiple_delete(self):
        keys = ["a", "b c+d", "中/文", "<&>"]
        for key in keys:
            self.put(key)
        self.put("kept")
        objects = {"Object": [{"Key": key} for key in keys + ["missing"]], "Quiet": "false"}
        answer = self.cos.delete_objects(Bucket=BUCKET, Delete=objects)
        self.assertEqual([entry["Key"] for entry in answer["Deleted"]], keys + ["missing"])
        self.assertEqual(self.keys(), ["kept"])
        self.put("again")
        answer = self.cos.delete_objects(Bucket=BUCKET, Delete={"Quiet": "true", "Object": [{"Key": "again"}]})
        self.assertFalse(answer and answer.get("Deleted"))
        many = {"Object": [{"Key": "k%d" % at} for at in range(1001)]}
        self.refused(400, "MalformedXML", self.cos.delete_objects, Bucket=BUCKET, Delete=many)

    def test_forbid_overwrite(self):
        forbid = {"x-cos-forbid-overwrite": "true"}
        self.put("k", b"first", Metadata=forbid)
        self.refused(409, "FileAlreadyExists", self.put, "k", b"second", Metadata=forbid)
        self.assertEqual(self.get("k"), b"first")
        self.put("k", b"third")
        self.assertEqual(self.get("k"), b"third")

    def test_checksums_of_the_client_are_checked(self):
        self.put("k", b"x" * 1000, EnableMD5=True)
        self.refused(400, "BadDigest", self.put, "k", b"y", ContentMD5="CY9rzUYh03PK3k6DJie09g==")
        self.refused(400, "InvalidDigest", self.put, "k", b"y", ContentMD5="nonsense")
        self.assertEqual(self.get("k"), b"x" * 1000)

    def test_limits(self):
        self.refused(400, "KeyTooLong", self.put, "k" * 851)
        self.refused(400, "EntityTooLarge", self.put, "k", b"x" * (17 << 20))
        self.refused(400, "MetadataTooLarge", self.put, "k", Metadata={"x-cos-meta-a": "x" * 2049})
        self.refused(400, "NotSupportedStorageClass", self.put, "k", StorageClass="GLACIER")
        self.assertEqual(self.keys(), [])

    def test_copy(self):
        body = self.bytes(100_000)
        self.put("source 中 +%", body, ContentType="text/plain", Metadata={"x-cos-meta-a": "1"})
        source = {"Bucket": BUCKET, "Key": "source 中 +%", "Region": REGION}
        copied = self.cos.copy_object(Bucket=BUCKET, Key="copy", CopySource=source)
        head = self.cos.head_object(Bucket=BUCKET, Key="copy")
        self.assertEqual(copied["ETag"], head["ETag"])
        self.assertEqual(copied["CRC64"], head["x-cos-hash-crc64ecma"])
        self.assertRegex(copied["LastModified"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual((head["Content-Type"], head["x-cos-meta-a"]), ("text/plain", "1"))
        self.assertEqual(self.get("copy"), body)
        self.cos.copy_object(
            Bucket=BUCKET,
            Key="copy",
            CopySource={"Bucket": BUCKET, "Key": "copy", "Region": REGION},
            CopyStatus="Replaced",
            Metadata={"x-cos-meta-b": "2"},
        )
        head = self.cos.head_object(Bucket=BUCKET, Key="copy")
        self.assertEqual(head["x-cos-meta-b"], "2")
        self.assertNotIn("x-cos-meta-a", head)
        self.assertEqual(self.get("copy"), body)

    def test_refused_copies(self):
        etag = self.put("k", b"x")["ETag"]
        source = {"Bucket": BUCKET, "Key": "k", "Region": REGION}
        copy = self.cos.copy_object
        missing = dict(source, Key="missing")
        self.refused(404, "NoSuchKey", copy, Bucket=BUCKET, Key="c", CopySource=missing)
        self.refused(404, "NoSuchBucket", copy, Bucket=BUCKET, Key="c", CopySource=dict(source, Bucket="no-1250000000"))
        self.refused(
            412, "PreconditionFailed", copy, Bucket=BUCKET, Key="c", CopySource=source, CopySourceIfMatch='"z"'
        )
        self.refused(
            412, "PreconditionFailed", copy, Bucket=BUCKET, Key="c", CopySource=source, CopySourceIfNoneMatch=etag
        )
        self.refused(400, "InvalidRequest", copy, Bucket=BUCKET, Key="k", CopySource=source)
        copy(Bucket=BUCKET, Key="c", CopySource=source, CopySourceIfMatch=etag)
        self.assertEqual(self.keys(), ["c", "k"])

    @unittest.skipIf(FORM == "domain", "one domain is one bucket")
    def test_copy_between_buckets(self):
        self.empty(OTHER)
        self.cos.put_object(Bucket=OTHER, Key="from", Body=b"elsewhere")
        source = {"Bucket": OTHER, "Key": "from", "Region": REGION}
        self.cos.copy_object(Bucket=BUCKET, Key="to", CopySource=source)
        self.assertEqual(self.get("to"), b"elsewhere")

    def test_tags(self):
        self.put("k")
        tagging = {"TagSet": {"Tag": [{"Key": "a", "Value": "1"}, {"Key": "中", "Value": "<&>"}]}}
        self.cos.put_object_tagging(Bucket=BUCKET, Key="k", Tagging=tagging)
        told = self.cos.get_object_tagging(Bucket=BUCKET, Key="k")
        self.assertEqual(told["TagSet"]["Tag"], tagging["TagSet"]["Tag"])
        self.cos.delete_object_tagging(Bucket=BUCKET, Key="k")
        self.refused(404, "NoSuchTagSet", self.cos.get_object_tagging, Bucket=BUCKET, Key="k")
        too_many = {"TagSet": {"Tag": [{"Key": "k%d" % at, "Value": "v"} for at in range(11)]}}
        self.refused(400, "InvalidTag", self.cos.put_object_tagging, Bucket=BUCKET, Key="k", Tagging=too_many)

    def test_append(self):
        pieces = [self.bytes(1000), b"", self.bytes(70_000)]
        position = 0
        for piece in pieces:
            answer = self.cos.append_object(Bucket=BUCKET, Key="log", Position=position, Data=piece)
            position += len(piece)
            self.assertEqual(answer["x-cos-next-append-position"], str(position))
        self.assertEqual(self.get("log"), b"".join(pieces))
        head = self.cos.head_object(Bucket=BUCKET, Key="log")
        self.assertEqual(head["x-cos-object-type"], "appendable")
        whole = self.put("whole", b"".join(pieces))
        self.assertEqual(head["x-cos-hash-crc64ecma"], whole["x-cos-hash-crc64ecma"])
        append = self.cos.append_object
        self.refused(409, "AppendPositionErr", append, Bucket=BUCKET, Key="log", Position=3, Data=b"x")
        self.refused(409, "ObjectNotAppendable", append, Bucket=BUCKET, Key="whole", Position=71_000, Data=b"x")
        self.refused(409, "AppendPositionErr", append, Bucket=BUCKET, Key="new", Position=5, Data=b"x")

    def test_archived_objects_are_read_after_a_restore(self):
        self.put("k", b"cold", StorageClass="ARCHIVE")
        self.assertEqual(self.cos.head_object(Bucket=BUCKET, Key="k")["x-cos-storage-class"], "ARCHIVE")
        self.refused(403, "InvalidObjectState", self.get, "k")
        self.cos.restore_object(
            Bucket=BUCKET, Key="k", RestoreRequest={"Days": 1, "CASJobParameters": {"Tier": "Standard"}}
        )
        self.assertEqual(self.get("k"), b"cold")

    def test_download_file_checks_the_checksum(self):
        body = self.bytes(3 << 20)
        self.put("k", body)
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "file")
            self.cos.download_file(Bucket=BUCKET, Key="k", DestFilePath=path, PartSize=1, EnableCRC=True)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), body)

    def test_lagging_list(self):
        self.put("old")
        admin("POST", "/faults", {"operation": "ListObjects", "kind": "list-lag", "times": 2})
        self.put("new")
        self.cos.delete_object(Bucket=BUCKET, Key="old")
        for _ in range(2):
            listed = self.cos.list_objects(Bucket=BUCKET)["Contents"]
            self.assertEqual([entry["Key"] for entry in listed], ["old"])
        listed = self.cos.list_objects(Bucket=BUCKET)["Contents"]
        self.assertEqual([entry["Key"] for entry in listed], ["new"])


if __name__ == "__main__":
    unittest.main()
