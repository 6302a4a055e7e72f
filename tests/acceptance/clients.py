"""Sessions with the clients that people use, and a table of what was run and how it ended.

Every cell is a deed and a look at its effect: in the bucket, or in the bytes that came back. A download is resumed on a
file whose beginning has been altered: it stays altered only where the client really went on from there.
"""

import contextlib
import ftplib
import os
import pathlib
import ssl
import subprocess

from rig import COSGATE, MIB, Rig, check, free_port, random_file, scenario, shell

DEEDS = ["upload", "download", "resume", "list", "rename", "delete", "mkdir", "Unicode", "GBK", "AUTH TLS", "implicit TLS"]
CHINESE, GBK_NAME = "深圳 é.txt", "北京.txt"


class Lacking(Exception):
    """The client cannot do it, whatever the server says."""


class Bench(Rig):
    """A gateway with both kinds of TLS."""

    def tls_keys(self):
        """An authority and a certificate of it, as a real server has: clients differ over self-signed ones."""
        self.implicit_port = free_port()
        self.ca, authority = self.dir / "ca.pem", self.dir / "ca.key"
        cert, key = self.certificate
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        shell("openssl", "req", "-x509", *new, "-subj", "/CN=Authority", "-keyout", authority, "-out", self.ca)
        shell("openssl", "req", "-x509", *new, "-subj", "/CN=localhost", "-CA", self.ca, "-CAkey", authority,
              "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
              "-keyout", key, "-out", cert)
        return [f"tls_cert = {cert}", f"tls_key = {key}", f"tls_implicit_port = {self.implicit_port}"]


class Client:
    """What a client can be asked for. What it cannot do stays as it is here."""

    name = version = ""

    def __init__(self, rig):
        self.rig = rig
        self.dir = rig.dir / "work"
        self.dir.mkdir(exist_ok=True)

    def _lacking(self, *_):
        raise Lacking

    put = get = resume = list = rename = delete = mkdir = put_gbk = put_tls = put_implicit = _lacking
    get_tls = get_implicit = _lacking

    def run(self, *words, feed=None, **options):
        options.setdefault("cwd", self.dir)
        done = subprocess.run([w if isinstance(w, bytes) else str(w) for w in words], capture_output=True, timeout=60,
                              input=feed.encode() if isinstance(feed, str) else feed,
                              **({"stdin": subprocess.DEVNULL} if feed is None else {}), **options)
        text = (done.stdout + done.stderr).decode(errors="replace")
        check(done.returncode == 0, f"exit {done.returncode}: {text[-200:]}")
        return text


class Curl(Client):
    name = "curl"

    def url(self, path, scheme="ftp", port=None):
        return f"{scheme}://user0:pass0@localhost:{port or self.rig.ftp_port}/{path}"

    def quote(self, *commands):
        self.run("curl", "-sS", *[w for c in commands for w in ("-Q", c)], self.url(""))

    def put(self, local, remote):
        self.run("curl", "-sS", "-T", local, self.url(remote.replace(" ", "%20")))

    def get(self, remote, local):
        self.run("curl", "-sS", "-o", local, self.url(remote.replace(" ", "%20")))

    def resume(self, remote, local):
        self.run("curl", "-sS", "-C", "-", "-o", local, self.url(remote))

    def list(self, directory):
        return self.run("curl", "-sS", self.url(f"{directory}/"))

    def rename(self, old, new):
        self.quote(f"RNFR /{old}", f"RNTO /{new}")

    def delete(self, remote):
        self.quote(f"DELE /{remote}")

    def mkdir(self, remote):
        self.quote(f"MKD /{remote}")

    def put_gbk(self, local, directory, name):
        escaped = "".join(f"%{b:02X}" for b in name.encode("gbk"))
        self.run("curl", "-sS", "-T", local, self.url(f"{directory}/{escaped}"))

    def put_tls(self, local, remote):
        self.run("curl", "-sS", "--ssl-reqd", "--cacert", self.rig.ca, "-T", local, self.url(remote))

    def get_tls(self, remote, local):
        self.run("curl", "-sS", "--ssl-reqd", "--cacert", self.rig.ca, "-o", local, self.url(remote))

    def put_implicit(self, local, remote):
        self.run("curl", "-sS", "--cacert", self.rig.ca, "-T", local, self.url(remote, "ftps", self.rig.implicit_port))

    def get_implicit(self, remote, local):
        self.run("curl", "-sS", "--cacert", self.rig.ca, "-o", local, self.url(remote, "ftps", self.rig.implicit_port))


