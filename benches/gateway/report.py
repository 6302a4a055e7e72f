"""From single figures to medians, ratios, targets, a table and a plot."""

import dataclasses
import datetime
import os
import platform
import shutil
import statistics
import subprocess
from xml.sax.saxutils import escape

from contenders import RCLONE
from store import BUCKET

GIB = 1 << 30
WIRE_TITLES = {"fast": "As fast as it goes", "wire": "With 20 ms and 40 MB/s for each connection"}
ROUND_TRIP = 0.020
WIRE_RATE = 40.0
OURS, BARE, VSFTPD = "cosgate", "bare HTTP client", "vsftpd on tmpfs"


@dataclasses.dataclass
class Target:
    """A figure that is to be reached, and the one that was."""

    what: str
    wanted: str
    figure: str
    is_met: bool


def _versions():
    """The first line of what each peer says of itself, as far as it is installed."""
    asked = {RCLONE: "version", "s3fs": "--version", "vsftpd": "-v", "curl": "--version"}
    for name, how in asked.items():
        if shutil.which(name):
            # vsftpd tells it to its standard input.
            told = subprocess.run(f"{name} {how} 0>&1 2>&1", shell=True, capture_output=True, text=True, timeout=60).stdout
            # Without what it was built with.
            yield told.splitlines()[0].split(" (")[0].strip() if told else name


