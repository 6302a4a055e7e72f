"""Who may: signatures, clocks, tokens, presigned URLs; buckets and lists."""

import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from unittest import mock

import requests
from qcloud_cos import CosS3Auth
from store import BUCKET, HOST, OTHER, PORT, REGION, Case, admin, client


def fetch(url, method="GET", data=None, headers=None):
    """What a browser would do with a presigned URL: straight to the store, no SDK."""
    parts = urllib.parse.urlsplit(url)
    netloc = parts.netloc if parts.port else "%s:%d" % (parts.netloc, PORT)
    url = urllib.parse.urlunsplit(parts._replace(netloc=netloc))
    request = urllib.request.Request(url, method=method, data=data, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Access(Case):
    def test_wrong_secret(self):
        wrong = client(secret_key="wrong")
        self.refused(403, "SignatureDoesNotMatch", wrong.put_object, Bucket=BUCKET, Key="k", Body=b"x" * 100_000)
        self.refused(403, "SignatureDoesNotMatch", wrong.get_object, Bucket=BUCKET, Key="k")
        self.refused(403, "SignatureDoesNotMatch", wrong.list_objects, Bucket=BUCKET)
        self.assertEqual(self.keys(), [])

    def test_unknown_id(self):
        unknown = client(secret_id="nobody")
        self.refused(403, "InvalidAccessKeyId", unknown.list_objects, Bucket=BUCKET)
        self.refused(403, "InvalidAccessKeyId", unknown.put_object, Bucket=BUCKET, Key="k", Body=b"")

    def test_anonymous(self):
        self.put("private")
        self.put("public", ACL="public-read")
        anonymous = client(Anonymous=True)
        self.refused(403, "AccessDenied", anonymous.get_object, Bucket=BUCKET, Key="private")
        self.refused(403, "AccessDenied", anonymous.put_object, Bucket=BUCKET, Key="k", Body=b"x")
        answer = anonymous.get_object(Bucket=BUCKET, Key="public")
        self.assertEqual(answer["Body"].get_raw_stream().read(), b"content")

    def test_clocks(self):
        day = 86400
        now = time.time()
        with mock.patch("time.time", return_value=now - day):
            error = self.refused(403, "AccessDenied", self.get, "k")
            self.assertEqual(error.get_error_msg(), "Request has expired")
        with mock.patch("time.time", return_value=now + 300):
            error = self.refused(403, "AccessDenied", self.get, "k")
            self.assertEqual(error.get_error_msg(), "Request has expired")
        with mock.patch("time.time", return_value=now + 3600):
            self.refused(403, "RequestTimeTooSkewed", self.get, "k")

    def test_skewed_server(self):
        self.put("k")
        fault = {"operation": "GetObject", "kind": "clock-skew", "milliseconds": -3_600_000}
        admin("POST", "/faults", fault)
        self.refused(403, "RequestTimeTooSkewed", self.get, "k")
        self.assertEqual(self.get("k"), b"content")

    def test_tokens(self):
        good = client("temporary", "temporary-secret", Token="a token/with+signs==")
        good.put_object(Bucket=BUCKET, Key="k", Body=b"by token")
        self.assertEqual(self.get("k"), b"by token")
        bad = client("temporary", "temporary-secret", Token="another")
        self.refused(403, "InvalidToken", bad.get_object, Bucket=BUCKET, Key="k")
        without = client("temporary", "temporary-secret")
        self.refused(403, "InvalidToken", without.get_object, Bucket=BUCKET, Key="k")
        url = good.get_presigned_url(
            Method="GET", Bucket=BUCKET, Key="k", Params={"x-cos-security-token": "a token/with+signs=="}
        )
        self.assertEqual(fetch(url), (200, b"by token"))

    def test_presigned_urls(self):
        key = "目录/a b+c%.txt"
        url = self.cos.get_presigned_url(Method="PUT", Bucket=BUCKET, Key=key)
        self.assertEqual(fetch(url, "PUT", b"by url", {"Content-Type": "text/plain"})[0], 200)
        url = self.cos.get_presigned_url(Method="GET", Bucket=BUCKET, Key=key)
        self.assertEqual(fetch(url), (200, b"by url"))
        status, body = fetch(url.replace("q-signature=", "q-signature=0"))
        self.assertEqual((status, b"SignatureDoesNotMatch" in body), (403, True))
        url = self.cos.get_presigned_url(
            Method="GET", Bucket=BUCKET, Key=key, Params={"response-content-type": "x/y"}, SignHost=False
        )
        self.assertEqual(fetch(url), (200, b"by url"))
        past = time.time() - 1000
        with mock.patch("time.time", return_value=past):
            url = self.cos.get_presigned_url(Method="GET", Bucket=BUCKET, Key=key, Expired=300)
        status, body = fetch(url)
        self.assertEqual((status, b"Request has expired" in body), (403, True))


class Buckets(Case):
    def test_service_lists_the_buckets(self):
        told = self.cos.list_buckets()
        names = [bucket["Name"] for bucket in told["Buckets"]["Bucket"]]
        self.assertIn(BUCKET, names)
        self.assertIn(OTHER, names)

    def test_bucket_of_its_own(self):
        cos = client(form="proxy")
        name = "fresh-1250000000"
        self.refused(404, "NoSuchBucket", cos.list_objects, Bucket=name)
        self.refused(404, "NoSuchBucket", cos.put_object, Bucket=name, Key="k", Body=b"x")
        self.refused(404, "NoSuchResource", cos.head_bucket, Bucket=name)
        cos.create_bucket(Bucket=name)
        self.refused(409, "BucketAlreadyOwnedByYou", cos.create_bucket, Bucket=name)
        cos.head_bucket(Bucket=name)
        upload = cos.create_multipart_upload(Bucket=name, Key="k")["UploadId"]
        self.refused(409, "BucketNotEmpty", cos.delete_bucket, Bucket=name)
        cos.abort_multipart_upload(Bucket=name, Key="k", UploadId=upload)
        cos.put_object(Bucket=name, Key="k", Body=b"x")
        self.refused(409, "BucketNotEmpty", cos.delete_bucket, Bucket=name)
        cos.delete_object(Bucket=name, Key="k")
        cos.delete_bucket(Bucket=name)
        self.assertFalse(cos.bucket_exists(Bucket=name))

    def test_what_buckets_tell(self):
        self.assertEqual(self.cos.head_bucket(Bucket=BUCKET)["x-cos-bucket-region"], REGION)
        self.assertEqual(self.cos.get_bucket_location(Bucket=BUCKET)["LocationConstraint"], REGION)
        self.assertFalse(self.cos.get_bucket_versioning(Bucket=BUCKET).get("Status"))

    def test_what_is_not_there_is_not_implemented(self):
        self.put("k")
        self.refused(501, "NotImplemented", self.cos.get_bucket_lifecycle, Bucket=BUCKET)
        self.refused(501, "NotImplemented", self.cos.get_object_acl, Bucket=BUCKET, Key="k")


class Lists(Case):
    KEYS = ["a", "a b+c%", "dir/", "dir/1", "dir/2", "dir/sub/3", "dir0", "z<&>", "中/文", "中文", "😀"]

    def setUp(self):
        super().setUp()
        for key in self.KEYS:
            self.put(key, key.encode())

    def pages(self, **query):
        """All pages: keys and groups in the order they came."""
        marker, keys, groups, pages = "", [], [], 0
        while True:
            page = self.cos.list_objects(Bucket=BUCKET, Marker=marker, **query)
            pages += 1
            self.assertLessEqual(pages, len(self.KEYS), "the pages do not end")
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            groups += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            entries = len(page.get("Contents", [])) + len(page.get("CommonPrefixes", []))
            self.assertLessEqual(entries, query.get("MaxKeys", 1000))
            if page["IsTruncated"] == "false":
                self.assertNotIn("NextMarker", page)
                return keys, groups, pages
            marker = page["NextMarker"]

    def test_pages_of_every_length(self):
        for length in [1, 2, 3, 5, 11, 1000]:
            with self.subTest(length=length):
                keys, groups, pages = self.pages(MaxKeys=length)
                self.assertEqual((keys, groups), (self.KEYS, []))
                self.assertEqual(pages, -(-len(self.KEYS) // length))

    def raw(self, **query):
        """A list as the store writes it: the SDK itself always asks for URL encoding."""
        query = {name.replace("_", "-"): value for name, value in query.items()}
        signature = CosS3Auth(self.cos.get_conf(), params=query)
        answer = requests.get("http://%s/" % HOST, params=query, auth=signature, timeout=10)
        return answer.status_code, answer.content

    def test_encoding_is_only_for_those_who_ask(self):
        status, body = self.raw(prefix="a", max_keys="2")
        self.assertEqual(status, 200)
        self.assertEqual([key.text for key in ElementTree.fromstring(body).iter("Key")], ["a", "a b+c%"])
        status, body = self.raw(prefix="a", encoding_type="url")
        self.assertEqual([key.text for key in ElementTree.fromstring(body).iter("Key")], ["a", "a%20b%2Bc%25"])
        self.assertEqual(self.raw(encoding_type="base64")[0], 400)

    def test_groups(self):
        for length in [1, 2, 1000]:
            keys, groups, _ = self.pages(Delimiter="/", MaxKeys=length)
            self.assertEqual(keys, ["a", "a b+c%", "dir0", "z<&>", "中文", "😀"])
            self.assertEqual(groups, ["dir/", "中/"])
            keys, groups, _ = self.pages(Prefix="dir/", Delimiter="/", MaxKeys=length)
            self.assertEqual((keys, groups), (["dir/", "dir/1", "dir/2"], ["dir/sub/"]))
        self.assertEqual(self.pages(Prefix="中", Delimiter="文")[1], ["中/文", "中文"])
        self.assertEqual(self.pages(Prefix="nothing")[0], [])

    def test_entries_tell_size_and_etag(self):
        page = self.cos.list_objects(Bucket=BUCKET, Prefix="dir/1")
        entry = page["Contents"][0]
        self.assertEqual(entry["Size"], "5")
        self.assertEqual(entry["ETag"], self.cos.head_object(Bucket=BUCKET, Key="dir/1")["ETag"])
        self.assertEqual(entry["StorageClass"], "STANDARD")
        self.assertRegex(entry["LastModified"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$")
        self.assertEqual(entry["Owner"]["ID"], "1250000000")

    def test_refused_lists(self):
        self.refused(400, "InvalidArgument", self.cos.list_objects, Bucket=BUCKET, MaxKeys="many")
        self.refused(400, "InvalidDelimiter", self.cos.list_objects, Bucket=BUCKET, Delimiter="ab")

    def test_versions_of_a_bucket_without_versions(self):
        page = self.cos.list_objects_versions(Bucket=BUCKET, Prefix="dir/", Delimiter="/", MaxKeys=2)
        self.assertEqual(page["IsTruncated"], "true")
        self.assertEqual([version["Key"] for version in page["Version"]], ["dir/", "dir/1"])
        self.assertEqual(page["Version"][0]["IsLatest"], "true")


if __name__ == "__main__":
    unittest.main()
