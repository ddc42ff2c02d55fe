"""`codecflow bench sources`: its counts for intact, rotated, damaged and other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.tools.bench.sources import published, run
from tests.codec.clips import encode


def test_figures_of_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "front").mkdir()
    (tmp_path / "rear").mkdir()
    sound = encode(tmp_path / "front" / "clip", "h264-ts")
    joined = tmp_path / "front" / "joined.ts"
    joined.write_bytes(2 * sound.read_bytes())
    cut = encode(tmp_path / "rear" / "clip", "mjpeg")
    cut.write_bytes(cut.read_bytes()[:-9000])
    page = tmp_path / "rear" / "page.mp4"
    page.write_text("<html>")
    clips = [sound, joined, cut, page]
    for folders in (False, True):
        run(clips, folders=folders)
        *table, last = capsys.readouterr().out.strip().splitlines()
        figures = json.loads(last)
        assert figures["files"] == 4
        assert list(figures["failed"]) == [str(page)]
        assert 90 < figures["pictures"] < 120
        assert figures["corrected"] == {"clock jumps": 1}
        assert figures["metadata_share"] > 0
        assert ("front" in "\n".join(table)) == folders
        assert "a web page" in " ".join(table)
    with pytest.raises(ConfigError, match="no clip"):
        run([], folders=False)


def test_the_share_of_one_file(tmp_path: Path) -> None:
    one = published(encode(tmp_path / "clip", "hevc"))
    assert (one.files, one.pictures, one.seconds) == (1, 30, pytest.approx(2.9))
    assert one.shares == [one.share]
    assert not one.dropped
