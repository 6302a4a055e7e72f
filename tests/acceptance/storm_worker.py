"""Who does random deeds in a storm."""

import contextlib
import random
import threading
import time
import traceback

from rig import MIB
from storm_session import HEAD, LARGEST, Strange

DIRECTORIES = ["s", "s/a", "s/b", "s/b/c"]
POOL = [f"{directory}/{name}" for directory in DIRECTORIES for name in "pqrstuv"]
LOGS = ["logs/one", "logs/two"]
SHELL_SECONDS = 150


def size_of(chance, largest=LARGEST):
    """Nothing, a little, about a part, much."""
    kinds = [
        lambda: 0, lambda: chance.randrange(HEAD, 5000), lambda: chance.randrange(HEAD, MIB),
        lambda: chance.randrange(MIB, min(largest, 9 * MIB) + 1), lambda: chance.choice([MIB, min(largest, 4 * MIB), min(largest, 4 * MIB + 1)]),
        lambda: chance.randrange(HEAD, largest)]
    return kinds[min(5, int(chance.expovariate(0.5)))]()


class Worker:
    """Does one random deed after the other until the storm is over."""

    def __init__(self, storm, name):
        self.storm, self.name, self.chance = storm, name, random.Random(f"{storm.seed} {name}")
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)
        self.thread.start()

    def notes(self, *words):
        self.storm.notes(self.name, " ".join(map(str, words)))

    def fails(self, why):
        self.storm.fails(self.name, f"{why}\n      {self.storm.around(f'{self.name}: ')}")

    def wrong_at(self, why, *names):
        """Something is wrong with what is under these names."""
        self.storm.fails(self.name, f"{why}\n      {self.storm.around(*names)}")

    @contextlib.contextmanager
    def on(self, *names):
        self.storm.notes(self.name, f"begins on {' '.join(names)}")
        with self.storm.touches.on(*names) as alone:
            yield alone

    def check(self, condition, why):
        if not condition:
            raise Strange(why() if callable(why) else why)

    def judge(self, data, where, name, asked):
        if data is not None and (why := self.storm.fates.judge(data, f"{where} {name}", asked)):
            self.wrong_at(why, name)

    def object(self, name):
        """What the store has under a name, judged."""
        asked = time.monotonic()
        found = self.storm.store.get(name)
        self.judge(found, "the object", name, asked)
        return found

    def run(self):
        try:
            self.begin()
            deeds, weights = zip(*self.deeds())
            while self.storm.goes_on():
                deed = self.chance.choices(deeds, weights)[0]
                deed()
                self.storm.done[f"{type(self).__name__}.{deed.__name__}"] += 1
            self.finish()
        except Strange as strange:
            self.fails(strange)
        except Exception:
            self.fails(traceback.format_exc())

    def begin(self):
        pass

    def finish(self):
        pass