class Lftp(Client):
    name = "lftp"
    plain = "set ftp:ssl-allow no"

    def say(self, command, settings=None, url=None):
        common = "set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 20"
        url = url or f"ftp://localhost:{self.rig.ftp_port}"
        script = f"{common}; {settings or self.plain}; open -u user0,pass0 {url}; {command}; bye"
        return self.run("lftp", "--norc", "-c", script, env=os.environ | {"LC_ALL": "C.UTF-8"})

    @property
    def tls(self):
        return f"set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:ca-file {self.rig.ca}"

    def put(self, local, remote):
        self.say(f'put "{local}" -o "{remote}"')

    def get(self, remote, local):
        self.say(f'set xfer:clobber yes; get "{remote}" -o "{local}"')

    def resume(self, remote, local):
        self.say(f'get -c "{remote}" -o "{local}"')

    def list(self, directory):
        return self.say(f"cls -1 {directory}/")

    def rename(self, old, new):
        self.say(f"mv {old} {new}")

    def delete(self, remote):
        self.say(f"rm {remote}")

    def mkdir(self, remote):
        self.say(f"mkdir {remote}")

    def put_gbk(self, local, directory, name):
        self.say(f'put "{local}" -o "{directory}/{name}"', f"{self.plain}; set ftp:use-utf8 no; set ftp:charset gbk; set file:charset utf-8")

    def put_tls(self, local, remote):
        self.say(f'put "{local}" -o "{remote}"', self.tls)

    def get_tls(self, remote, local):
        self.say(f'set xfer:clobber yes; get "{remote}" -o "{local}"', self.tls)

    def put_implicit(self, local, remote):
        self.say(f'put "{local}" -o "{remote}"', self.tls, f"ftps://localhost:{self.rig.implicit_port}")

    def get_implicit(self, remote, local):
        self.say(f'set xfer:clobber yes; get "{remote}" -o "{local}"', self.tls, f"ftps://localhost:{self.rig.implicit_port}")


class Ftplib(Client):
    name = "Python ftplib"

    @contextlib.contextmanager
    def session(self, encoding="utf-8", tls=False, implicit=False):
        context = ssl.create_default_context(cafile=str(self.rig.ca))
        kind = ImplicitTls if implicit else ftplib.FTP_TLS
        ftp = kind(context=context, encoding=encoding) if tls or implicit else ftplib.FTP(encoding=encoding)
        ftp.connect("localhost", self.rig.implicit_port if implicit else self.rig.ftp_port, timeout=30)
        ftp.login("user0", "pass0")
        if tls or implicit:
            ftp.prot_p()
        yield ftp
        ftp.quit()

    def put(self, local, remote, **how):
        with self.session(**how) as ftp, open(local, "rb") as f:
            ftp.storbinary(f"STOR {remote}", f)

    def get(self, remote, local, rest=None, **how):
        with self.session(**how) as ftp, open(local, "ab" if rest else "wb") as f:
            ftp.retrbinary(f"RETR {remote}", f.write, rest=rest)

    def resume(self, remote, local):
        self.get(remote, local, rest=os.path.getsize(local))

    def list(self, directory):
        with self.session() as ftp:
            return "\n".join(name for name, _ in ftp.mlsd(directory)) + "\n".join(ftp.nlst(directory))

    def rename(self, old, new):
        with self.session() as ftp:
            ftp.rename(old, new)

    def delete(self, remote):
        with self.session() as ftp:
            ftp.delete(remote)

    def mkdir(self, remote):
        with self.session() as ftp:
            ftp.mkd(remote)

    def put_gbk(self, local, directory, name):
        self.put(local, f"{directory}/{name}", encoding="gbk")

    def put_tls(self, local, remote):
        self.put(local, remote, tls=True)

    def get_tls(self, remote, local):
        self.get(remote, local, tls=True)

    def put_implicit(self, local, remote):
        self.put(local, remote, implicit=True)

    def get_implicit(self, remote, local):
        self.get(remote, local, implicit=True)


