"""Scenarios: rates, and SIGHUP while others work."""

import hashlib
import io
import signal
import socket
import time

from rig import MIB, Rig, check, random_file, scenario, sha256, side_by_side, until


class Measured(io.RawIOBase):
    """A source without an end of its own, that ends after so many seconds and bytes."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def read(self, size=-1):
        piece = min(size, self.left)
        self.left -= piece
        return b"\x5a" * piece


def at_once(works):
    """Runs them side by side; the first failure is raised."""
    for _, error in side_by_side(works):
        raise error


def rate_of(rig, account, verb, sessions, size):
    """Bytes per second of all sessions, from the first command to the last 226, and of each one."""
    seconds = []

    def one(number):
        with rig.ftp(account) as client:
            begun = time.monotonic()
            if verb == "STOR":
                client.storbinary(f"STOR up{number}", Measured(size // sessions))
            else:
                client.retrbinary(f"RETR down{size // sessions}", lambda piece: None, blocksize=65536)
            seconds.append(time.monotonic() - begun)

    begun = time.monotonic()
    at_once([lambda number=number: one(number) for number in range(sessions)])
    whole = size // sessions * sessions / (time.monotonic() - begun)
    return whole, [size // sessions / taken for taken in seconds]


@scenario
def throttle():
    """Rates of a user hold within 5 % over ten seconds, up and down, for one session and for four"""
    rates = [1_000_000, 20_000_000]
    accounts = [{"max_upload_rate": rate, "max_download_rate": rate} for rate in rates]
    accounts.append({"max_upload_rate_per_session": rates[0], "max_download_rate_per_session": rates[0]})
    with Rig(accounts=accounts) as rig:
        sources = [(account, size) for account, rate in enumerate(rates) for size in (rate * 10, rate * 10 // 4)]
        sources.append((2, rates[0] * 10))
        for account, size in sources:
            (rig.home(account) / f"down{size}").write_bytes(b"\xa5" * size)
        for account, rate in enumerate(rates):
            for verb in ("STOR", "RETR"):
                for sessions in (1, 4):
                    whole, each = rate_of(rig, account, verb, sessions, rate * 10)
                    fair = f", sessions {min(each) / 1e6:.3f} to {max(each) / 1e6:.3f}" if sessions > 1 else ""
                    print(f"  {verb} {sessions} session(s) at {rate / 1e6:.0f} MB/s: {whole / 1e6:.3f} MB/s"
                          f" ({whole / rate * 100 - 100:+.2f} %){fair}", flush=True)
                    check(abs(whole / rate - 1) < 0.05, f"{verb}: {whole} is not {rate}")
                    check(max(each) / min(each) < 1.2, f"{verb}: sessions are not served alike: {each}")
        for verb in ("STOR", "RETR"):
            whole, each = rate_of(rig, 2, verb, 2, rates[0] * 20)
            print(f"  {verb} 2 sessions at 1 MB/s each: {whole / 1e6:.3f} MB/s", flush=True)
            check(all(abs(one / rates[0] - 1) < 0.05 for one in each), f"{verb}: {each}")


@scenario
def reload():
    """SIGHUP during ten large transfers: none is disturbed, users and mounts come and go meanwhile"""
    with Rig(accounts=[{}, {}, {"max_upload_rate": "50M"}]) as rig:
        source = random_file(rig.dir / "source", 256 * MIB)
        wanted = sha256(source)
        with open(source, "rb") as file, rig.ftp() as client:
            client.storbinary("STOR there", file, blocksize=MIB)
        log = rig.dir / "log" / "cosgate-serve.log"
        mount_pid = rig.mount

        def apply(change, word="reloaded"):
            before = log.read_text().count(f" {word}")
            rig.config.write_text(change(rig.config.read_text()))
            rig.serve.send_signal(signal.SIGHUP)
            return until(lambda: log.read_text().count(f" {word}") > before, 60, word)

        def upload(number):
            with open(source, "rb") as file, rig.ftp() as client:
                client.storbinary(f"STOR f{number}", file, blocksize=MIB)
                client.voidcmd("NOOP")

        def download(_number):
            digest = hashlib.sha256()
            with rig.ftp() as client:
                client.retrbinary("RETR there", digest.update, blocksize=MIB)
                client.voidcmd("NOOP")
            check(digest.hexdigest() == wanted, "a download differs")

        def reloads():
            time.sleep(0.5)
            seconds = [apply(lambda text: text.replace("pass1\n", "changed\n"))]
            seconds.append(apply(lambda text: text + "idle_timeout = sooner\n", "not reloaded"))
            text = rig.config.read_text().replace("idle_timeout = sooner\n", "")
            account = text[text.index("[COS_ACCOUNT_2]"):text.index("[NETWORK]")]
            seconds.append(apply(lambda _: text.replace(account, "")))
            seconds.append(apply(lambda _: text.replace("[NETWORK]\n", "[NETWORK]\nbanner = as of now\n")))
            print(f"  four reloads: {', '.join(f'{s:.2f} s' for s in seconds)}", flush=True)
            with rig.ftp(2) as client:
                client.storbinary("STOR again", io.BytesIO(b"x"))
            with socket.create_connection(("127.0.0.1", rig.ftp_port)) as control:
                check(b"as of now" in control.recv(200), "the banner is the old one")

        begun = time.monotonic()
        works = [lambda n=n: (upload if n % 2 else download)(n) for n in range(10)]
        at_once([*works, reloads])
        print(f"  ten transfers of 256 MiB: {time.monotonic() - begun:.1f} s", flush=True)
        check(rig.mount == mount_pid, "the mount process was started anew")
        sizes = [o["bytes"] if "bytes" in o else o["size"] for o in rig.objects().values()]
        check(sizes == [256 * MIB] * 6, f"objects: {sizes}")
        check("again" in rig.objects(2), "the account that came back has no object")
