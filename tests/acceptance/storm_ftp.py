"""The FTP clients of a storm."""

import hashlib
import time

from rig import MIB, until
from storm_session import HEAD, LARGEST, Session, record
from storm_worker import DIRECTORIES, LOGS, POOL, Worker, size_of


class Client(Worker):
    """FTP on names that everybody uses."""

    tls = False

    def begin(self):
        self.session = Session(self.storm.rig, self.tls)

    def finish(self):
        self.session.end()

    def deeds(self):
        return [(self.stor, 8), (self.append, 2), (self.restart, 2), (self.unique, 1), (self.broken, 4), (self.retr, 6),
                (self.half_retr, 3), (self.dele, 3), (self.rename, 4), (self.rename_directory, 1), (self.directories, 1),
                (self.listing, 2), (self.facts, 3), (self.log, 2), (self.versioned, 2)]

    def said(self, deed, reply):
        self.notes(deed, "->", reply)
        self.storm.counts(deed, reply)
        if reply.code not in (200, 213, 226, 250, 257, 350, 426, 450, 451, 521, 550, 554):
            self.storm.fails(self.name, f"{deed}: {reply}")
        return reply

    def stor(self, verb="STOR", rest=0, name=None):
        name = name or self.chance.choice(POOL)
        content_id, content = self.storm.fates.new(size_of(self.chance))
        allo = len(content) if self.chance.random() < 0.5 else None
        with self.on(name) as alone:
            _, reply = self.session.store(f"{verb} /{name}", content, rest, allo)
            self.said(f"{verb} {name} id {content_id:x} size {len(content)} rest {rest}", reply)
            self.storm.fates.ends(content_id, reply.code == 226)
            if self.chance.random() < 0.5 or reply.code != 226:
                found = self.object(name)
                if reply.code == 226 and verb == "STOR" and not rest and found != content and alone():
                    what = "no object" if found is None else f"{len(found)} bytes, {found[:HEAD]!r}"
                    what += f"; it stands at {self.storm.places_of(content)}"
                    self.wrong_at(f"226 to STOR {name}, alone, but there is {what}", name)

    def append(self):
        self.stor("APPE")

    def restart(self):
        self.stor("STOR", HEAD)

    def log(self):
        """Many append to one name that nobody removes: all that was acknowledged is there in the end."""
        name = self.chance.choice(LOGS)
        content_id, content = self.storm.fates.new(self.chance.randrange(HEAD, 3000))
        _, reply = self.session.store(f"APPE /{name}", content)
        self.said(f"APPE {name} id {content_id:x}", reply)
        self.storm.fates.ends(content_id, reply.code == 226)
        if reply.code == 226:
            self.storm.appended[name].append(content_id)

    def unique(self):
        directory = self.chance.choice(DIRECTORIES)
        content_id, content = self.storm.fates.new(size_of(self.chance, 2 * MIB))
        moved = self.session.ask(f"CWD /{directory}")
        if moved.code != 250:
            return
        with self.on("unique") as alone:
            first, reply = self.session.store("STOU", content)
            self.said(f"STOU {directory} id {content_id:x}", reply)
            self.storm.fates.ends(content_id, reply.code == 226)
            if reply.code == 226:
                name = first.split("FILE: ", 1)[1].strip().lstrip("/")
                found = self.storm.store.get(name)
                if found != content and alone():
                    self.fails(f"226 to STOU {name}, but there is {found and found[:HEAD]!r}")
                self.session.ask(f"DELE /{name}")
        self.session.expect(self.session.ask("CWD /"), 250)

    def broken(self):
        name, how = self.chance.choice(POOL), self.chance.choice(["abort", "reset", "cut"])
        content_id, content = self.storm.fates.new(self.chance.randrange(20_000, LARGEST))
        piece = content[:self.chance.randrange(1, len(content) - 1)]
        with self.on(name):
            reply = self.session.store_broken(f"STOR /{name}", piece, how)
            self.notes(how, name, f"id {content_id:x} after {len(piece)} of {len(content)}", "->", reply)
            self.storm.counts(f"STOR-{how}", reply)
            self.storm.fates.ends(content_id, False)
            self.object(name)
        if reply is None:
            self.begin()
        elif reply.code == 226:
            self.fails(f"226 to a STOR that ended by {how}")

    def retr(self):
        name = self.chance.choice(POOL)
        asked = time.monotonic()
        data, reply = self.session.fetch(f"RETR /{name}")
        self.said(f"RETR {name}", reply)
        if reply.code == 226:
            self.judge(data, "RETR", name, asked)

    def half_retr(self):
        name, how = self.chance.choice(POOL), self.chance.choice(["abort", "close"])
        data, reply = self.session.fetch(f"RETR /{name}", until=self.chance.randrange(1, 4 * MIB), how=how)
        self.notes("RETR", how, name, "->", reply)
        self.storm.counts(f"RETR-{how}", reply)
        if reply.code == 226 and how == "abort" and data:
            self.storm.counts("RETR-abort-whole", "226")

    def dele(self):
        name = self.chance.choice(POOL)
        with self.on(name) as alone:
            reply = self.said(f"DELE {name}", self.session.ask(f"DELE /{name}"))
            if reply.code == 250 and self.storm.store.get(name) is not None and alone():
                self.wrong_at(f"250 to DELE {name}, alone, but it is there", name)

    def rename(self):
        source, target = self.chance.sample(POOL, 2)
        with self.on(source, target) as alone:
            before = self.storm.store.get(source)
            if self.said(f"RNFR {source}", self.session.ask(f"RNFR /{source}")).code != 350:
                return
            reply = self.said(f"RNTO {target}", self.session.ask(f"RNTO /{target}"))
            if reply.code == 250:
                source_now, target_now = self.storm.store.get(source), self.storm.store.get(target)
                if alone() and (source_now is not None or target_now != before):
                    self.wrong_at(f"{source} renamed to {target}, alone: source {source_now and source_now[:HEAD]}, "
                                  f"target {target_now and target_now[:HEAD]}, was {before and before[:HEAD]}", source, target)

    def rename_directory(self):
        source = self.chance.choice(["s/a", "s/b", "s/b/c"])
        with self.on("*"):
            for old, new in ((source, "s/moved"), ("s/moved", source)):
                if self.said(f"RNFR-directory {old}", self.session.ask(f"RNFR /{old}")).code != 350:
                    continue
                self.said(f"RNTO-directory {new}", self.session.ask(f"RNTO /{new}"))
            self.session.ask(f"MKD /{source}")

    def directories(self):
        name = f"s/d{self.chance.randrange(3)}"
        with self.on(name):
            self.said("MKD", self.session.ask(f"MKD /{name}"))
            self.said("RMD", self.session.ask(f"RMD /{name}"))

    def listing(self):
        directory = self.chance.choice(DIRECTORIES)
        if self.chance.random() < 0.5:
            _, reply = self.session.fetch(f"LIST /{directory}")
        else:
            _, reply = self.session.names(f"/{directory}")
        self.said(f"LIST {directory}", reply)

    def facts(self):
        verb = self.chance.choice(["SIZE", "MDTM", "HASH", "MLST"])
        self.said(verb, self.session.ask(f"{verb} /{self.chance.choice(POOL)}"))

    def versioned(self):
        """A file of a shell program of its own: a download is one of the contents it has had."""
        name = f"m{self.chance.randrange(3)}/{self.chance.choice('abcd')}"
        data, reply = self.session.fetch(f"RETR /{name}")
        self.said(f"RETR {name}", reply)
        if reply.code == 226 and hashlib.sha1(data).digest() not in self.storm.versions[name]:
            self.wrong_at(f"RETR {name}: {len(data)} bytes that it has never had: {data[:80]!r}", name, name.split("/")[0])


