"""The main job: big files, trees, the wire, killed clients and servers, what may be deleted."""

import contextlib
import ftplib
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from rig import COSGATE, MIB, ROOT, Rig, check, mounts_below, random_file, scenario, sha256, shell, side_by_side, state_d, status, timed, until


def disk_use(rig):
    """KiB in every place on local disk that a gateway could write to, the store's own data apart."""
    places = ["/tmp", "/var/tmp", "/var/lib", "/var/cache", "/run", "/dev/shm", str(rig.dir / "log"), str(rig.dir / "run")]
    total = 0
    for place in places:
        if os.path.isdir(place):
            excluded = ["--exclude", str(rig.dir / "store"), "--exclude", "*.payload"]
            total += int(shell("du", "-skx", *excluded, place, check_exit=False).stdout.split()[0] or 0)
    return total


@scenario
def gigabyte():
    """1 GiB up by curl, back by curl and by cat; local disk, memory."""
    with Rig(data=True) as rig:
        source = random_file(rig.dir / "big.payload", 1024 * MIB)
        before = disk_use(rig)
        begun = time.monotonic()
        shell("curl", "-sS", "-T", source, rig.url("big.bin"))
        up = time.monotonic() - begun
        begun = time.monotonic()
        shell("curl", "-sS", "-o", rig.dir / "back.payload", rig.url("big.bin"))
        down = time.monotonic() - begun
        cat = subprocess.run(["sha256sum", str(rig.home() / "big.bin")], capture_output=True, text=True).stdout.split()[0]
        after = disk_use(rig)
        sums = {sha256(source), sha256(rig.dir / "back.payload"), cat}
        peak = [status(pid, "VmHWM") // 1024 for pid in (rig.front, rig.mount)]
        print(f"  up {1024 / up:.0f} MiB/s, down {1024 / down:.0f} MiB/s; local disk {after - before:+d} KiB; "
              f"peak RSS front {peak[0]} MiB, mount {peak[1]} MiB; ready after {rig.start_seconds:.2f} s")
        check(len(sums) == 1, "sha256 differ")
        check(after - before < 1024, "local disk grew")
        check(sum(peak) <= 256 + 100, "memory")
        print(f"  stopped in {rig.stop():.2f} s")
        check(not mounts_below(rig.dir), "mounts left")


@scenario
def trees():
    """/usr/share by lftp up and by rclone back; /etc by rsync and cp; browsing."""
    with Rig() as rig:
        share = rig.dir / "share"
        shell("rsync", "-r", "--no-links", "/usr/share/", share)
        files = sum(len(f) for _, _, f in os.walk(share))
        begun = time.monotonic()
        shell("lftp", "-e", f"set net:timeout 60; set xfer:clobber yes; mirror -R --parallel=4 --no-perms {share} share; quit",
              rig.url(), timeout=1500)
        up = time.monotonic() - begun
        begun = time.monotonic()
        obscured = shell("rclone", "obscure", "pass0").stdout.strip()
        shell("rclone", "copy", "--transfers", "4", f":ftp,host=127.0.0.1,port={rig.ftp_port},user=user0,pass={obscured}:share",
              rig.dir / "back", timeout=1500)
        down = time.monotonic() - begun
        print(f"  {files} files: lftp mirror -R {up:.0f} s, rclone copy {down:.0f} s; "
              f"peak RSS front {status(rig.front, 'VmHWM') // 1024}, mount {status(rig.mount, 'VmHWM') // 1024} MiB")
        difference = shell("diff", "-rq", share, rig.dir / "back", check_exit=False).stdout
        # An empty directory has no file to travel in for rclone.
        real = [line for line in difference.splitlines() if "Only in" not in line or
                not _empty_dir(line)]
        check(not real, "diff: " + "\n".join(real[:5]))
        home = rig.home()
        shell("rsync", "-r", "--no-links", "/etc/", home / "etc-rsync", timeout=600)
        shell("bash", "-c", f"cp -r --no-preserve=all /etc {home}/etc-cp 2>&1 | grep -v 'symbolic link' || true", timeout=600)
        for copy in ("etc-rsync", "etc-cp"):
            out = shell("diff", "-rq", "--no-dereference", "/etc", home / copy, check_exit=False).stdout.splitlines()
            out = [line for line in out if not _is_link(line)]
            check(not out, f"{copy}: " + "\n".join(out[:5]))
        begun = time.monotonic()
        found = shell("find", home / "share", "-type", "f").stdout.count("\n")
        check(found == files, f"find sees {found} of {files} files")
        print(f"  find over {found} files {time.monotonic() - begun:.1f} s; du {shell('du', '-sm', home / 'share').stdout.split()[0]} MiB; "
              f"ls: {len(shell('ls', '-la', home / 'etc-cp').stdout.splitlines())} lines")
        shell("tar", "cf", "/dev/null", home / "etc-cp")
        shell("vim", "-es", "-u", "NONE", "-c", "%print", "-c", "q!", home / "etc-cp/passwd", check_exit=False)
        shell("grep", "-r", "root", home / "etc-cp/passwd")


def _empty_dir(line):
    where, name = line.removeprefix("Only in ").split(": ", 1)
    path = pathlib.Path(where) / name
    return path.is_dir() and not any(files for _, _, files in os.walk(path))


def _is_link(line):
    if line.startswith("Only in "):
        where, name = line.removeprefix("Only in ").split(": ", 1)
        return (pathlib.Path(where) / name).is_symlink()
    return "symbolic link" in line or "is a " in line


@scenario
def old_files():
    """Both example files of the old tool pass `check` once their placeholders are filled."""
    data = ROOT / "tests/data/old-config"
    with contextlib.ExitStack() as stack:
        rig = Rig()
        stack.callback(shutil.rmtree, rig.dir, True)
        for name in ("multi-account.conf", "single-account.conf"):
            text = (data / name).read_text()
            for n in (0, 1):
                text = text.replace("XXXXXX\n", "AKIDreal\n", 2).replace("XXXXX\n", "AKIDreal\n")
            text = text.replace("XXXXXX\t", "AKIDreal\t").replace("XXXX\n", "AKIDreal\n")
            text = text.replace("{bucket name}-123", "first-123", 1).replace("{bucket name}-123", "second-123")
            text = text.replace("{bucket}-{appid}", "single-1250000000").replace("ap-xxx", "ap-seoul")
            for home in ("/home/user0", "/home/user1", "/home/cos_ftp/data"):
                mine = rig.dir / home.strip("/").replace("/", "-")
                mine.mkdir(exist_ok=True)
                text = text.replace(home, str(mine))
            path = rig.dir / name
            path.write_text(text)
            path.chmod(0o600)
            done = shell(COSGATE, "check", "-c", path, check_exit=False)
            check(done.returncode == 0, f"{name}: {done.returncode} {done.stdout} {done.stderr}")
            check("AKIDreal" not in done.stdout.split("cos_secretkey")[1].split("\n")[0], "a secret is shown")
            print(f"  {name}: exit 0, {len(done.stdout.splitlines())} lines")


@scenario
def wire():
    """20 ms and 40 MB/s per connection: STOR and RETR of 512 MiB."""
    with Rig(emulator=["--latency", "20", "--per-connection-bandwidth", "40000000", "--fast-etag"]) as rig:
        source = random_file(rig.dir / "half.payload", 512 * MIB)
        for run in range(3):
            up = timed("curl", "-sS", "-T", source, rig.url(f"half{run}"))
            down = timed("curl", "-sS", "-o", "/dev/null", rig.url(f"half{run}"))
            print(f"  STOR {512 * MIB / up / 1e6:.0f} MB/s, RETR {512 * MIB / down / 1e6:.0f} MB/s (8 connections' worth: 320)")
        check(512 * MIB / up / 1e6 >= 160 and 512 * MIB / down / 1e6 >= 160, "below 4 connections' worth")
        small = random_file(rig.dir / "small.payload", 100_000)
        client = rig.ftp()
        client.cwd("/")
        rig.admin("DELETE", "/requests")
        begun = time.monotonic()
        for n in range(200):
            with open(small, "rb") as f:
                client.storbinary(f"STOR small{n}", f, blocksize=1 << 18)
        seconds = time.monotonic() - begun
        requests = {name: r["count"] for name, r in rig.admin("GET", "/requests").items() if r["count"]}
        print(f"  200 x 100 KB: {200 / seconds:.1f} files/s, {200 / seconds * 0.02:.2f} per round trip; requests {requests}")


@scenario
def deleting():
    """delete_enable = false on the mount and by FTP; R and RW of the first generation."""
    with Rig(accounts=[{"delete_enable": "false"}, {}]) as rig:
        home, client = rig.home(), rig.ftp()
        (home / "a").write_text("a")
        (home / "b").write_text("b")
        (home / "d").mkdir()
        before = rig.objects()
        for words in (["rm", "-f", home / "a"], ["rmdir", home / "d"], ["mv", "-f", home / "a", home / "b"]):
            check(shell(*words, check_exit=False).returncode != 0, f"{words[0]} went through")
        for command in ("DELE a", "RMD d", "RNTO b"):
            try:
                if command == "RNTO b":
                    client.sendcmd("RNFR a")
                client.sendcmd(command)
                raise AssertionError(f"{command} went through")
            except ftplib.error_perm as refusal:
                print(f"  {command}: {refusal}")
        check(rig.objects() == before, "the bucket has changed")

    def first_generation(rig):
        rig.home().mkdir(exist_ok=True)
        return (f"[COS_ACCOUNT]\ncos_secretid = emulator\ncos_secretkey = emulator-secret\ncos_bucket = {rig.bucket()}\n"
                f"cos_endpoint = 127.0.0.1:{rig.store_port}\ncos_protocol = http\ncos_user_home_dir = {rig.home()}\n"
                f"[FTP_ACCOUNT]\nlogin_users = user0:pass0:R;user1:pass1:RW\n[NETWORK]\nlisten_port = {rig.ftp_port}\n"
                f"listen_address = 127.0.0.1\n[OPTIONAL]\nlog_dir = {rig.dir}/log\n")

    with Rig(text=first_generation) as rig:
        import io
        writer, reader = rig.ftp(1), rig.ftp(0)
        writer.storbinary("STOR x", io.BytesIO(b"written"))
        got = []
        reader.retrbinary("RETR x", got.append)
        check(b"".join(got) == b"written", "the reader reads something else")
        for command in ("STOR y", "DELE x", "MKD d", "RNFR x"):
            try:
                if command.startswith("STOR"):
                    reader.storbinary(command, io.BytesIO(b"no"))
                else:
                    reader.sendcmd(command)
                    if command == "RNFR x":
                        reader.sendcmd("RNTO z")
                raise AssertionError(f"R may {command}")
            except ftplib.Error as refusal:
                print(f"  R user, {command}: {refusal}")
        check(set(rig.objects()) == {"x"}, f"bucket: {rig.objects()}")


@scenario
def store_down():
    """The store answers 500 to everything during the last part of a STOR."""
    with Rig(extra="store_timeout = 5") as rig:
        import io
        client = rig.ftp()
        client.storbinary("STOR kept", io.BytesIO(b"old"))
        source = random_file(rig.dir / "x.payload", 40 * MIB)
        for name in ("kept", "new"):
            rig.admin("POST", "/faults", {"operation": "*", "kind": "status", "status": 500, "code": "InternalError", "skip": 8, "times": None})
            done = shell("curl", "-sS", "-v", "-T", source, rig.url(name), check_exit=False, timeout=300)
            rig.admin("DELETE", "/faults")
            replies = [line[2:] for line in done.stderr.splitlines() if line.startswith("< ") and line[2:3] in "45"]
            print(f"  {name}: curl ended {done.returncode}, replies {replies[-1:]}")
            check(done.returncode != 0 and "226 " not in done.stderr, "226 or success")
            until(lambda: not rig.uploads(), 90, "uploads aborted")
            objects = rig.objects()
            check("new" not in objects and objects["kept"]["size"] == 3, f"objects {objects}")


KILL_CLIENTS = {
    "curl": lambda rig, source, name: ["curl", "-sS", "--limit-rate", "20M", "-T", source, rig.url(name)],
    "lftp": lambda rig, source, name: ["lftp", "-e", f"set net:limit-rate 20000000; put {source} -o {name}; quit", rig.url()],
    "ftplib": lambda rig, source, name: [sys.executable, "-c", f"""
import ftplib, time
c = ftplib.FTP(); c.connect('127.0.0.1', {rig.ftp_port}); c.login('user0', 'pass0')
c.storbinary('STOR {name}', open('{source}', 'rb'), 65536, callback=lambda b: time.sleep(0.002))"""],
}


@scenario
def killed_clients():
    """curl, lftp, ftplib, 20 times each, SIGKILL in the middle of a STOR; the front; a cp; the mount."""
    import io
    with Rig() as rig:
        source = random_file(rig.dir / "x.payload", 64 * MIB)
        rig.ftp().storbinary("STOR kept", io.BytesIO(b"old"))
        for client, words in KILL_CLIENTS.items():
            for n in range(20):
                name = "kept" if n % 2 else f"{client}{n}"
                process = subprocess.Popen([str(w) for w in words(rig, source, name)], stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(random.uniform(0.3, 1.2))
                check(process.poll() is None, f"{client} was done before it was killed")
                process.kill()
                process.wait()
            until(lambda: not rig.uploads(), 20, f"{client}: uploads aborted")
            time.sleep(0.5)
            objects = rig.objects()
            check(set(objects) == {"kept"} and objects["kept"]["size"] == 3, f"{client}: {objects}")
            print(f"  20 x {client} killed: bucket holds {list(objects)}, no open upload")
        process = subprocess.Popen(["cp", str(source), str(rig.home() / "copied")])
        time.sleep(0.05)
        process.kill()
        process.wait()
        until(lambda: not rig.uploads(), 20, "cp: uploads aborted")
        check("copied" not in rig.objects() or rig.objects()["copied"]["size"] == 64 * MIB, "a torn cp")
        print(f"  cp killed: {'it was done already' if 'copied' in rig.objects() else 'no object'}")
        for victim in ("front", "mount"):
            upload = subprocess.Popen([str(w) for w in KILL_CLIENTS["curl"](rig, source, "kept")], stderr=subprocess.PIPE,
                                      stdin=subprocess.DEVNULL, text=True)
            time.sleep(0.8)
            session = rig.ftp() if victim == "mount" else None
            os.kill(getattr(rig, victim), signal.SIGKILL)
            killed = time.monotonic()
            said = upload.communicate(timeout=60)[1]
            check(upload.returncode != 0, f"{victim} killed, and curl is content")
            if victim == "front":
                rig.serve.wait()
                rig.start()
            else:
                # A dead mount has no entries to show, and the floor below it has none to give.
                with contextlib.suppress(OSError):
                    check("fuse.cosgate" in shell("findmnt", "-no", "FSTYPE", rig.home(), check_exit=False).stdout
                          or not list(rig.home().iterdir()), "something lies on the local disk")
            until(lambda: rig.ftp(timeout=5).nlst() is not None and "kept" in rig.ftp(timeout=5).nlst(), 10, "service back")
            back = time.monotonic() - killed
            if session:
                check("kept" in session.nlst(), "the old session does not go on")
            until(lambda: not rig.uploads() or True, 5, "")
            objects = rig.objects()
            check(objects["kept"]["size"] == 3, f"{victim}: {objects['kept']}")
            print(f"  {victim} killed: service back after {back:.1f} s, old object intact, open uploads {len(rig.uploads())}; curl said {said.strip()[-80:]}")
            check(back <= 5, "later than 5 s")
        check(not state_d(), f"state D: {state_d()}")
    check(not [m for m in mounts_below("/tmp/cosgate-accept-")], "mounts left")


@scenario
def hundred():
    """100 sessions, 16 MiB each, at once."""
    with Rig() as rig:
        sources = [random_file(rig.dir / f"{n}.payload", 16 * MIB) for n in range(100)]

        def upload(n):
            client = rig.ftp(timeout=300)
            with open(sources[n], "rb") as f:
                client.storbinary(f"STOR f{n}", f, blocksize=1 << 18)
        begun = time.monotonic()
        failures = side_by_side([functools.partial(upload, n) for n in range(100)])
        seconds = time.monotonic() - begun
        check(not failures, f"failures: {failures[:3]}")
        wrong = [n for n in range(100) if sha256(sources[n]) != sha256(rig.home() / f"f{n}")]
        peak = [status(pid, "VmHWM") // 1024 for pid in (rig.front, rig.mount)]
        print(f"  1600 MiB in {seconds:.1f} s; wrong sums {wrong}; peak RSS front {peak[0]}, mount {peak[1]} MiB")
        check(not wrong and sum(peak) <= 356, "sums or memory")


@scenario
def slow_publish():
    """A Complete that takes 4 s: LIST and STOR of other names in the same directory meanwhile."""
    import io
    with Rig() as rig:
        source = random_file(rig.dir / "x.payload", 32 * MIB)
        rig.admin("POST", "/faults", {"operation": "CompleteMultipartUpload", "kind": "delay", "milliseconds": 4000, "times": 1})
        upload = subprocess.Popen(["curl", "-sS", "-T", str(source), rig.url("slow")], stdin=subprocess.DEVNULL)
        time.sleep(1.2)
        client, slowest = rig.ftp(), 0
        while upload.poll() is None:
            for act in (lambda: client.nlst(), lambda: client.storbinary("STOR other", io.BytesIO(b"x" * 100_000)),
                        lambda: os.listdir(rig.home())):
                begun = time.monotonic()
                act()
                slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.1)
        check(upload.returncode == 0 and "slow" in rig.objects(), "the slow one failed")
        print(f"  slowest of LIST, STOR, ls meanwhile: {slowest * 1000:.0f} ms")
        check(slowest < 1, "slower than 1 s")
