"""Clips for tests, cut from the bundled one without re-encoding."""

from __future__ import annotations

from pathlib import Path

import av

BUNDLED = Path(__file__).parent / "data" / "intel_one-by-one-person-detection.mp4"


def cut(seconds: float, out: Path) -> Path:
    """The unchanged coded pictures of the bundled clip's first `seconds`, in a separate file."""
    with av.open(str(BUNDLED)) as source, av.open(str(out), "w") as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is None or packet.time_base is None:
                continue
            if packet.dts * packet.time_base >= seconds:
                break
            packet.stream = copy
            target.mux(packet)
    return out
