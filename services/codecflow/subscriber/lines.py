"""A result or an event as one line: for people, and as the JSON document of the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from codecflow.errors import MessageError
from codecflow.messages import Event, Result, decode_result, encode_event, encode_result
from codecflow.text import escape_controls, one_line


def result_line(result: Result) -> str:
    """One answer for people: when its newest picture was captured, at what time of the stream, and in brackets its frames
    and cost."""
    answer = one_line(result.answer) or "(nothing)"
    if result.error is not None:
        answer = f"no answer: {one_line(result.error.text)} ({result.error.code})"
    elif result.p_yes is not None:
        answer = f"{answer} (p(yes) {result.p_yes:.2f})"
    elif result.label_probabilities:
        answer = f"{answer} ({result.label_probabilities.get(result.answer, 0):.2f})"
    kept = result.tokens.kept / result.tokens.total if result.tokens.total else 0
    notes = [
        f"last {result.end_s - result.start_s:g} s",
        f"{kept:.0%} of tokens",
        f"{sum(result.seconds.values()):.2f} s",
    ]
    if result.frames.missing:
        notes.append(f"{result.frames.missing} of {result.frames.expected} frames missing")
    if result.skipped:
        notes.append(f"{result.skipped} windows skipped before")
    if result.reused_from is not None:
        notes.append(f"reused from window {result.reused_from}")
    if result.restarted:
        notes.append("restarted")
    if not result.trained:
        notes.append("untrained model")
    when = f"{time_of_day(result.captured_at_ms)}  {clock(result.end_s)}"
    return f"{result.stream}  {when}  {one_line(result.question)}: {answer}  [{', '.join(notes)}]"


def result_json(result: Result) -> str:
    """The topic's document, plus the stream, which is its record's key. Contains no terminal control characters."""
    _, value = encode_result(result)
    return escape_controls(orjson.dumps({"stream": result.stream, **orjson.loads(value)}).decode())


def read_result_json(text: str | bytes) -> Result:
    """Inverse of `result_json`. Raises MessageError."""
    try:
        document: dict[str, Any] = {**orjson.loads(text)}
    except (orjson.JSONDecodeError, TypeError) as error:
        raise MessageError(f"result: a JSON object is expected ({error})") from error
    return decode_result(str(document.pop("stream", "")).encode(), orjson.dumps(document))


def event_line(event: Event) -> str:
    """One change of an event for people: its time, its subject, and in brackets how long it has lasted."""
    about = event.kind if event.question is None else one_line(event.question)
    if event.label is not None:
        label = one_line(event.label)
        about += f": {label}" if event.before is None else f": {one_line(event.before)} -> {label}"
    notes = [f"event {event.id}"]
    if event.change != "opened":
        notes.append(f"since {time_of_day(event.began_at_ms)}")
    if event.highest is not None and event.number:
        notes.append(f"highest {event.highest:.2f}")
    when = time_of_day(event.at_ms)
    return f"{event.stream}  {when}  {event.change}  {about} ({one_line(event.reason)})  [{', '.join(notes)}]"


def event_json(event: Event) -> str:
    """As `result_json`."""
    _, value = encode_event(event)
    return escape_controls(orjson.dumps({"stream": event.stream, **orjson.loads(value)}).decode())


def time_of_day(ms: int) -> str:
    """Wall clock in ms as local time; with the date unless it is today's."""
    then = datetime.fromtimestamp(ms / 1000)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now().date() else "%Y-%m-%d %H:%M:%S")


def clock(seconds: float) -> str:
    """Presentation time as minutes:seconds, with hours if there are any."""
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600
    shown = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"