class ImplicitTls(ftplib.FTP_TLS):
    """ftplib has no implicit TLS: the recipe that everybody uses."""

    def connect(self, *words, **how):
        welcome = None
        host, port = words
        self.host, self.port, self.timeout = host, port, how.get("timeout", 30)
        import socket
        self.sock = self.context.wrap_socket(socket.create_connection((host, port), self.timeout), server_hostname=host)
        self.af = self.sock.family
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = welcome = self.getresp()
        return welcome

    def login(self, *words, **how):
        return super().login(*words, secure=False, **how)


class Rclone(Client):
    # Its FTP backend of this version takes no further authority: certificates go unchecked.
    name = "rclone"

    def remote(self, path, more=""):
        if not hasattr(self, "word"):
            self.word = self.run("rclone", "obscure", "pass0").strip()
        port = self.rig.implicit_port if "tls=true" in more and "explicit" not in more else self.rig.ftp_port
        return f":ftp,host=localhost,port={port},user=user0,pass={self.word}{more}:{path}"

    def say(self, *words):
        return self.run("rclone", "--config", "/dev/null", "--retries", "1", *words)

    def put(self, local, remote, more=""):
        self.say("copyto", local, self.remote(remote, more))

    def get(self, remote, local, more=""):
        pathlib.Path(local).unlink(missing_ok=True)
        self.say("copyto", self.remote(remote, more), local)

    def list(self, directory):
        return self.say("lsf", self.remote(directory))

    def rename(self, old, new):
        self.say("moveto", self.remote(old), self.remote(new))

    def delete(self, remote):
        self.say("deletefile", self.remote(remote))

    def mkdir(self, remote):
        self.say("mkdir", self.remote(remote))

    def put_tls(self, local, remote):
        self.put(local, remote, ",explicit_tls=true,no_check_certificate=true")

    def get_tls(self, remote, local):
        self.get(remote, local, ",explicit_tls=true,no_check_certificate=true")

    def put_implicit(self, local, remote):
        self.put(local, remote, ",tls=true,no_check_certificate=true")

    def get_implicit(self, remote, local):
        self.get(remote, local, ",tls=true,no_check_certificate=true")


class Ncftp(Client):
    name = "ncftp"

    @property
    def login(self):
        return ["-u", "user0", "-p", "pass0", "-P", self.rig.ftp_port]

    def put(self, local, remote):
        directory, name = remote.rsplit("/", 1)
        self.run("ncftpput", "-V", *self.login, "-C", "localhost", local, f"{directory}/{name}")

    def get(self, remote, local):
        self.run("ncftpget", "-V", "-Z", *self.login, "-C", "localhost", remote, local)

    def resume(self, remote, local):
        self.run("ncftpget", "-V", "-z", *self.login, "-C", "localhost", remote, local)

    def list(self, directory):
        return self.run("ncftpls", *self.login, f"ftp://localhost/{directory}/")

    def quote(self, *commands):
        self.run("ncftpls", *self.login, *[w for c in commands for w in ("-W", c)], "ftp://localhost/")

    def rename(self, old, new):
        self.quote(f"RNFR /{old}", f"RNTO /{new}")

    def delete(self, remote):
        self.quote(f"DELE /{remote}")

    def mkdir(self, remote):
        self.quote(f"MKD /{remote}")

    def put_gbk(self, local, directory, name):
        self.run("ncftpput", "-V", *self.login, "-C", "localhost", local, f"{directory}/{name}".encode("gbk"))


