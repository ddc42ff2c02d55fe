"""The live page in a real browser: pictures, masks, answers and questions."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from codecflow import subscriber
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Decoding, Event, FrameMask, WindowMasks, Zone, encode_event, encode_masks, event_id
from codecflow.page import board
from codecflow.page.access import Access
from tests.subscriber.example_results import RESULT, commit

from .browser import Browser
from .camera import Cameras, publish
from .conftest import serving

TOKEN = "0123456789abcdef-secret"
FRAMES = """new Promise(done => { const found = [], video = document.querySelector('video');
  const next = (_, info) => { found.push({media: info.mediaTime, ...codecflow.player.shown});
    found.length < COUNT ? video.requestVideoFrameCallback(next) : done(found); };
  video.requestVideoFrameCallback(next); })"""


def open_stream(browser: Browser, address: str, stream: str, *, host: str | None = None) -> None:
    """The page with one camera enlarged."""
    browser.errors.clear()
    browser.go("about:blank")
    browser.go(f"http://{host or address}/#{stream}")
    browser.until("window.codecflow && document.querySelector('#dot').className === 'dot ok'", "a connection")


def shown(browser: Browser, count: int) -> list[dict[str, Any]]:
    """What the page reports about the next frames that the browser presents: seq, media time, and the browser's own time."""
    browser.until("codecflow.player.shown !== null", "a picture")
    found: list[dict[str, Any]] = browser.run(FRAMES.replace("COUNT", str(count)))
    return [one for one in found if "q" in one]