class Report:
    def __init__(self, results, contenders, works, scale):
        self.results, self.contenders, self.works, self.scale = results, contenders, works, scale

    # ---- figures

    def cell(self, wire, work, contender):
        """The rounds that went well; empty where there is none."""
        figures = self.results.get(wire, {}).get(work, {}).get(contender, [])
        return [] if any("failed" in entry for entry in figures) else figures

    def median(self, wire, work, contender, field="value"):
        values = [entry[field] for entry in self.cell(wire, work, contender) if field in entry]
        return statistics.median(values) if values else None

    def per_gib(self, wire, work, contender, field):
        values = [entry[field] * GIB / entry["bytes"] for entry in self.cell(wire, work, contender) if "bytes" in entry]
        return statistics.median(values) if values else None

    def is_late(self, contender):
        """Whether a 226 of it came before its object, in any work."""
        cells = [cell for wire in self.results.values() for cell in wire.values()]
        return any("late" in entry for cell in cells for entry in cell.get(contender, []))

    def peers(self):
        return [contender.name for contender in self.contenders if contender.is_peer and contender.name != OURS]

    def failures(self):
        return [f"failed: {wire} {work} {name}: {entry['failed']}" for wire, works in self.results.items()
                for work, cells in works.items() for name, entries in cells.items() for entry in entries if "failed" in entry]

    # ---- targets

    def targets(self):
        return [target for make in (self._streams, self._parallels, self._small_files, self._names, self._reads, self._memory)
                for target in make()]

    def bound(self, work, allowed):
        """MB/s that the cores allow where the gateway takes `allowed` CPU seconds per GiB."""
        client, store = (self.per_gib("fast", work, BARE, field) for field in ("client_cpu", "store_cpu"))
        if client is None or store is None or client + store + allowed == 0:
            return None
        return os.cpu_count() / (client + store + allowed) * GIB / 1e6

    def _at_least(self, what, figure, wanted, formula, unit, digits=0):
        if figure is None or wanted is None:
            return
        unit = f" {unit}" if unit else ""
        yield Target(what, f"≥ {wanted:.{digits}f}{unit} ({formula})", f"{figure:.{digits}f}{unit}", figure >= wanted)

    def _at_most(self, what, figure, wanted, formula, unit, digits=2):
        if figure is None:
            return
        told = f"≤ {wanted:.{digits}f} {unit}" + (f" ({formula})" if formula else "")
        yield Target(what, told, f"{figure:.{digits}f} {unit}", figure <= wanted)

    def _streams(self):
        for work, like, allowed in (("stor", "stor", 1.2), ("retr", "retr", 1.0), ("cp", "stor", 0.8), ("cat", "retr", 0.8)):
            figure, bound = self.median("fast", work, OURS), self.bound(like, allowed)
            yield from self._at_least(work, figure, bound and 0.9 * bound, f"0.9 bound({allowed} s)", "MB/s")
            for peer in self.peers() if work in ("stor", "retr") else ():
                if work == "stor" and self.is_late(peer):
                    continue
                yield from self._at_least(f"{work} beside {peer}", figure, self.median("fast", work, peer), "the peer", "MB/s")
        for work, allowed in (("stor", 1.2), ("retr", 1.0)):
            yield from self._at_most(f"{work}: CPU of front and mount", self.per_gib("fast", work, OURS, "cpu"), allowed, "", "s/GiB")
        for work in ("stor", "retr"):
            figure = self.median("wire", work, OURS)
            yield from self._at_least(f"{work} on the wire", figure, 0.9 * 8 * WIRE_RATE, "0.9 of 8 connections", "MB/s")
        figure = self.median("wire", "first-byte", OURS)
        yield from self._at_most("first byte of a RETR on the wire", figure, 2 * ROUND_TRIP, "2 round trips", "s", 3)

    def _parallels(self):
        for verb in ("stor", "retr"):
            for count in (4, 16):
                work = f"{verb}-{count}"
                figure, single = self.median("fast", work, OURS), self.median("fast", verb, OURS)
                yield from self._at_least(f"{work}, total", figure, single, "the single stream", "MB/s")
                fairness = self.median("fast", work, OURS, "fairness")
                yield from self._at_least(f"{work}, slowest", fairness, 0.5, "of the mean", "", 2)

    def _small_files(self):
        ours, ftp, put = (self.median("fast", "small", name) for name in (OURS, VSFTPD, BARE))
        if ftp and put:
            wanted = 0.8 / (1 / ftp + 1 / put + 0.002)
            yield from self._at_least("small", ours, wanted, "0.8 / (1/vsftpd + 1/bare + 2 ms)", "files/s")
        yield from self._at_least("small-16", self.median("fast", "small-16", OURS), ours and 3 * ours, "3 × one session", "files/s")
        figure = self.median("wire", "small", OURS)
        yield from self._at_least("small on the wire", figure, 0.8 / ROUND_TRIP, "0.8 files per round trip", "files/s", 1)

    def _names(self):
        # The times are for 10,000 names; those of a shorter run say nothing.
        if self.scale.names != 10_000:
            return
        for wire, work, wanted, formula in (("fast", "list", 0.2, ""), ("wire", "list", 12 * ROUND_TRIP, "12 round trips"),
                                            ("fast", "ls-cold", 0.25, ""), ("fast", "ls-warm", 0.05, "")):
            what = work + (" on the wire" if wire == "wire" else "")
            yield from self._at_most(what, self.median(wire, work, OURS), wanted, formula, "s", 3)
        for work in ("list", "ls-cold"):
            for entry in self.cell("fast", work, OURS)[:1]:
                lists, heads = (entry["requests"].get(name, 0) for name in ("ListObjects", "HeadObject"))
                # A page holds 1,000 names; each of the two elements of the path may be asked for.
                wanted = "≤ 10 LIST and 1 for each element of the path, no HEAD"
                yield Target(f"{work}: requests", wanted, f"{lists} LIST, {heads} HEAD", lists <= 12 and heads == 0)

    def _reads(self):
        bare = self.median("fast", "random", BARE)
        yield from self._at_least("random", self.median("fast", "random", OURS), bare and 0.7 * bare, "0.7 of bare ranged GETs", "reads/s")
        yield from self._at_most("random: bytes fetched for each read", self.median("fast", "random", OURS, "ratio"), 1.05, "", "times")

    def _memory(self):
        for work in ("stor", "retr"):
            # Before any parallel ones, whose memory may still be held for the next.
            peaks = [entry["peak_mib"] for entry in self.cell("fast", work, OURS)]
            yield from self._at_most(f"{work}: peak memory of front and mount", max(peaks, default=None), 160, "", "MiB", 0)

    # ---- words

    def markdown(self, plot):
        lines = ["# Benchmarks", "", *self._how(plot)]
        for wire in self.results:
            lines += ["", f"## {WIRE_TITLES[wire]}", "", *self._table(wire)]
        lines += ["", "## CPU and memory", "", *self._costs(), "", "## Targets", "", *self._target_lines()]
        lines += ["", "## How each was started", ""]
        lines += [f"- {contender.name}: " + "; ".join(f"`{words}`" for words in contender.words)
                  for contender in self.contenders if contender.words]
        lines += ["", f"Versions: {', '.join(_versions())}."]
        failures = self.failures()
        if failures:
            lines += ["", "## What failed", "", *(f"- {line}" for line in failures)]
        return "\n".join(lines) + "\n"

    def summary(self):
        """The tables alone, for README."""
        lines = []
        for wire in self.results:
            lines += [f"{WIRE_TITLES[wire]}:", "", *self._table(wire), ""]
        return "\n".join(lines)

    def _gaps(self):
        """What a run that was cut short did not come to."""
        missing = [f"{work.name} ({wire})" for wire in self.results for work in self.works if not self.cell(wire, work.name, OURS)]
        return [f"The run was ended before: {', '.join(missing)}."] if missing else []

    def _rounds(self):
        """How many there were: of a run that was cut short, not the same for each work."""
        counts = {len(cell) for wire in self.results for work in self.results[wire] if (cell := self.cell(wire, work, OURS))}
        if len(counts) == 1:
            return f"{min(counts)} round{'s' if counts != {1} else ''}"
        return f"{min(counts)} to {max(counts)} rounds"

    def _how(self, plot):
        scale = self.scale
        mib = 1 << 20
        today = datetime.date.today().isoformat()
        return [
            f"![Throughput]({plot.name})", "",
            f"Made on {today} by `benches/gateway/run` on {os.cpu_count()} cores, {platform.system()} "
            f"{platform.release().split('-')[0]}: medians of {self._rounds()}, in each of which every contender did "
            f"the work once, in turns. Client, gateway and store share the machine, so absolute figures say little beyond it; "
            "ratios are to cosgate (in brackets: the contender's figure divided by ours).", "",
            f"The store is `cosgate emulator --fast-etag`, in memory, asked by all: cosgate in COS's dialect, the others as S3 "
            f"(bucket `{BUCKET}`). The large file has {scale.big // mib} MiB ({scale.wire_big // mib} MiB with latency), the parallel ones "
            f"{scale.parallel // mib} MiB each; {scale.small} small files ({scale.wire_small}) of 100 KB, a quarter of that for each of 16 "
            f"sessions; directories of {scale.names} names, new in each round; {scale.reads} random reads ({scale.wire_reads}). FTP is "
            "spoken by `benches/gateway/client.py`, which moves bytes between memory and socket in pieces of 1 MiB; it also is the bare client: "
            "8 MiB parts and ranges, 4 connections kept alive, signed beforehand. Every upload is compared "
            "with what was sent by length and CRC-64; of downloads every one by length, and in the first round one of FTP and one of the mount "
            "by SHA-256, as are all random reads.", "",
            *(["**Made with `--quick`: the figures show that the program works, and nothing else.**", ""] if scale.names < 10_000 else []),
            *(line for gap in self._gaps() for line in (gap, "")),
            "† answered 226 (or ended `cp`) before its object was in the store: its figure counts to the 226, not to the object.",
        ]

    def _names_shown(self):
        return [contender.name for contender in self.contenders]

    def _table(self, wire):
        names = self._names_shown()
        lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for work in self.works:
            ours = self.median(wire, work.name, OURS)
            if not any(self.results[wire].get(work.name, {}).values()):
                continue
            cells = [self._shown(wire, work, name, ours) for name in names]
            lines.append(f"| {work.title}, {work.unit} | " + " | ".join(cells) + " |")
        return lines

    def _shown(self, wire, work, name, ours):
        entries = self.results[wire].get(work.name, {}).get(name, [])
        if any("failed" in entry for entry in entries):
            return "failed"
        value = self.median(wire, work.name, name)
        if value is None:
            return ""
        late = "†" if any("late" in entry for entry in entries) else ""
        text = f"{value:.{work.digits}f}{late}"
        if name == OURS:
            return f"**{text}**"
        return f"{text} ({value / ours:.2f})" if ours else text

    def _costs(self):
        lines = ["CPU seconds of the gateway per GiB (front and mount, or a peer with its vsftpd), of the store and of the client, and the "
                 "gateway's peak memory in MiB; without latency.", "",
                 "| | STOR: gateway | store | client | MiB | RETR: gateway | store | client | MiB |", "|---|" + "---:|" * 8]
        for name in self._names_shown():
            cells = []
            for work in ("stor", "retr"):
                cells += [self.per_gib("fast", work, name, field) for field in ("cpu", "store_cpu", "client_cpu")]
                cells.append(self.median("fast", work, name, "peak_mib"))
            if any(cell is not None for cell in cells):
                told = ["" if cell is None else f"{cell:.0f}" if at % 4 == 3 else f"{cell:.2f}" for at, cell in enumerate(cells)]
                lines.append(f"| {name} | " + " | ".join(told) + " |")
        return lines

    def _target_lines(self):
        lines = ["bound(x) is what the machine allows a gateway that takes x CPU seconds per GiB: cores / (CPU seconds per GiB of the bare "
                 "client and the store, for the same work and in the same run, + x).", "",
                 "| Work | Target | Figure | |", "|---|---|---|---|"]
        for target in self.targets():
            lines.append(f"| {target.what} | {target.wanted} | {target.figure} | {'met' if target.is_met else '**missed**'} |")
        return lines

    # ---- the plot

    def svg(self):
        """Bars for each work that is a rate, one panel each, two wires beside each other."""
        works = [work for work in self.works if work.is_rate]
        wide, bar, gap = 460, 16, 26
        columns, tops, height = [], {}, 40
        for work in works:
            rows = max((len(self._bars(wire, work)) for wire in self.results), default=0)
            tops[work.name] = height
            height += rows * bar + gap * 2
        out = []
        for column, wire in enumerate(self.results):
            left = column * wide
            columns.append(f'<text x="{left + 8}" y="24" class="head">{escape(WIRE_TITLES[wire])}</text>')
            for work in works:
                out += self._panel(wire, work, left, tops[work.name], wide, bar)
        style = ("text{font:12px sans-serif;fill:#24292f}.head{font-weight:bold;font-size:14px}.title{font-weight:bold}"
                 ".ours{fill:#1f6feb}.peer{fill:#8c959f}.ceiling{fill:#d0d7de}")
        size = f'width="{wide * max(1, len(self.results))}" height="{height}"'
        return (f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>'
                + "".join(columns + out) + "</svg>\n")

    def _bars(self, wire, work):
        bars = [(contender, self.median(wire, work.name, contender.name)) for contender in self.contenders]
        return [(contender, value) for contender, value in bars if value is not None]

    def _panel(self, wire, work, left, top, wide, bar):
        bars = self._bars(wire, work)
        if not bars:
            return []
        most = max(value for _, value in bars) or 1
        out = [f'<text x="{left + 8}" y="{top + 14}" class="title">{escape(work.title)}, {escape(work.unit)}</text>']
        label, room = 165, wide - 165 - 75
        for at, (contender, value) in enumerate(bars):
            y = top + 22 + at * bar
            kind = "ours" if contender.name == OURS else "peer" if contender.is_peer else "ceiling"
            late = "†" if any("late" in entry for entry in self.cell(wire, work.name, contender.name)) else ""
            out.append(f'<text x="{left + label - 6}" y="{y + 11}" text-anchor="end">{escape(contender.name)}</text>'
                       f'<rect x="{left + label}" y="{y + 2}" width="{max(1, value / most * room):.1f}" height="{bar - 4}" class="{kind}"/>'
                       f'<text x="{left + label + value / most * room + 5:.1f}" y="{y + 11}">{value:.{work.digits}f}{late}</text>')
        return out