class Tnftp(Client):
    name = "tnftp"

    def say(self, *commands):
        script = b"\n".join(c if isinstance(c, bytes) else c.encode() for c in
                            ("user user0 pass0", "binary", "prompt off", *commands, "bye")) + b"\n"
        text = self.run("tnftp", "-n", "-v", "localhost", self.rig.ftp_port, feed=script, env=os.environ | {"HOME": str(self.dir)})
        bad = [line for line in text.splitlines() if line[:1] in "45" and line[:3].isdigit() and line[3:4] == " "]
        check(not bad, "; ".join(bad))
        return text

    def put(self, local, remote):
        self.say(f'put "{local}" "{remote}"')

    def get(self, remote, local):
        self.say(f'get "{remote}" "{local}"')

    def resume(self, remote, local):
        self.say(f'reget "{remote}" "{local}"')

    def list(self, directory):
        return self.say(f"ls {directory}")

    def rename(self, old, new):
        self.say(f"rename {old} {new}")

    def delete(self, remote):
        self.say(f"delete {remote}")

    def mkdir(self, remote):
        self.say(f"mkdir {remote}")

    def put_gbk(self, local, directory, name):
        self.say(f'put "{local}" "'.encode() + f"{directory}/{name}".encode("gbk") + b'"')


class Wget(Client):
    name = "wget"

    def url(self, path, scheme="ftp", port=None):
        return f"{scheme}://user0:pass0@localhost:{port or self.rig.ftp_port}/{path}"

    def fetch(self, *words):
        return self.run("wget", "-nv", "-t", "1", "--ca-certificate", self.rig.ca, *words)

    def get(self, remote, local):
        self.fetch("-O", local, self.url(remote.replace(" ", "%20")))

    def resume(self, remote, local):
        # It goes on only with a file of the remote's own name.
        place = self.dir / "wget"
        place.mkdir(exist_ok=True)
        there = place / remote.rsplit("/", 1)[1]
        os.replace(local, there)
        self.fetch("-c", "-P", place, self.url(remote))
        os.replace(there, local)

    def list(self, directory):
        self.fetch("-O", "listing.html", self.url(f"{directory}/"))
        return (self.dir / "listing.html").read_text()

    def get_tls(self, remote, local):
        self.fetch("-O", local, self.url(remote, "ftps"))

    def get_implicit(self, remote, local):
        self.fetch("--ftps-implicit", "-O", local, self.url(remote, "ftps", self.rig.implicit_port))


class Own(Client):
    name = "cosgate"

    def say(self, *words):
        return self.run(COSGATE, *words, env=os.environ | {"COSGATE_FTP_PASSWORD": "pass0"})

    def url(self, path, scheme="ftp", port=None):
        return f"{scheme}://user0@localhost:{port or self.rig.ftp_port}/{path}"

    def put(self, local, remote, *more):
        said = self.say("put", *(more or ["--plain"]), local, self.url(remote))
        check("agrees" in said, said)

    def get(self, remote, local, *more):
        said = self.say("get", *(more or ["--plain"]), self.url(remote), local)
        check("agrees" in said, said)

    def resume(self, remote, local):
        # What is altered is noticed by the checksum, so the part must be the beginning of the file.
        part = pathlib.Path(f"{local}.part")
        os.replace(local, part)
        self.unalter(part)
        said = self.say("get", "--plain", self.url(remote), local)
        check("CRC64 agrees" in said, said)
        self.alter(local)

    def list(self, directory):
        return self.say("ls", self.url(directory), "--insecure")

    def mkdir(self, remote):
        place = self.dir / remote.rsplit("/", 1)[1]
        place.mkdir(exist_ok=True)
        self.say("put", "-r", "--plain", place, self.url(remote))

    def put_tls(self, local, remote):
        self.put(local, remote, "--tls", "required", "--ca", self.rig.ca)

    def get_tls(self, remote, local):
        self.get(remote, local, "--tls", "required", "--ca", self.rig.ca)

    def put_implicit(self, local, remote):
        self.say("put", "--ca", self.rig.ca, local, self.url(remote, "ftps", self.rig.implicit_port))

    def get_implicit(self, remote, local):
        self.say("get", "--ca", self.rig.ca, self.url(remote, "ftps", self.rig.implicit_port), local)


CLIENTS = [Curl, Lftp, Ftplib, Rclone, Ncftp, Tnftp, Wget, Own]


