#!/usr/bin/env python3
"""UCF-Crime's temporal annotations as a spec for `codecflow eval`.

    python make_spec.py Temporal_Anomaly_Annotation_for_Testing_Videos.txt VIDEOS --out spec.csv

Each line of the annotations is: name of the video, class, then first and last frame of up to two events, counted from 1,
with -1 for none: `Arson011_x264.mp4  Arson  150  420  680  1267`. Frames become seconds at the
rate of the video itself.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error

NORMAL = "Normal"

EVENTS = {
    "Abuse": "abuse",
    "Arrest": "an arrest",
    "Arson": "arson",
    "Assault": "an assault",
    "Burglary": "a burglary",
    "Explosion": "an explosion",
    "Fighting": "a fight",
    "RoadAccidents": "a road accident",
    "Robbery": "a robbery",
    "Shooting": "a shooting",
    "Shoplifting": "shoplifting",
    "Stealing": "stealing",
    "Vandalism": "vandalism",
}
"""The thirteen classes of anomaly, in words that a question can hold."""

ANY_EVENT = " or ".join(", ".join(EVENTS.values()).rsplit(", ", 1))
"""What all are asked for: the classes by name. "A crime or an accident" would leave open what is labelled (an arrest, an
explosion), and models see named actions where they miss "an anomaly" (ASK-Hint, arXiv 2510.02155)."""

PROMPT = "Is there {event} in this video? Answer with yes or no only."


class InputError(Exception):
    """One line: what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """One video. `events`: (first, last) frame of each, counted from 1, both included."""

    name: str
    kind: str
    events: tuple[tuple[int, int], ...]


def read_annotations(path: Path) -> list[Annotated]:
    """Raises InputError with the line at fault."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    videos: dict[str, Annotated] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path} line {number}"
        if len(cells) != 6:
            raise InputError(f"{where}: {len(cells)} columns; use name, class, start, end, start, end")
        name, kind, *texts = cells
        try:
            first, last, second_first, second_last = (int(text) for text in texts)
        except ValueError:
            raise InputError(f"{where}: {' '.join(texts)}: frames are whole numbers, -1 for none") from None
        events = []
        for begin, end in ((first, last), (second_first, second_last)):
            if (begin, end) == (-1, -1):
                continue
            if not 0 <= begin <= end:
                raise InputError(f"{where}: frames {begin} to {end}: use start <= end, or -1 -1 for none")
            events.append((begin, end))
        if kind not in EVENTS and kind != NORMAL:
            raise InputError(f"{where}: class {kind!r}: use {NORMAL} or one of {', '.join(EVENTS)}")
        if bool(events) == (kind == NORMAL):
            raise InputError(f"{where}: class {kind} with {len(events)} events")
        if name in videos:
            raise InputError(f"{where}: {name} is annotated twice")
        videos[name] = Annotated(name, kind, tuple(events))
    if not videos:
        raise InputError(f"{path}: no annotations in it")
    return list(videos.values())


def find_videos(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Where the videos lie in `folder` or any folder below it: the data set keeps a folder a class. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    wanted = set(names)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in wanted and path.is_file():
            found.setdefault(path.name, path)
    return found


def frame_rate(video: Path) -> Fraction:
    """Frames a second. Raises InputError."""
    try:
        with av.open(str(video)) as container:
            rate = container.streams.video[0].average_rate
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"{video}: no video that can be read ({error})") from None
    if not rate:
        raise InputError(f"{video}: it does not say its frame rate")
    return Fraction(rate)


def rows(
    annotated: Iterable[Annotated], found: dict[str, Path], base: Path, ask: str, prompt: str
) -> Iterator[tuple[str, str, str, str, str, str]]:
    """The spec's rows. `ask` any: one question of every video; class: an anomalous video is asked for its own class, a
    normal one for each class that occurs."""
    videos = list(annotated)
    classes = sorted({video.kind for video in videos} - {NORMAL}) if ask == "class" else [NORMAL]
    for video in videos:
        path = found[video.name]
        file = os.path.relpath(path, base)
        if video.kind == NORMAL:
            for kind in classes:
                yield file, "", "", prompt.format(event=EVENTS.get(kind, ANY_EVENT)), "yes-no", "no"
            continue
        question = prompt.format(event=EVENTS[video.kind] if ask == "class" else ANY_EVENT)
        rate = frame_rate(path)
        for first, last in video.events:
            start_s, end_s = max(first - 1, 0) / rate, last / rate
            yield file, f"{float(start_s):.3f}", f"{float(end_s):.3f}", question, "yes-no", "yes"


def check_prompt(prompt: str, ask: str) -> None:
    """Raises InputError unless {event} is all that is to be filled in, and it is there where each class is asked for."""
    try:
        filled = prompt.format(event=ANY_EVENT)
    except (LookupError, ValueError):
        raise InputError(f"--prompt {prompt!r}: {{event}} is the only part in braces that is filled in") from None
    if not filled.strip():
        raise InputError("--prompt is empty: give a question that is answered yes or no")
    if ask == "class" and filled == prompt:
        raise InputError(f"--prompt {prompt!r}: --ask class needs {{event}} in it")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="UCF-Crime's temporal annotations as a spec for codecflow eval.")
    parser.add_argument("annotations", type=Path, help="Temporal_Anomaly_Annotation_for_Testing_Videos.txt")
    parser.add_argument("videos", type=Path, help="folder of the videos, searched with all folders below it")
    parser.add_argument("--out", type=Path, required=True, help="the spec to write")
    parser.add_argument("--ask", choices=("any", "class"), default="any", help="one question for all, or one a class")
    parser.add_argument("--prompt", default=PROMPT, help="its {event} becomes what is asked for; default: %(default)s")
    parser.add_argument("--present-only", action="store_true", help="leave out videos that are not there")
    options = parser.parse_args(arguments)
    try:
        check_prompt(options.prompt, options.ask)
        annotated = read_annotations(options.annotations)
        found = find_videos(options.videos, (video.name for video in annotated))
        missing = [video.name for video in annotated if video.name not in found]
        if missing and not options.present_only:
            raise InputError(
                f"{options.videos}: {len(missing)} of {len(annotated)} videos are not there, such as {missing[0]};"
                " --present-only leaves them out"
            )
        present = [video for video in annotated if video.name in found]
        if not present:
            raise InputError(f"{options.videos}: none of the {len(annotated)} annotated videos is there")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table = list(rows(present, found, options.out.parent, options.ask, options.prompt))
        with options.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("file", "start_s", "end_s", "question", "type", "answer"))
            writer.writerows(table)
    except (InputError, OSError) as error:
        print(f"make_spec.py: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {len(present)} videos, {sum(row[5] == 'yes' for row in table)} events", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
