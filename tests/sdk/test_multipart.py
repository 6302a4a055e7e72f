"""Multipart uploads: by hand and by the SDK's own uploader, copies of parts, lists, refusals."""

import hashlib
import os
import tempfile
import time
import unittest

from qcloud_cos import CosServiceError

from store import BUCKET, REGION, Case, admin

MB = 1 << 20


class Multipart(Case):
    def begin(self, key="k", **more):
        return self.cos.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]

    def part(self, upload, number, body, key="k", **more):
        return self.cos.upload_part(
            Bucket=BUCKET, Key=key, Body=body, PartNumber=number, UploadId=upload, **more
        )["ETag"]

    def complete(self, upload, etags, key="k", **more):
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in etags]
        return self.cos.complete_multipart_upload(
            Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Part": parts}, **more
        )

    def test_parts_in_any_order_make_one_object(self):
        pieces = [self.bytes(MB), self.bytes(2 * MB), self.bytes(MB + 1), self.bytes(17)]
        upload = self.begin(Metadata={"x-cos-meta-a": "1"}, ContentType="text/plain")
        etags = {}
        for number in [3, 1, 4, 2]:
            etags[number] = self.part(upload, number, pieces[number - 1])
            self.assertEqual(etags[number], '"%s"' % hashlib.md5(pieces[number - 1]).hexdigest())
        self.assertEqual(self.keys(), [])
        told = self.cos.list_parts(Bucket=BUCKET, Key="k", UploadId=upload, EncodingType="url")
        self.assertEqual([part["PartNumber"] for part in told["Part"]], ["1", "2", "3", "4"])
        self.assertEqual([int(part["Size"]) for part in told["Part"]], [len(piece) for piece in pieces])
        done = self.complete(upload, sorted(etags.items()))
        self.assertRegex(done["ETag"], r'^"[0-9a-f]{32}-4"$')
        self.assertEqual(self.get("k"), b"".join(pieces))
        head = self.cos.head_object(Bucket=BUCKET, Key="k")
        self.assertEqual(head["ETag"], done["ETag"])
        self.assertEqual((head["Content-Type"], head["x-cos-meta-a"]), ("text/plain", "1"))
        whole = self.put("whole", b"".join(pieces))
        self.assertEqual(done["x-cos-hash-crc64ecma"], whole["x-cos-hash-crc64ecma"])
        self.refused(404, "NoSuchUpload", self.complete, upload, sorted(etags.items()))

    def test_same_parts_in_two_uploads_have_two_etags(self):
        body = self.bytes(100)
        etags = []
        for _ in range(2):
            upload = self.begin()
            etags.append(self.complete(upload, [(1, self.part(upload, 1, body))])["ETag"])
        self.assertNotEqual(*etags)

    def test_part_sent_again_replaces_the_first(self):
        upload = self.begin()
        self.part(upload, 1, b"first")
        etag = self.part(upload, 1, b"second")
        self.complete(upload, [(1, etag)])
        self.assertEqual(self.get("k"), b"second")

    def test_part_of_unknown_length(self):
        upload = self.begin()
        etag = self.part(upload, 1, (piece for piece in [b"a" * 70_000, b"b"]))
        self.complete(upload, [(1, etag)])
        self.assertEqual(self.get("k"), b"a" * 70_000 + b"b")

    def test_completes_that_are_refused(self):
        upload = self.begin()
        one, two = self.part(upload, 1, b"small"), self.part(upload, 2, b"b" * MB)
        self.part(upload, 4, b"d")
        complete = self.complete
        self.refused(400, "InvalidPartOrder", complete, upload, [(2, two), (1, one)])
        self.refused(400, "InvalidPartOrder", complete, upload, [(1, one), (1, one)])
        self.refused(400, "InvalidPart", complete, upload, [(1, two)])
        self.refused(400, "InvalidPart", complete, upload, [(1, one), (2, two), (3, one)])
        self.refused(400, "InvalidPart", complete, upload, [(1, one), (3, two)])
        self.refused(400, "InvalidPart", complete, upload, [(2, two)])
        self.refused(400, "EntityTooSmall", complete, upload, [(1, one), (2, two)])
        self.refused(404, "NoSuchUpload", complete, "1585130821" + "0" * 64, [(1, one)])
        self.refused(404, "NoSuchUpload", complete, upload, [(1, one)], key="other")
        self.refused(400, "MalformedXML", complete, upload, [])
        self.assertEqual(self.keys(), [])
        complete(upload, [(1, one)])
        self.assertEqual(self.get("k"), b"small")

    def test_parts_that_are_refused(self):
        upload = self.begin()
        self.refused(404, "NoSuchUpload", self.part, "unknown", 1, b"x")
        for number in [0, 10_001, "x"]:
            self.refused(400, "InvalidArgument", self.part, upload, number, b"x")
        self.part(upload, 10_000, b"x")
        self.refused(400, "EntityTooLarge", self.part, upload, 1, b"x" * (17 * MB))
        self.refused(400, "BadDigest", self.part, upload, 1, b"y", ContentMD5="CY9rzUYh03PK3k6DJie09g==")

    def test_abort(self):
        upload = self.begin()
        self.part(upload, 1, b"x")
        self.cos.abort_multipart_upload(Bucket=BUCKET, Key="k", UploadId=upload)
        self.assertEqual(admin("GET", "/uploads"), [])
        self.refused(404, "NoSuchUpload", self.part, upload, 1, b"x")
        abort = self.cos.abort_multipart_upload
        self.refused(404, "NoSuchUpload", abort, Bucket=BUCKET, Key="k", UploadId=upload)

    def test_forbid_overwrite_holds_to_the_end(self):
        forbid = {"x-cos-forbid-overwrite": "true"}
        upload = self.begin(Metadata=forbid)
        etag = self.part(upload, 1, b"late")
        self.put("k", b"first")
        complete = self.cos.complete_multipart_upload
        parts = {"Part": [{"PartNumber": 1, "ETag": etag}]}
        self.refused(
            409,
            "FileAlreadyExists",
            complete,
            Bucket=BUCKET,
            Key="k",
            UploadId=upload,
            MultipartUpload=parts,
            Metadata=forbid,
        )
        self.assertEqual(self.get("k"), b"first")
        self.refused(409, "FileAlreadyExists", self.begin, Metadata=forbid)

    def test_part_copies(self):
        body = self.bytes(3 * MB)
        self.put("source", body)
        upload = self.begin()
        source = {"Bucket": BUCKET, "Key": "source", "Region": REGION}
        etags = []
        for number, (first, last) in enumerate([(0, MB - 1), (MB, 3 * MB - 2), (5, 9)], 1):
            answer = self.cos.upload_part_copy(
                Bucket=BUCKET,
                Key="k",
                PartNumber=number,
                UploadId=upload,
                CopySource=source,
                CopySourceRange="bytes=%d-%d" % (first, last),
            )
            self.assertEqual(answer["ETag"], '"%s"' % hashlib.md5(body[first : last + 1]).hexdigest())
            etags.append((number, answer["ETag"]))
        done = self.complete(upload, etags)
        expected = body[:MB] + body[MB : 3 * MB - 1] + body[5:10]
        self.assertEqual(self.get("k"), expected)
        self.assertEqual(done["x-cos-hash-crc64ecma"], self.put("w", expected)["x-cos-hash-crc64ecma"])

    def test_part_copy_of_the_whole_and_refusals(self):
        etag = self.put("source", b"whole")["ETag"]
        upload = self.begin()
        source = {"Bucket": BUCKET, "Key": "source", "Region": REGION}
        copy = self.cos.upload_part_copy
        common = {"Bucket": BUCKET, "Key": "k", "PartNumber": 1, "UploadId": upload}
        self.refused(416, "InvalidRange", copy, CopySource=source, CopySourceRange="bytes=3-5", **common)
        self.refused(400, "InvalidArgument", copy, CopySource=source, CopySourceRange="3-4", **common)
        self.refused(404, "NoSuchKey", copy, CopySource=dict(source, Key="missing"), **common)
        self.refused(412, "PreconditionFailed", copy, CopySource=source, CopySourceIfMatch='"z"', **common)
        self.assertEqual(copy(CopySource=source, **common)["ETag"], etag)
        self.complete(upload, [(1, etag)])
        self.assertEqual(self.get("k"), b"whole")

    def test_lists_of_parts_have_pages(self):
        upload = self.begin()
        for number in range(1, 8):
            self.part(upload, number, b"%d" % number)
        marker, numbers = 0, []
        while True:
            page = self.cos.list_parts(
                Bucket=BUCKET, Key="k", UploadId=upload, MaxParts=3, PartNumberMarker=marker
            )
            numbers += [int(part["PartNumber"]) for part in page["Part"]]
            if page["IsTruncated"] == "false":
                break
            marker = page["NextPartNumberMarker"]
        self.assertEqual(numbers, list(range(1, 8)))
        self.refused(404, "NoSuchUpload", self.cos.list_parts, Bucket=BUCKET, Key="k", UploadId="none")

    def test_lists_of_uploads_have_pages(self):
        begun = sorted((key, self.begin(key)) for key in ["a", "a", "ab", "b/1", "b/2", "中 文"])
        marker, id_marker, listed = "", "", []
        while True:
            page = self.cos.list_multipart_uploads(
                Bucket=BUCKET, MaxUploads=2, KeyMarker=marker, UploadIdMarker=id_marker
            )
            listed += [(upload["Key"], upload["UploadId"]) for upload in page.get("Upload", [])]
            if page["IsTruncated"] == "false":
                break
            marker, id_marker = page["NextKeyMarker"], page["NextUploadIdMarker"]
        self.assertEqual(listed, sorted(begun, key=lambda entry: entry[0].encode()))
        page = self.cos.list_multipart_uploads(Bucket=BUCKET, Prefix="a")
        self.assertEqual([upload["Key"] for upload in page["Upload"]], ["a", "a", "ab"])
        page = self.cos.list_multipart_uploads(Bucket=BUCKET, Delimiter="/")
        self.assertEqual([group["Prefix"] for group in page["CommonPrefixes"]], ["b/"])

    def test_upload_file_and_resume(self):
        body = self.bytes(5 * MB + 12345)
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "file")
            with open(path, "wb") as file:
                file.write(body)
            # One part fails for good: the upload is left behind.
            admin(
                "POST",
                "/faults",
                {"operation": "UploadPart", "kind": "status", "status": 403, "code": "AccessDenied", "skip": 2},
            )
            with self.assertRaises(Exception):
                self.cos.upload_file(Bucket=BUCKET, Key="k", LocalFilePath=path, PartSize=1, MAXThread=1)
            left = admin("GET", "/uploads")
            self.assertEqual(len(left), 1)
            admin("DELETE", "/requests")
            self.cos.upload_file(Bucket=BUCKET, Key="k", LocalFilePath=path, PartSize=1, MAXThread=3, EnableMD5=True)
            sent = admin("GET", "/requests")
            self.assertEqual(sent["InitiateMultipartUpload"]["count"], 0)
            self.assertEqual(sent["UploadPart"]["count"], 6 - left[0]["parts"])
        self.assertEqual(self.get("k"), body)
        self.assertEqual(admin("GET", "/uploads"), [])

    def test_copy_of_the_sdk_in_parts(self):
        body = self.bytes(12 * MB)
        self.put("source", body)
        source = {"Bucket": BUCKET, "Key": "source", "Region": REGION}
        self.cos.copy(Bucket=BUCKET, Key="copy", CopySource=source, PartSize=2)
        self.assertEqual(self.get("copy"), body)

    def test_copy_of_what_is_too_large(self):
        upload = self.begin("large")
        etags = [(number, self.part(upload, number, bytes(9 * MB), key="large")) for number in [1, 2]]
        self.complete(upload, etags, key="large")
        source = {"Bucket": BUCKET, "Key": "large", "Region": REGION}
        error = self.refused(
            405, "MethodNotAllowed", self.cos.copy_object, Bucket=BUCKET, Key="c", CopySource=source
        )
        self.assertIn("more thran 5GB", error.get_error_msg())

    def test_error_within_200(self):
        self.put("source")
        source = {"Bucket": BUCKET, "Key": "source", "Region": REGION}
        fault = {"operation": "*", "kind": "error-in-200", "code": "SlowDown"}
        admin("POST", "/faults", dict(fault, operation="CopyObject"))
        with self.assertRaises(CosServiceError) as caught:
            self.cos.copy_object(Bucket=BUCKET, Key="c", CopySource=source)
        self.assertEqual((caught.exception.get_status_code(), caught.exception.get_error_code()), (200, "SlowDown"))
        upload = self.begin()
        etag = self.part(upload, 1, b"x")
        admin("POST", "/faults", dict(fault, operation="CompleteMultipartUpload"))
        with self.assertRaises(CosServiceError):
            self.complete(upload, [(1, etag)])
        self.assertEqual(self.keys(), ["source"])
        self.complete(upload, [(1, etag)])
        self.assertEqual(self.keys(), ["k", "source"])

    def test_slow_merge_sends_blanks_first(self):
        upload = self.begin()
        etag = self.part(upload, 1, b"x")
        fault = {"operation": "CompleteMultipartUpload", "kind": "slow-merge", "milliseconds": 2500}
        admin("POST", "/faults", fault)
        start = time.monotonic()
        self.assertRegex(self.complete(upload, [(1, etag)])["ETag"], "-1")
        self.assertGreater(time.monotonic() - start, 2.4)


if __name__ == "__main__":
    unittest.main()
