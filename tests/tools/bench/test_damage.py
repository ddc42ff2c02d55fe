"""The benchmark of damaged streams: repeatable, and no wrong picture is shown if the transport detects losses.

An encoder's output may depend on what its memory held before (x264's does), so repeatability is that of one coded clip.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.tools.bench.damage import CODECS, measure, run
from tests.codec.clips import encode


def test_lost_packets_cost_pictures_but_show_no_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = encode(tmp_path / "clip", pictures=40)
    run(clip, seed=3, repeats=1, seconds=4, codecs=["h264-baseline"])
    kinds = json.loads(capsys.readouterr().out.splitlines()[-1])["damage"]["h264-baseline"]
    assert kinds["undamaged"] == {"sent": 40, "published": 40, "shown": 40, "wrong": 0, "bounds": 0, "differ": 0}
    assert all(one["wrong"] == one["bounds"] == 0 for kind, one in kinds.items() if "flipped" not in kind)
    assert {"TS, 1 % lost", "RTP over UDP, 5 % lost", "cut", "joined in mid-stream"} <= kinds.keys()


def test_the_same_seed_does_the_same_damage(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-ts", pictures=40)
    first, second = (measure(clip, CODECS["h264-baseline"], seed=3, repeats=1) for _ in range(2))
    files = [kind for kind in first if not kind.startswith("RTP")]
    assert [first[kind] for kind in files] == [second[kind] for kind in files]
    assert len({(one.published, one.shown) for one in first.values()}) > 2, "the damage is done"


def test_a_codec_that_is_not_measured_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--codecs h265: use some of h264, "):
        run(encode(tmp_path / "clip"), seed=0, repeats=1, seconds=1, codecs=["h265"])
