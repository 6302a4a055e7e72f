"""Objects and uploads through boto3, and objects that cross between it and the vendor's own SDK."""

import datetime
import hashlib
import io
import tempfile
import unittest

from boto3.s3.transfer import TransferConfig

from s3_store import BUCKET, OTHER, REGION, STYLE, Case, admin, client
from test_objects import ODD_KEYS

MB = 1 << 20


class Objects(Case):
    def test_put_of_every_kind_of_body(self):
        body = self.bytes(300_000)
        self.assertEqual(self.put("bytes", body)["ETag"], '"%s"' % hashlib.md5(body).hexdigest())
        self.put("file", io.BytesIO(body))
        self.put("empty", b"")
        self.assertEqual((self.get("bytes"), self.get("file"), self.get("empty")), (body, body, b""))

    def test_checksums_of_every_kind(self):
        for algorithm in ["CRC32", "SHA1", "SHA256"]:
            answer = self.put("k", b"123456789", ChecksumAlgorithm=algorithm)
            self.assertTrue(answer["Checksum" + algorithm])
        known = {"CRC32": "y/Q5Jg==", "CRC32C": "4waSgw==", "CRC64NVME": "rosUhgp5mIg="}
        for algorithm, value in known.items():
            answer = self.put("k", b"123456789", **{"Checksum" + algorithm: value})
            self.assertEqual(answer["Checksum" + algorithm], value)
            self.refused(400, "BadDigest", self.put, "k", b"other", **{"Checksum" + algorithm: value})
        self.assertEqual(self.get("k", ChecksumMode="ENABLED"), b"123456789")
        self.refused(400, "BadDigest", self.put, "k", b"y", ContentMD5="CY9rzUYh03PK3k6DJie09g==")
        self.assertEqual(self.get("k"), b"123456789")

    def test_odd_keys(self):
        # boto3 folds dots away when the bucket stands in the path.
        keys = [key for key in ODD_KEYS if STYLE == "virtual" or not {"..", "."} & set(key.split("/"))]
        for key in keys:
            with self.subTest(key=key):
                body = key.encode()
                self.put(key, body)
                self.assertEqual(self.get(key), body)
                self.assertEqual(self.head(key)["ContentLength"], len(body))
        self.assertEqual(sorted(self.keys()), sorted(keys))
        listed = [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=BUCKET, EncodingType="url")["Contents"]]
        self.assertEqual(len(listed), len(keys))
        for key in keys:
            self.s3.delete_object(Bucket=BUCKET, Key=key)
        self.assertEqual(self.keys(), [])

    def test_head_tells_what_was_put(self):
        told = {
            "ContentType": "text/plain",
            "CacheControl": "no-cache",
            "ContentDisposition": 'attachment; filename="x"',
            "ContentEncoding": "identity",
            "ContentLanguage": "zh",
            "Metadata": {"color": "blue", "a-b": "c d"},
            "StorageClass": "STANDARD_IA",
        }
        self.put("k", b"0123456789", **told)
        head = self.head("k")
        self.assertEqual({name: head[name] for name in told}, told)
        self.assertEqual(head["ContentLength"], 10)
        age = datetime.datetime.now(datetime.timezone.utc) - head["LastModified"]
        self.assertLess(abs(age.total_seconds()), 60)
        names = head["ResponseMetadata"]["HTTPHeaders"]
        self.assertIn("x-amz-request-id", names)
        self.assertIn("x-cos-hash-crc64ecma", names)

    def test_ranges(self):
        body = self.bytes(5000)
        self.put("k", body)
        for header, first, last in [("bytes=10-99", 10, 99), ("bytes=4000-", 4000, 4999), ("bytes=-7", 4993, 4999)]:
            answer = self.s3.get_object(Bucket=BUCKET, Key="k", Range=header)
            self.assertEqual(answer["ContentRange"], "bytes %d-%d/5000" % (first, last))
            self.assertEqual(answer["Body"].read(), body[first : last + 1])
        self.refused(416, "InvalidRange", self.get, "k", Range="bytes=5000-")

    def test_conditions_of_reads(self):
        etag = self.put("k", b"x")["ETag"]
        modified = self.head("k")["LastModified"]
        self.assertEqual(self.get("k", IfMatch=etag), b"x")
        self.assertEqual(self.get("k", IfNoneMatch='"other"'), b"x")
        self.refused(412, "PreconditionFailed", self.get, "k", IfMatch='"other"')
        self.refused(304, "304", self.get, "k", IfNoneMatch=etag)
        self.refused(304, "304", self.get, "k", IfModifiedSince=modified)
        self.refused(412, "412", self.head, "k", IfMatch='"other"')
        long_ago = datetime.datetime(2020, 4, 10)
        self.refused(412, "PreconditionFailed", self.get, "k", IfUnmodifiedSince=long_ago)

    def test_conditions_of_writes(self):
        etag = self.put("k", b"first", IfNoneMatch="*")["ETag"]
        self.refused(412, "PreconditionFailed", self.put, "k", b"second", IfNoneMatch="*")
        self.refused(412, "PreconditionFailed", self.put, "k", b"second", IfMatch='"other"')
        self.refused(404, "NoSuchKey", self.put, "missing", b"second", IfMatch=etag)
        self.assertEqual(self.get("k"), b"first")
        self.put("k", b"second", IfMatch=etag)
        self.assertEqual(self.get("k"), b"second")

    def test_response_headers_can_be_overridden(self):
        self.put("k", b"x")
        answer = self.s3.get_object(Bucket=BUCKET, Key="k", ResponseContentType="text/html")
        self.assertEqual(answer["ContentType"], "text/html")

    def test_delete(self):
        self.put("k")
        for _ in range(2):
            self.s3.delete_object(Bucket=BUCKET, Key="k")
        self.refused(404, "NoSuchKey", self.get, "k")
        self.refused(404, "404", self.head, "k")

    def test_multiple_delete(self):
        keys = ["a", "b c+d", "中/文", "<&>"]
        for key in keys + ["kept"]:
            self.put(key)
        answer = self.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys + ["none"]]})
        self.assertEqual([entry["Key"] for entry in answer["Deleted"]], keys + ["none"])
        self.assertEqual(self.keys(), ["kept"])
        answer = self.s3.delete_objects(Bucket=BUCKET, Delete={"Quiet": True, "Objects": [{"Key": "kept"}]})
        self.assertNotIn("Deleted", answer)
        self.assertEqual(self.keys(), [])
        many = {"Objects": [{"Key": "k%d" % at} for at in range(1001)]}
        self.refused(400, "MalformedXML", self.s3.delete_objects, Bucket=BUCKET, Delete=many)

    def test_copy(self):
        body = self.bytes(100_000)
        source = {"Bucket": BUCKET, "Key": "source 中 +%"}
        etag = self.put(source["Key"], body, ContentType="text/plain", Metadata={"a": "1"})["ETag"]
        copied = self.s3.copy_object(Bucket=OTHER, Key="copy", CopySource=source)
        self.assertEqual(copied["CopyObjectResult"]["ETag"], etag)
        self.assertEqual(self.get("copy", OTHER), body)
        head = self.s3.head_object(Bucket=OTHER, Key="copy")
        self.assertEqual((head["ContentType"], head["Metadata"]), ("text/plain", {"a": "1"}))
        copy = self.s3.copy_object
        copy(Bucket=BUCKET, Key="new", CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"})
        self.assertEqual(self.head("new")["Metadata"], {"b": "2"})
        self.refused(400, "InvalidRequest", copy, Bucket=BUCKET, Key=source["Key"], CopySource=source)
        copy(Bucket=BUCKET, Key=source["Key"], CopySource=source, MetadataDirective="REPLACE", ContentType="x/y")
        self.assertEqual(self.head(source["Key"])["ContentType"], "x/y")
        failed = {"Bucket": BUCKET, "Key": "failed", "CopySource": source}
        self.refused(412, "PreconditionFailed", copy, CopySourceIfMatch='"other"', **failed)
        self.refused(404, "NoSuchKey", copy, **dict(failed, CopySource={"Bucket": BUCKET, "Key": "none"}))

    def test_tags(self):
        self.put("k", Tagging="a=1&b=2%20")
        self.assertEqual(self.s3.get_object(Bucket=BUCKET, Key="k")["TagCount"], 2)
        tagging = self.s3.get_object_tagging(Bucket=BUCKET, Key="k")["TagSet"]
        self.assertEqual(tagging, [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2 "}])
        self.s3.put_object_tagging(Bucket=BUCKET, Key="k", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
        self.assertEqual(
            self.s3.get_object_tagging(Bucket=BUCKET, Key="k")["TagSet"], [{"Key": "c", "Value": "3"}]
        )
        self.s3.delete_object_tagging(Bucket=BUCKET, Key="k")
        self.assertEqual(self.s3.get_object_tagging(Bucket=BUCKET, Key="k")["TagSet"], [])

    def test_errors_within_200_and_without(self):
        self.put("k")
        source = {"Bucket": BUCKET, "Key": "k"}
        admin("POST", "/faults", {"operation": "CopyObject", "kind": "error-in-200", "code": "InternalError"})
        self.refused(500, "InternalError", self.s3.copy_object, Bucket=BUCKET, Key="c", CopySource=source)
        admin("POST", "/faults", {"operation": "PutObject", "kind": "status", "status": 503, "code": "SlowDown"})
        self.refused(503, "SlowDown", self.put, "k")


class Multipart(Case):
    def begin(self, key="k", **more):
        return self.s3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]

    def part(self, upload, number, body, key="k", **more):
        return self.s3.upload_part(
            Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body, **more
        )["ETag"]

    def complete(self, upload, etags, key="k", **more):
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in etags]
        return self.s3.complete_multipart_upload(
            Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more
        )

    def test_parts_in_any_order_make_one_object(self):
        pieces = [self.bytes(MB), self.bytes(2 * MB), self.bytes(17)]
        upload = self.begin(Metadata={"a": "1"}, ContentType="text/plain")
        etags = {number: self.part(upload, number, pieces[number - 1]) for number in [3, 1, 2]}
        self.assertEqual(self.keys(), [])
        told = self.s3.list_parts(Bucket=BUCKET, Key="k", UploadId=upload)["Parts"]
        self.assertEqual([part["PartNumber"] for part in told], [1, 2, 3])
        self.assertEqual([part["Size"] for part in told], [len(piece) for piece in pieces])
        self.assertEqual([part["ETag"] for part in told], [etags[number] for number in [1, 2, 3]])
        done = self.complete(upload, sorted(etags.items()))
        self.assertRegex(done["ETag"], r'^"[0-9a-f]{32}-3"$')
        self.assertEqual(self.get("k"), b"".join(pieces))
        head = self.head("k")
        self.assertEqual((head["ContentType"], head["Metadata"]), ("text/plain", {"a": "1"}))
        self.refused(404, "NoSuchUpload", self.complete, upload, sorted(etags.items()))

    def test_completes_that_are_refused(self):
        upload = self.begin()
        one, two = self.part(upload, 1, b"small"), self.part(upload, 2, b"b" * MB)
        self.refused(400, "InvalidPartOrder", self.complete, upload, [(2, two), (1, one)])
        self.refused(400, "InvalidPart", self.complete, upload, [(1, two)])
        self.refused(400, "EntityTooSmall", self.complete, upload, [(1, one), (2, two)])
        self.put("k", b"first")
        last = [(1, one)]
        self.refused(412, "PreconditionFailed", self.complete, upload, last, IfNoneMatch="*")
        self.assertEqual(self.get("k"), b"first")
        self.refused(404, "NoSuchUpload", self.complete, "none", last)
        self.refused(400, "BadDigest", self.part, upload, 1, b"x", ChecksumCRC32="AAAAAA==")

    def test_abort(self):
        upload = self.begin()
        self.part(upload, 1, b"x")
        self.s3.abort_multipart_upload(Bucket=BUCKET, Key="k", UploadId=upload)
        self.assertEqual(admin("GET", "/uploads"), [])
        self.refused(404, "NoSuchUpload", self.part, upload, 1, b"x")

    def test_part_copies(self):
        body = self.bytes(3 * MB)
        self.put("source", body)
        upload, etags = self.begin(), []
        for number, (first, last) in enumerate([(0, MB - 1), (MB, 3 * MB - 2)], 1):
            answer = self.s3.upload_part_copy(
                Bucket=BUCKET,
                Key="k",
                PartNumber=number,
                UploadId=upload,
                CopySource={"Bucket": BUCKET, "Key": "source"},
                CopySourceRange="bytes=%d-%d" % (first, last),
            )
            etag = answer["CopyPartResult"]["ETag"]
            self.assertEqual(etag, '"%s"' % hashlib.md5(body[first : last + 1]).hexdigest())
            etags.append((number, etag))
        self.complete(upload, etags)
        self.assertEqual(self.get("k"), body[: 3 * MB - 1])

    def test_lists_have_pages(self):
        upload = self.begin()
        for number in range(1, 8):
            self.part(upload, number, b"%d" % number)
        pages = self.s3.get_paginator("list_parts").paginate(
            Bucket=BUCKET, Key="k", UploadId=upload, PaginationConfig={"PageSize": 3}
        )
        numbers = [[part["PartNumber"] for part in page["Parts"]] for page in pages]
        self.assertEqual(numbers, [[1, 2, 3], [4, 5, 6], [7]])
        begun = sorted([("k", upload)] + [(key, self.begin(key)) for key in ["a", "a", "b/1", "b/2", "中 文"]])
        pages = self.s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=BUCKET, PaginationConfig={"PageSize": 2}
        )
        listed = [(entry["Key"], entry["UploadId"]) for page in pages for entry in page["Uploads"]]
        self.assertEqual(listed, begun)
        page = self.s3.list_multipart_uploads(Bucket=BUCKET, Delimiter="/")
        self.assertEqual([group["Prefix"] for group in page["CommonPrefixes"]], ["b/"])

    def test_transfers_of_boto3(self):
        body = self.bytes(13 * MB + 12_345)
        config = TransferConfig(multipart_threshold=5 * MB, multipart_chunksize=5 * MB, max_concurrency=3)
        self.s3.upload_fileobj(io.BytesIO(body), BUCKET, "k", Config=config)
        self.assertRegex(self.head("k")["ETag"], '-3"$')
        with tempfile.TemporaryFile() as file:
            self.s3.download_fileobj(BUCKET, "k", file, Config=config)
            file.seek(0)
            self.assertEqual(file.read(), body)
        self.s3.copy({"Bucket": BUCKET, "Key": "k"}, OTHER, "copy", Config=config)
        self.assertEqual(self.get("copy", OTHER), body)
        self.assertEqual(admin("GET", "/uploads"), [])

    def test_bodies_need_not_be_signed(self):
        unsigned = client(s3={"payload_signing_enabled": False})
        unsigned.put_object(Bucket=BUCKET, Key="k", Body=b"body")
        self.assertEqual(self.get("k"), b"body")


class Crossing(Case):
    """One store, two dialects: what one client does, the other sees."""

    def test_objects_cross(self):
        body = self.bytes(100_000)
        metadata = {"x-cos-meta-color": "blue"}
        self.cos.put_object(
            Bucket=BUCKET, Key="by cos 中", Body=body, Metadata=metadata, ContentType="a/b", StorageClass="STANDARD_IA"
        )
        self.assertEqual(self.get("by cos 中"), body)
        head = self.head("by cos 中")
        self.assertEqual((head["Metadata"], head["ContentType"]), ({"color": "blue"}, "a/b"))
        self.assertEqual(head["StorageClass"], "STANDARD_IA")
        etag = self.put("by s3 中", body, Metadata={"color": "red"})["ETag"]
        told = self.cos.get_object(Bucket=BUCKET, Key="by s3 中")
        self.assertEqual(told["Body"].get_raw_stream().read(), body)
        self.assertEqual((told["x-cos-meta-color"], told["ETag"]), ("red", etag))
        self.assertEqual(told["x-cos-hash-crc64ecma"], self.head("by cos 中")["ResponseMetadata"]["HTTPHeaders"]["x-cos-hash-crc64ecma"])
        listed = {entry["Key"] for entry in self.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        self.assertEqual(listed, {entry["Key"] for entry in self.cos.list_objects(Bucket=BUCKET)["Contents"]})

    def test_uploads_cross(self):
        upload = self.cos.create_multipart_upload(Bucket=BUCKET, Key="k")["UploadId"]
        pieces = [self.bytes(MB), self.bytes(5)]
        one = self.s3.upload_part(Bucket=BUCKET, Key="k", UploadId=upload, PartNumber=1, Body=pieces[0])["ETag"]
        two = self.cos.upload_part(Bucket=BUCKET, Key="k", UploadId=upload, PartNumber=2, Body=pieces[1])["ETag"]
        told = self.cos.list_parts(Bucket=BUCKET, Key="k", UploadId=upload)["Part"]
        self.assertEqual([part["ETag"] for part in told], [one, two])
        parts = [{"PartNumber": 1, "ETag": one}, {"PartNumber": 2, "ETag": two}]
        self.s3.complete_multipart_upload(Bucket=BUCKET, Key="k", UploadId=upload, MultipartUpload={"Parts": parts})
        self.assertEqual(self.cos.get_object(Bucket=BUCKET, Key="k")["Body"].get_raw_stream().read(), b"".join(pieces))

    def test_copies_cross(self):
        self.put("source", b"body", Tagging="a=1")
        source = {"Bucket": BUCKET, "Key": "source", "Region": REGION}
        self.cos.copy_object(Bucket=BUCKET, Key="copy", CopySource=source)
        self.assertEqual(self.get("copy"), b"body")
        self.assertEqual(self.s3.get_object_tagging(Bucket=BUCKET, Key="copy")["TagSet"], [{"Key": "a", "Value": "1"}])


if __name__ == "__main__":
    unittest.main()