def until(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def figures(address: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://{address}/status", timeout=120) as answer:
        found: dict[str, int] = json.load(answer)
        return found


@pytest.mark.parametrize("stream", ["h264-open", "vp9", "av1"])
def test_each_picture_is_shown_at_its_own_time(stream: str, browser: Browser, address: str, cameras: Cameras) -> None:
    open_stream(browser, address, stream)
    frames = shown(browser, 12)
    shift = browser.run("codecflow.player.shift")
    assert len({frame["q"] for frame in frames}) >= 6
    for frame in frames:
        picture = cameras.sent[stream][frame["q"]]
        assert frame["c"] == picture.captured_at_ms
        assert frame["media"] == pytest.approx(float(picture.pts * picture.time_base) + shift, abs=0.0015)
    # Its delay behind the camera: B-pictures come a few pictures late in any player.
    browser.until("Date.now() - codecflow.player.shown.c < 1000", "a picture that is less than a second old")
    assert browser.errors == []


def test_a_mask_lies_on_exactly_its_picture(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    zone = Zone("Zufahrt <b>", "place", ((0.25, 0.02), (0.65, 0.02), (0.65, 0.28), (0.25, 0.28)))
    subscriber.set_zones(settings, "h264", (zone,))
    open_stream(browser, address, "h264")
    browser.until("codecflow.streams.get('h264')?.zones.length === 1", "the zone")
    shown(browser, 3)
    browser.run("codecflow.player.setPaused(true)")
    picture = cameras.sent["h264"][browser.run("codecflow.player.shown.q")]
    keep = np.random.default_rng(0).random((3, 5)) < 0.5
    send_masks(settings, "h264", picture.epoch, keep, picture.seq)
    browser.until(f"document.querySelector('#over').dataset.seq === '{picture.seq}'", "the mask of this picture")
    assert browser.run("document.querySelector('#keeps').textContent") == f"{keep.sum()} of 15 tokens"
    alphas = browser.run(
        """(() => { const c = document.querySelector('#over'), g = c.getContext('2d'), found = [];
        for (let r = 0; r < 3; r++) for (let x = 0; x < 5; x++)
          found.push(g.getImageData((x + .5) * c.width / 5, (r + .5) * c.height / 3, 1, 1).data[3]);
        const box = c.getBoundingClientRect(), video = document.querySelector('video').getBoundingClientRect();
        const edge = [...g.getImageData(Math.round(.25 * c.width) - 3, Math.round(.16 * c.height), 6, 1).data].join();
        return {found, edge, off: Math.abs(box.left - video.left) + Math.abs(box.width - video.width)}; })()"""
    )
    assert [alpha == 0 for alpha in alphas["found"]] == keep.flatten().tolist()
    assert "255,212,0,255" in alphas["edge"], "the zone's left edge"
    assert alphas["off"] < 1.5
    assert browser.errors == []


def send_masks(settings: KafkaSettings, stream: str, epoch: int, keep: np.ndarray, *seqs: int) -> None:
    frames = tuple(FrameMask(seq, seq / 10, (160, 96), keep) for seq in seqs)
    masks = WindowMasks(stream, epoch, 3, int(time.time() * 1000), "replenish", frames, Decoding(80, 20))
    with RecordSender(settings) as sender:
        for key, value in encode_masks(masks):
            sender.send(Record(settings.topics.masks, key, value, "masks"))


def test_answers_and_what_they_cost_come_as_text(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    hostile = "<img src=x onerror=alert(1)> Straße \u202e 画面 <script>alert(2)</script>"
    subscriber.ask(settings, "h264", subscriber.question(f"What? {hostile}", name="what"))
    open_stream(browser, address, "h264")
    now = int(time.time() * 1000)
    answers = [
        replace(RESULT, stream="h264", captured_at_ms=now, question="what", type="text", answer=hostile, p_yes=None),
        replace(RESULT, stream="h264", captured_at_ms=now, question="seen", answer="yes", p_yes=0.87),
    ]
    commit(settings, answers)
    browser.until("document.querySelectorAll('#answers li').length >= 2", "two answers")
    said = browser.run("document.querySelector('#answers').textContent")
    assert hostile in said
    assert "0.87" in said
    assert hostile in browser.until("document.querySelector('#questions .what')?.textContent", "the question")
    assert browser.run("document.querySelectorAll('#answers img, #questions img, #answers script').length") == 0
    assert browser.run("document.querySelector('#c-tokens').textContent") == "25 %"
    assert browser.run("document.querySelector('#c-flops').textContent") == "30 %"
    browser.until("document.querySelectorAll('#plot-p canvas').length === 1", "a chart")
    assert browser.errors == []


def test_questions_are_added_and_removed(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    open_stream(browser, address, "vp9")
    browser.run("""(() => { const set = (id, value) => { document.getElementById(id).value = value; };
        set('prompt', 'Is the gate open?'); set('type', 'choice'); set('labels', 'open, shut');
        document.getElementById('ask').requestSubmit(); })()""")
    browser.until("document.querySelector('#questions')?.textContent.includes('Is the gate open?')", "the new question")
    (question,) = subscriber.read_description(settings, "vp9").questions
    assert (question.id, question.type, question.labels) == ("is-the-gate-open", "choice", ("open", "shut"))
    browser.run("document.querySelector('#questions .x').click()")
    browser.until("document.querySelector('#questions').textContent.includes('no questions configured')", "no question")
    assert subscriber.read_description(settings, "vp9").questions == ()
    browser.run(
        "document.getElementById('prompt').value = 'x'; document.getElementById('labels').value = 'one'; "
        "document.getElementById('type').value = 'choice'; document.getElementById('ask').requestSubmit()"
    )
    browser.until("document.querySelector('#wrong').textContent.includes('two or more labels')", "why not")


def test_a_question_that_is_asked_again_keeps_its_rule(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    rule = "yes>=0.8,below=0.5,windows=2/3"
    subscriber.ask(settings, "av1", subscriber.question("Door?", yes_no=True, name="door", event=rule))
    open_stream(browser, address, "av1")
    browser.until(f"document.querySelector('#questions .rule')?.textContent === 'event: {rule}'", "the rule")
    ask = """(() => { for (const [id, value] of Object.entries(%s)) document.getElementById(id).value = value;
        document.getElementById('ask').requestSubmit(); })()"""
    browser.run(ask % {"prompt": "Door", "type": "yes-no", "event": ""})
    until(
        lambda: subscriber.read_description(settings, "av1").questions[0].prompt == "Door",
        "the question in other words",
    )
    (question,) = subscriber.read_description(settings, "av1").questions
    assert question.event == subscriber.question("x", yes_no=True, event=rule).event
    browser.run(ask % {"prompt": "Door", "type": "text", "event": ""})
    browser.until(
        "document.querySelector('#wrong').textContent.includes('has an event rule that does not fit')", "why not"
    )
    browser.run(ask % {"prompt": "Door", "type": "yes-no", "event": "blue>=0.5"})
    browser.until("document.querySelector('#wrong').textContent.includes('cannot fire')", "why not")
    browser.run(ask % {"prompt": "Door", "type": "yes-no", "event": "no>=0.9"})
    browser.until("document.querySelector('#questions .rule')?.textContent === 'event: no>=0.9'", "the new rule")


def click(browser: Browser, x: float, y: float) -> None:
    """With the mouse, at a position in the window."""
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def box(browser: Browser, selector: str) -> dict[str, float]:
    """An element's position in the window, after it was scrolled into view."""
    found: dict[str, float] = browser.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
    )
    return found


def test_a_zone_is_drawn_by_hand(browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings) -> None:
    def draw(name: str, *corners: tuple[float, float]) -> None:
        video = box(browser, "#stage video")  # 160x96 in a box of the same shape, or with bars at its sides
        wide = min(video["width"], video["height"] * 160 / 96)
        left = video["x"] + (video["width"] - wide) / 2
        for number, (x, y) in enumerate(corners, 1):
            click(browser, left + x * wide, video["y"] + y * wide * 96 / 160)
            browser.until(f"codecflow.sketch.length === {number}", "a corner")
        browser.run(f"document.getElementById('zone-name').value = {json.dumps(name)}")
        browser.run("document.getElementById('zone').requestSubmit()")

    open_stream(browser, address, "h264-open")
    shown(browser, 3)
    browser.run("document.getElementById('sketch').click()")
    draw("Zufahrt <b> 門", (0.25, 0.1), (0.75, 0.1), (0.75, 0.5), (0.25, 0.5))
    browser.until("document.querySelector('#zoned')?.textContent.includes('Zufahrt <b> 門')", "the zone in the list")
    (zone,) = subscriber.read_description(settings, "h264-open").zones
    assert (zone.name, zone.use) == ("Zufahrt <b> 門", "place")
    for corner, wanted in zip(zone.polygon, ((0.25, 0.1), (0.75, 0.1), (0.75, 0.5), (0.25, 0.5)), strict=True):
        assert corner == pytest.approx(wanted, abs=0.01)
    edge = """(() => { const c = document.querySelector('#over'), g = c.getContext('2d');
        return [...g.getImageData(Math.round(.25 * c.width) - 3, Math.round(.3 * c.height), 6, 1).data].join(); })()"""
    browser.until(f"{edge}.includes('255,212,0,255')", "the zone's left edge on the picture")
    browser.run("document.getElementById('sketch').click()")
    draw("crossed", (0.1, 0.1), (0.9, 0.9), (0.9, 0.3), (0.1, 0.5))
    browser.until("document.querySelector('#zone-wrong').textContent.includes('edges cross')", "why not")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    browser.until("codecflow.sketch === null", "it is given up")
    browser.run("document.querySelector('#zoned .x').click()")
    browser.until("document.querySelectorAll('#zoned li').length === 0", "no zone")
    assert subscriber.read_description(settings, "h264-open").zones == ()


def send_events(settings: KafkaSettings, *events: Event) -> None:
    with RecordSender(settings) as sender:
        for event in events:
            sender.send(Record(settings.topics.events, *encode_event(event), "an event"))


def test_events_are_listed_marked_played_and_kept(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings, tmp_path: Path
) -> None:
    until(lambda: len(cameras.sent["vp9"]) > 60, "some seconds to look back on")
    began, ended = cameras.sent["vp9"][40], cameras.sent["vp9"][55]
    opened = Event(
        "vp9", event_id("vp9", "one"), 0, "opened", "answer", began.epoch, began.captured_at_ms, began.captured_at_ms,
        int(time.time() * 1000), "p(offen) 0.90", "Tür <i>", "Ist die Tür offen?", "offen 門", highest=0.9,
    )  # fmt: skip
    send_events(settings, opened, replace(opened, id=event_id("vp9", "lost"), kind="silent", question=None, label=None))
    open_stream(browser, address, "vp9")
    browser.until("document.querySelectorAll('#happened li').length === 2", "two events")
    assert "Tür <i>: offen 門  still open" in browser.run("document.querySelector('#happened').textContent")
    assert browser.run("document.querySelectorAll('#happened i').length") == 0
    send_events(settings, replace(opened, number=1, change="closed", at_ms=ended.captured_at_ms))
    item = f'#happened li[data-event="{opened.id}"]'
    browser.until(f"document.querySelector('{item}').className === ''", "that it is closed")
    # Its mark on the timeline, which covers 5 min here, and a click on it.
    browser.run("document.getElementById('span').value = 300; document.getElementById('span').onchange()")
    line = box(browser, "#line")
    share = browser.run(f"(() => {{ const [a, b] = range(); return ({began.captured_at_ms} - a) / (b - a); }})()")
    click(browser, line["x"] + share * line["width"] + 2, line["y"] + 3)
    played = "codecflow.player.shown && codecflow.player.shown.c < Date.now() - 1500 && codecflow.player.shown.c"
    first = browser.until(played, "a picture of the past")
    assert began.captured_at_ms - 5500 <= first < began.captured_at_ms + 3000
    browser.run("document.querySelector('#live').click()")
    browser.until("codecflow.player.shown && Date.now() - codecflow.player.shown.c < 2000", "live again")
    browser.run(f"document.querySelector('{item} button').click()")
    browser.until(played, "the past again")
    link = browser.run(f"document.querySelector('{item} a').href")
    with urllib.request.urlopen(link, timeout=60) as answer:
        assert answer.headers["content-type"] == "video/mp4"
        assert opened.id in answer.headers["content-disposition"]
        (tmp_path / "clip.mp4").write_bytes(answer.read())
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 15
    for name, status in (("0123456789abcdef", 404), ("x", 400)):
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            urllib.request.urlopen(f"http://{address}/streams/vp9/events/{name}/clip", timeout=60)
    # The grid shows what is still open.
    browser.go("about:blank")
    browser.go(f"http://{address}/")
    caption = "[...document.querySelectorAll('.tile')].find(t => t.dataset.stream === 'vp9')?.textContent"
    browser.until(f"{caption}?.includes('silent since')", "the event that is open")
    assert browser.errors == []


def test_a_stream_that_is_deleted_while_somebody_watches(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "QUIET_MS", 1_000)
    now = int(time.time() * 1000)
    subscriber.ask(settings, "brief", subscriber.question("?", yes_no=True, name="q"))
    keyframes: list[int] = []
    while len(keyframes) < 2:
        time.sleep(0.1)
        sent = list(cameras.sent["h264"].values())
        keyframes = [number for number, picture in enumerate(sent) if picture.keyframe]
    # Up to a keyframe: of a group's first picture alone a browser shows nothing.
    publish(settings, [replace(p, stream="brief", epoch=now, captured_at_ms=now) for p in sent[: keyframes[-1]]])
    open_stream(browser, address, "brief")
    browser.until("codecflow.player.shown !== null", "a picture")
    with RecordSender(settings) as sender:
        sender.send(Record(settings.topics.streams, b"brief", None, "a tombstone"))
        sender.send(Record(settings.topics.packets, b"brief", None, "a tombstone"))
    browser.until("document.querySelector('#note').textContent === 'This stream has been deleted.'", "that it is gone")
    assert browser.run("document.querySelector('#note').hidden") is False
    browser.run("document.querySelector('#back').click()")
    browser.until("document.querySelectorAll('.tile').length > 0 && !codecflow.streams.has('brief')", "the others")
    assert browser.errors == []
    # It reconnects.
    now = int(time.time() * 1000)
    publish(settings, [replace(cameras.sent["h264"][0], stream="brief", epoch=now, captured_at_ms=now)])
    browser.until("codecflow.streams.has('brief')", "the stream that is published again")


@pytest.mark.parametrize("stream", ["mjpeg", "hevc"])
def test_what_the_browser_does_not_play_comes_as_jpeg(
    stream: str, browser: Browser, address: str, cameras: Cameras
) -> None:
    open_stream(browser, address, stream)
    browser.until("document.querySelector('#still').naturalWidth === 160", "a JPEG")
    browser.until("document.querySelector('#note').textContent.startsWith('Two pictures per second as JPEG')")
    first = browser.run("codecflow.player.shown.q")
    browser.until(f"codecflow.player.shown.q > {first}", "a later one")
    picture = cameras.sent[stream][browser.run("codecflow.player.shown.q")]
    assert browser.run(f"codecflow.player.bySeq.get({picture.seq}).c") == picture.captured_at_ms
    assert browser.errors == []


def test_a_new_size_goes_on_in_the_same_player(browser: Browser, address: str, cameras: Cameras) -> None:
    open_stream(browser, address, "resized")
    sizes = "`${document.querySelector('video').videoWidth}x${document.querySelector('video').videoHeight}`"
    browser.until("codecflow.player.shown !== null", "a picture")
    player = browser.run("document.querySelector('video').src")
    for size in ("160x96", "130x66", "160x96"):
        browser.until(f"{sizes} === '{size}'", f"pictures of {size}")
    assert browser.run("document.querySelector('video').src") == player
    assert browser.run("document.querySelector('video').error") is None
    assert browser.errors == []


def test_what_packets_hold_is_played_from_a_time_on(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    until(lambda: len(cameras.sent["h264"]) > 60, "some seconds to look back on")
    wanted = cameras.sent["h264"][35]
    keep = np.eye(3, 5, dtype=bool)
    send_masks(settings, "h264", wanted.epoch, keep, 35, 45)
    open_stream(browser, address, "h264")
    shown(browser, 2)
    browser.run(f"seek({wanted.captured_at_ms})")
    earliest = browser.until("codecflow.player.shown && codecflow.player.shown.c", "a picture of the past")
    assert wanted.captured_at_ms - 2500 < earliest <= wanted.captured_at_ms + 4000
    for seq in (35, 45):
        browser.until(f"codecflow.player.kept.some(k => k.q === {seq})", "its mask, which is read again too")
    browser.run("seek(Date.now() - 86400000)")
    gone = "document.querySelector('#note').textContent.includes('packets hold no pictures')"
    browser.until(gone, "that it is gone")
    time.sleep(3)  # after 2.5 s without a picture the page says that it waits for one
    assert browser.run(gone), "still"
    browser.run("document.querySelector('#live').click()")
    browser.until("codecflow.player.shown && Date.now() - codecflow.player.shown.c < 2000", "live again")
    assert browser.errors == []


def test_the_grid_shows_a_hundred_cameras_and_decodes_those_that_are_seen(
    browser: Browser, address: str, cameras: Cameras, settings: KafkaSettings
) -> None:
    still = cameras.sent["h264"][0]
    now = int(time.time() * 1000)
    names = [f"cam-{number:03}" for number in range(100)]
    publish(settings, [replace(still, stream=name, epoch=now, captured_at_ms=now) for name in names])
    browser.go("about:blank")
    browser.go(f"http://{address}/")
    browser.until("document.querySelectorAll('.tile').length >= 100", "all of them")
    browser.until("[...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth).length >= 8", "pictures")
    until(lambda: 8 <= figures(address)["tiles"] <= 60, "tiles that are seen")
    browser.run("document.getElementById('find').value = 'cam-09'; drawGrid()")
    browser.until("[...document.querySelectorAll('.tile')].filter(t => !t.hidden).length === 10", "ten of them")
    browser.run("[...document.querySelectorAll('.tile')].find(t => t.dataset.stream === 'cam-090').click()")
    browser.until("document.title.startsWith('cam-090')", "one of them")
    assert figures(address)["viewers"] == 1


def test_a_browser_that_vanishes_leaves_nothing(browser: Browser, address: str, cameras: Cameras) -> None:
    open_stream(browser, address, "h264")
    shown(browser, 2)
    assert figures(address)["channels"] == 1
    browser.go("about:blank")
    empty = {"viewers": 0, "channels": 0, "tiles": 0, "replays": 0, "video_bytes": 0}
    until(lambda: figures(address).items() >= empty.items(), "nothing held")


def test_a_token_is_asked_for_on_plain_http_by_any_name(
    browser: Browser, cameras: Cameras, settings: KafkaSettings
) -> None:
    """With http and a host name, a browser provides less than on localhost: no WebCodecs, no secure context."""
    with serving(settings, Access(TOKEN)) as address:
        for path, method in (("", "GET"), ("status", "GET"), ("uplot.js", "GET"), ("streams/a/questions", "POST")):
            request = urllib.request.Request(f"http://{address}/{path}", method=method)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(request, timeout=120)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        for headers, origin in (({}, f"http://{address}"), (bearer, "http://evil.test"), ({"Cookie": "x=1"}, None)):
            with pytest.raises(InvalidStatus, match="403"):
                connect(f"ws://{address}/ws", additional_headers=headers, origin=origin)  # type: ignore[arg-type]
        request = urllib.request.Request(f"http://{address}/status", headers=bearer)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 200
        browser.go("about:blank")
        name = f"cams.test:{address.rpartition(':')[2]}"
        browser.go(f"http://{name}/")
        browser.until("document.querySelector('#token') !== null", "the form")
        browser.run("document.querySelector('#token').value = 'not-the-token'; document.querySelector('form').submit()")
        browser.until("document.readyState === 'complete' && !document.querySelector('#token').value", "the form again")
        browser.run(f"document.querySelector('#token').value = '{TOKEN}'; document.querySelector('form').submit()")
        browser.until("!!window.codecflow", "the page")
        assert TOKEN not in str(browser.call("Network.getCookies"))
        open_stream(browser, address, "h264-open", host=name)
        assert browser.run("window.isSecureContext") is False
        assert len(shown(browser, 4)) >= 2
        assert browser.errors == []


def test_without_a_token_a_foreign_name_or_site_gets_nothing(address: str, settings: KafkaSettings) -> None:
    """A foreign site can send requests with a visitor's browser, and point its own name at this machine."""
    for headers, status in (({"Host": "evil.test"}, "421"), ({"Origin": "http://evil.test"}, "403"), ({}, "403")):
        request = urllib.request.Request(
            f"http://{address}/streams/x/questions", b'{"prompt": "x"}', headers, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError, match=status):
            urllib.request.urlopen(request, timeout=120)
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/ws", origin="http://evil.test")  # type: ignore[arg-type]
    assert subscriber.read_description(settings, "x").questions == ()
