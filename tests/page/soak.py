"""The page for a long time: `python -m tests.page.soak --minutes 30`. A table, then one JSON line.

A camera of the bundled clip, live, the page as a process of its own, and a browser that shows the camera. Every minute:
pictures shown, resident memory of the page and of the browser, and the objects that the page's script holds. Exits with 1
when the page or the browser has grown by more than a quarter between the end of the first fifth and the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from codecflow.codec.source import Source
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka
from tests.clips import BUNDLED

from .browser import Browser
from .camera import Cameras

FIGURES = """(() => { const v = document.querySelector('video'), b = v.buffered;
  return [v.getVideoPlaybackQuality().totalVideoFrames, (Date.now() - codecflow.player.shown.c) / 1000,
    b.length ? b.end(b.length - 1) - b.start(0) : 0]; })()"""


def resident_mb(*roots: int) -> float:
    """Memory of these processes and all their descendants."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        except OSError:
            continue
        parents[int(folder.name)] = int(status["PPid"])
        sizes[int(folder.name)] = int(status.get("VmRSS", "0 kB").split()[0])
    wanted = set(roots)
    while more := {one for one, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return sum(sizes.get(one, 0) for one in wanted) / 1024


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=30)
    minutes = arguments.parse_args().minutes
    with Source(str(BUNDLED)) as source:
        clip = [replace(p, width=p.width or 768, height=p.height or 432) for p in source.pictures("gate", 1)]
    with tempfile.TemporaryDirectory() as folder, LocalKafka(Path(folder) / "kafka") as kafka:
        settings = KafkaSettings(kafka.bootstrap_servers)
        create_topics(settings, partitions=2)
        command = [sys.executable, "-m", "codecflow", "page", "--port", "0"]
        environment = {**os.environ, "CODECFLOW_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
        with (
            Cameras(settings, {"gate": clip}),
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as page,
        ):
            assert page.stdout is not None
            address = page.stdout.readline().split()[1]
            (Path(folder) / "browser").mkdir()
            browser = Browser(Path(folder) / "browser")
            try:
                browser.call("Performance.enable")
                browser.go(f"{address}#gate")
                browser.until("window.codecflow && codecflow.player.shown !== null", "a picture")
                rows = watch(browser, page.pid, minutes)
            finally:
                browser.close()
                page.terminate()
    early, late = rows[max(0, len(rows) // 5 - 1)], rows[-1]
    grown = {name: round(late[name] / early[name], 3) for name in ("page_mb", "browser_mb")}
    print(json.dumps({"minutes": minutes, "grown": grown, "first": early, "last": late, "errors": browser.errors}))
    return int(max(grown.values()) > 1.25 or bool(browser.errors))


def watch(browser: Browser, page: int, minutes: float) -> list[dict[str, float]]:
    """A row per minute, or per tenth of the time if that is shorter."""
    every = min(60.0, 6 * minutes)
    rows: list[dict[str, float]] = []
    print("   min   shown   behind s   page MB   browser MB   heap MB   buffered s")
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * minutes:
        time.sleep(every)
        heap = {one["name"]: one["value"] for one in browser.call("Performance.getMetrics")["metrics"]}
        frames, behind, buffered = browser.run(FIGURES)
        row = {
            "minute": round((time.monotonic() - begun) / 60, 1),
            "shown": frames,
            "behind_s": round(behind, 2),
            "page_mb": round(resident_mb(page), 1),
            "browser_mb": round(resident_mb(browser.pid), 1),
            "heap_mb": round(heap["JSHeapUsedSize"] / 2**20, 1),
            "buffered_s": round(buffered, 1),
        }
        rows.append(row)
        print("".join(f"{value:>10}" for value in row.values()), flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