class Owner(Worker):
    """FTP in a directory of its own, with a model: nothing may fail."""

    tls = False

    def begin(self):
        self.session, self.files, self.directories, self.outdated = Session(self.storm.rig, self.tls), {}, set(), set()
        self.expects("MKD", f"/{self.name}", 257)

    def finish(self):
        self.session.end()
        for name, content in self.files.items():
            found = self.storm.store.get(name)
            self.check(found == content, lambda: f"in the end {name} is {self.shown(found)}, not {self.shown(content)}")

    @staticmethod
    def shown(content):
        return "absent" if content is None else f"{len(content)} bytes {content[:HEAD]!r}"

    def deeds(self):
        return [(self.stor, 6), (self.append, 2), (self.restart, 2), (self.unique, 1), (self.broken, 5), (self.retr, 5),
                (self.half_retr, 3), (self.dele, 3), (self.rename, 3), (self.directory, 2), (self.rename_directory, 1),
                (self.listing, 2), (self.facts, 4)]

    def expects(self, verb, path, *codes):
        reply = self.session.ask(f"{verb} {path}")
        self.notes(verb, path, "->", reply)
        self.storm.counts(f"own-{verb}", reply)
        self.check(reply.code in codes, f"{verb} {path}: expected {codes}, got {reply}")
        return reply

    def some(self):
        """A name, there or not."""
        directory = self.chance.choice(sorted(self.directories) + [self.name] * 3)
        return f"{directory}/{self.chance.choice('abcdef')}"

    def one(self):
        return self.chance.choice(sorted(self.files)) if self.files else None

    def stands(self, name):
        found = self.storm.store.get(name)
        self.check(found == self.files.get(name),
                   lambda: f"the object {name} is {self.shown(found)}, not {self.shown(self.files.get(name))}; "
                           f"that stands at {self.storm.places_of(self.files.get(name) or b'')}")

    def sends(self, verb, name, content, becomes, rest=0):
        allo = len(content) if self.chance.random() < 0.5 else None
        _, reply = self.session.store(f"{verb} /{name}", content, rest, allo)
        self.notes(verb, name, f"rest {rest} size {len(content)} allo {allo}", "->", reply)
        self.storm.counts(f"own-{verb}", reply)
        if (rest or verb == "APPE") and name in self.outdated and reply.code == 554:
            return self.stands(name)
        self.check(reply.code == 226, f"{verb} {name}: {reply}")
        self.files[name] = becomes
        if not rest and verb != "APPE":
            self.outdated.discard(name)
        self.stands(name)

    def content(self, largest=LARGEST):
        return record(self.chance.randrange(1 << 40, 1 << 41), size_of(self.chance, largest))

    def stor(self):
        content = self.content()
        self.sends("STOR", self.some(), content, content)

    def append(self):
        name, content = self.some(), self.content(2 * MIB)
        self.sends("APPE", name, content, (self.files.get(name) or b"") + content)

    def restart(self):
        if name := self.one():
            old, content = self.files[name], self.content(2 * MIB)
            at = self.chance.randrange(len(old) + 1)
            self.sends("STOR", name, content, old[:at] + content, at)

    def unique(self):
        self.expects("CWD", f"/{self.name}", 250)
        content = self.content(MIB)
        first, reply = self.session.store("STOU", content)
        self.check(reply.code == 226, f"STOU: {reply}")
        name = first.split("FILE: ", 1)[1].strip().lstrip("/")
        self.check(name not in self.files, f"STOU took {name}, which is there")
        self.files[name] = content
        self.stands(name)
        self.expects("DELE", f"/{name}", 250)
        del self.files[name]
        self.stands(name)

    def broken(self):
        name, how = self.some(), self.chance.choice(["abort", "reset", "cut"])
        content = record(self.chance.randrange(1 << 40, 1 << 41), self.chance.randrange(20_000, LARGEST))
        piece = content[:self.chance.randrange(1, len(content) - 1)]
        reply = self.session.store_broken(f"STOR /{name}", piece, how)
        self.notes(how, name, f"after {len(piece)} of {len(content)}", "->", reply)
        self.storm.counts(f"own-STOR-{how}", reply)
        self.check(reply is None or reply.code == 426, f"STOR {name}, {how}: {reply}")
        self.outdated.add(name)
        self.stands(name)
        if reply is None:
            self.session = Session(self.storm.rig, self.tls)
        # The end of a connection reaches the server when it does, and what was under way is given up then.
        until(lambda: self.tells_truth(name), 30, f"SIZE of {name}, of which a STOR broke, tells what is there")

    def tells_truth(self, name):
        reply = self.session.ask(f"SIZE /{name}")
        self.notes("SIZE", name, "->", reply)
        content = self.files.get(name)
        return reply.code == 550 if content is None else reply == f"213 {len(content)}"

    def retr(self):
        if name := self.one():
            content = self.files[name]
            at = self.chance.randrange(len(content) + 1) if self.chance.random() < 0.3 else 0
            data, reply = self.session.fetch(f"RETR /{name}", at)
            self.notes("RETR", name, at, "->", reply)
            self.storm.counts("own-RETR", reply)
            self.check(reply.code == 226, f"RETR {name} from {at}: {reply}")
            self.check(data == content[at:], lambda: f"RETR {name} from {at}: {self.shown(data)}, not {self.shown(content[at:])}")

    def half_retr(self):
        if name := self.one():
            content, how = self.files[name], self.chance.choice(["abort", "close"])
            data, reply = self.session.fetch(f"RETR /{name}", until=self.chance.randrange(1, 4 * MIB), how=how)
            self.notes("RETR", how, name, "->", reply)
            self.storm.counts(f"own-RETR-{how}", reply)
            self.check(reply.code in (226, 426), f"RETR {name}, {how}: {reply}")
            self.check(content.startswith(data), lambda: f"RETR {name}: {self.shown(data)}, not of {self.shown(content)}")

    def dele(self):
        name = self.some()
        self.expects("DELE", f"/{name}", 250 if name in self.files else 550)
        self.files.pop(name, None)
        self.stands(name)

    def rename(self):
        if source := self.one():
            target = self.some()
            self.expects("RNFR", f"/{source}", 350)
            self.expects("RNTO", f"/{target}", 250)
            if source != target:
                self.files[target] = self.files.pop(source)
                if source in self.outdated:
                    self.outdated.add(target)
            self.stands(source)
            self.stands(target)

    def directory(self):
        path = f"{self.name}/{self.chance.choice('xyz')}"
        is_full = any(name.startswith(path + "/") for name in self.files)
        if path not in self.directories:
            self.expects("MKD", f"/{path}", 257)
            self.directories.add(path)
        else:
            self.expects("RMD", f"/{path}", 550 if is_full else 250)
            if not is_full:
                self.directories.discard(path)

    def rename_directory(self):
        free = [p for p in (f"{self.name}/{x}" for x in "xyz") if p not in self.directories]
        if not self.directories or not free:
            return
        source, target = self.chance.choice(sorted(self.directories)), self.chance.choice(free)
        self.expects("RNFR", f"/{source}", 350)
        self.expects("RNTO", f"/{target}", 250)
        self.directories ^= {source, target}
        for name in [n for n in self.files if n.startswith(source + "/")]:
            moved = target + name.removeprefix(source)
            self.files[moved] = self.files.pop(name)
            if name in self.outdated:
                self.outdated.add(moved)
            self.stands(name)
            self.stands(moved)

    def listing(self):
        directory = self.chance.choice(sorted(self.directories) + [self.name])
        facts, reply = self.session.names(f"/{directory}")
        self.check(facts is not None, f"MLSD {directory}: {reply}")
        inside = lambda names: {n.rsplit("/", 1)[1]: n for n in names if n.rsplit("/", 1)[0] == directory}
        expected = {n: len(self.files[path]) for n, path in inside(self.files).items()} | dict.fromkeys(inside(self.directories))
        told = {n: int(f["size"]) if f["type"] == "file" else None for n, f in facts.items()}
        self.check(told == expected, f"MLSD {directory}: {told}, not {expected}")

    def facts(self):
        if name := self.one():
            content = self.files[name]
            reply = self.expects("SIZE", f"/{name}", 213)
            self.check(reply == f"213 {len(content)}", f"SIZE {name}: {reply}, not {len(content)}")
            self.expects("MDTM", f"/{name}", 213)
            if self.chance.random() < 0.5:
                reply = self.expects("XSHA256", f"/{name}", 250)
                self.check(hashlib.sha256(content).hexdigest() in reply.lower(), f"XSHA256 {name}: {reply}")


class TlsClient(Client):
    tls = True


class TlsOwner(Owner):
    tls = True
