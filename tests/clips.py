"""Clips for tests, cut from the bundled one without coding anything anew."""

from __future__ import annotations

from pathlib import Path

import av

BUNDLED = Path(__file__).parent / "data" / "intel_one-by-one-person-detection.mp4"


def cut(seconds: float, out: Path) -> Path:
    """The bundled clip's coded pictures of its first `seconds`, as they are, in a file of their own."""
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
