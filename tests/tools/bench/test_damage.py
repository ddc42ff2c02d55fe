"""The benchmark of damaged streams: repeatable, and no wrong picture is shown if the transport detects losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.tools.bench.damage import run
from tests.codec.clips import encode


def test_lost_packets_cost_pictures_but_show_no_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = encode(tmp_path / "clip", pictures=40)
    documents = []
    for _ in range(2):
        run(clip, seed=3, repeats=1, seconds=4, codecs=["h264-baseline"])
        documents.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    kinds = documents[0]["damage"]["h264-baseline"]
    assert kinds["undamaged"] == {"sent": 40, "published": 40, "shown": 40, "wrong": 0, "bounds": 0, "differ": 0}
    files = [kind for kind in kinds if not kind.startswith("RTP")]
    assert [kinds[kind] for kind in files] == [documents[1]["damage"]["h264-baseline"][kind] for kind in files]
    assert all(one["wrong"] == one["bounds"] == 0 for kind, one in kinds.items() if "flipped" not in kind)
    assert {"TS, 1 % lost", "RTP over UDP, 5 % lost", "cut", "joined in mid-stream"} <= kinds.keys()


def test_a_codec_that_is_not_measured_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--codecs h265: use some of h264, "):
        run(encode(tmp_path / "clip"), seed=0, repeats=1, seconds=1, codecs=["h265"])
