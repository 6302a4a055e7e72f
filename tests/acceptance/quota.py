"""A quota: parallel writers against it, what df says of it, and what is left of it behind a crash."""

import os
import signal
import subprocess

from rig import MIB, Rig, check, random_file, scenario, shell, until

LIMIT = 64 * MIB
FILES = 40


def _space(rig):
    space = os.statvfs(rig.home())
    return space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize, space.f_files, space.f_ffree


def _stored(rig):
    objects = rig.objects()
    return sum(o["size"] for o in objects.values()), len(objects)


def _is_right(rig):
    used, files = _stored(rig)
    return _space(rig) == (LIMIT, LIMIT - used, FILES, FILES - files)


@scenario
def quota():
    """12 uploads of 16 MiB against a quota of 64 MiB; df; SIGKILL of the mount in the middle, and of everything."""
    with Rig(accounts=[{"quota": "64M", "quota_files": str(FILES)}], emulator=["--per-connection-bandwidth", str(8 * MIB)],
             data=True) as rig:
        source = random_file(rig.dir / "part.payload", 16 * MIB)
        small = random_file(rig.dir / "small.payload", 4 * MIB)
        check(_space(rig) == (LIMIT, LIMIT, FILES, FILES), f"empty: {_space(rig)}")

        def uploads(file, names):
            running = [subprocess.Popen(["curl", "-sS", "-T", file, rig.url(name)], stderr=subprocess.PIPE, text=True)
                       for name in names]
            most = 0
            while any(p.poll() is None for p in running):
                most = max(most, _stored(rig)[0])
            said = [p.communicate()[1] for p in running]
            return [p.returncode for p in running], most, said

        codes, most, said = uploads(source, [f"f{n}" for n in range(12)])
        used = _stored(rig)[0]
        check(most <= LIMIT, f"{most} bytes were stored")
        check(used == codes.count(0) * 16 * MIB, f"226 {codes.count(0)} times, {used} bytes stored")
        # 70: the reply was 552. 55: it went on sending, was cut off, and did not look at the reply.
        check(set(codes) <= {0, 55, 70}, str(said))
        check(_is_right(rig), f"{_space(rig)} with {_stored(rig)}")
        print(f"  12 uploads at once: {codes.count(0)} stored, {12 - codes.count(0)} refused; at most {most // MIB} of 64 MiB")
        for name in list(rig.objects()):
            (rig.home() / name).unlink()
        codes, most, _ = uploads(small, [f"g{n}" for n in range(20)])
        check(most <= LIMIT and _is_right(rig), f"{_space(rig)} with {_stored(rig)}")
        print(f"  20 of 4 MiB at once: {codes.count(0)} stored; at most {most // MIB} of 64 MiB")
        full = shell("cp", source, rig.home() / "g0", check_exit=False)
        before = _stored(rig)
        while shell("cp", small, rig.home() / f"h{_stored(rig)[1]}", check_exit=False).returncode == 0:
            pass
        full = shell("cp", source, rig.home() / "last", check_exit=False)
        check("Disk quota exceeded" in full.stderr, full.stderr)
        check(_stored(rig)[0] <= LIMIT and _stored(rig) >= before and _is_right(rig), f"{_space(rig)} with {_stored(rig)}")
        print("  " + " ".join(shell("df", "-h", "--output=size,used,avail,iused,ipcent", rig.home()).stdout.split()))

        for name in list(rig.objects())[:4]:
            (rig.home() / name).unlink()
        upload = subprocess.Popen(["curl", "-sS", "-T", source, rig.url("killed")], stderr=subprocess.DEVNULL)
        until(lambda: _space(rig)[1] < LIMIT - _stored(rig)[0], 20, "the upload takes room")
        os.kill(rig.mount, signal.SIGKILL)
        check(upload.wait(60) != 0, "226 of a killed mount")
        took = until(lambda: _is_right(rig), 30, "df right after SIGKILL of the mount")
        print(f"  SIGKILL of the mount in an upload: df right again after {took:.1f} s")
        mount = rig.mount
        rig.serve.send_signal(signal.SIGKILL)
        rig.serve.wait(10)
        until(lambda: not os.path.exists(f"/proc/{mount}"), 30, "the mount follows")
        rig.start()
        until(lambda: _is_right(rig), 30, "df right after SIGKILL of everything")
        shell("curl", "-sS", "-T", small, rig.url("after"))
        check(_is_right(rig), f"{_space(rig)} with {_stored(rig)}")