class Trial:
    """One client's deeds, each with a look at its effect."""

    def __init__(self, client, source):
        self.client, self.source = client, source
        self.home = client.rig.home() / client.name.split()[-1]
        self.place = self.home.name
        self.local = client.dir / "local.bin"
        self.bytes = source.read_bytes()

    def holds(self, name, what="it"):
        check((self.home / name).read_bytes() == self.bytes, f"{what} is not whole in the bucket")

    def came_back(self):
        check(self.local.read_bytes() == self.bytes, "other bytes came back")

    def seed(self, name):
        (self.home / name).write_bytes(self.bytes)

    def deed_upload(self):
        self.client.put(self.source, f"{self.place}/up.bin")
        self.holds("up.bin")

    def deed_download(self):
        self.seed("down.bin")
        self.client.get(f"{self.place}/down.bin", self.local)
        self.came_back()

    def deed_resume(self):
        self.seed("resumed.bin")
        third = len(self.bytes) // 3
        altered = bytes(third)
        self.local.write_bytes(altered)
        self.client.alter = lambda path: pathlib.Path(path).write_bytes(altered + pathlib.Path(path).read_bytes()[third:])
        self.client.unalter = lambda path: path.write_bytes(self.bytes[:third])
        self.client.resume(f"{self.place}/resumed.bin", self.local)
        check(self.local.read_bytes() == altered + self.bytes[third:], "it did not go on from where it was")

    def deed_list(self):
        self.seed("listed-one.bin")
        check("listed-one.bin" in self.client.list(self.place), "the name is not there")

    def deed_rename(self):
        self.seed("old.bin")
        self.client.rename(f"{self.place}/old.bin", f"{self.place}/new.bin")
        self.holds("new.bin")
        check(not (self.home / "old.bin").exists(), "the old name stays")

    def deed_delete(self):
        self.seed("gone.bin")
        self.client.delete(f"{self.place}/gone.bin")
        check(not (self.home / "gone.bin").exists(), "it is there still")

    def deed_mkdir(self):
        self.client.mkdir(f"{self.place}/made")
        check((self.home / "made").is_dir(), "it is not there")

    def deed_Unicode(self):
        try:
            self.client.put(self.source, f"{self.place}/{CHINESE}")
            self.holds(CHINESE)
        except Lacking:
            self.seed(CHINESE)
        self.client.get(f"{self.place}/{CHINESE}", self.local)
        self.came_back()

    def deed_GBK(self):
        self.client.put_gbk(self.source, self.place, GBK_NAME)
        self.holds(GBK_NAME)

    def both_ways(self, put, get, name):
        try:
            put(self.source, f"{self.place}/{name}")
            self.holds(name)
        except Lacking:
            self.seed(name)
        get(f"{self.place}/{name}", self.local)
        self.came_back()

    def deed_AUTH_TLS(self):
        self.both_ways(self.client.put_tls, self.client.get_tls, "tls.bin")

    def deed_implicit_TLS(self):
        self.both_ways(self.client.put_implicit, self.client.get_implicit, "implicit.bin")


@scenario
def clients():
    """Eleven deeds by each of eight clients, and the table of docs/CLIENTS.md."""
    with Bench(accounts=[{}], certificate=True) as rig:
        source = random_file(rig.dir / "some.payload", 3 * MIB + 17)
        rows, failed = [], []
        for kind in CLIENTS:
            trial = Trial(kind(rig), source)
            trial.home.mkdir()
            cells = []
            for deed in DEEDS:
                trial.local.unlink(missing_ok=True)
                try:
                    getattr(trial, "deed_" + deed.replace(" ", "_"))()
                    cells.append("yes")
                except Lacking:
                    cells.append("–")
                except Exception as error:
                    cells.append("NO")
                    failed.append(f"{kind.name}: {deed}: {type(error).__name__}: {str(error)[-300:]}")
            rows.append([kind.name, *cells])
        for row in [["client", *DEEDS], ["---"] * (len(DEEDS) + 1), *rows]:
            print("  | " + " | ".join(row) + " |")
        for line in failed:
            print("  " + line.replace("\n", " "))
        check(not failed, f"{len(failed)} deeds failed")
