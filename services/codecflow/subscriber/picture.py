"""The picture at which an event changed, with the tokens kept by the model and its answer."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.pictures import MAX_PIXELS
from codecflow.errors import CodecFlowError
from codecflow.kafka.partition_reader import PartitionReader
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Event, FrameMask, decode_masks
from codecflow.text import one_line

from .lines import time_of_day
from .recording import Recording, WallClock

_WIDTH = 1280
_DIMMED = 0.45
_EARLIER_MS = 60_000


def event_picture(
    settings: KafkaSettings, recording: Recording, event: Event, notice: Callable[[str], None]
) -> bytes | None:
    """JPEG of the newest picture at an event's change; None if no picture can be decoded. `notice` gets a line when the keep
    mask is not available. Raises NotThereError."""
    shown = shown_at(recording, event.at_ms)
    if shown is None:
        return None
    mask = None
    try:
        mask = mask_of(settings, event)
    except CodecFlowError as error:
        notice(f"stream {event.stream!r}: event {event.id} is drawn without its mask: {error}")
    words = f"{event.stream}  {time_of_day(event.at_ms)}  {event.question or event.kind}"
    if event.label is not None:
        words += f": {event.label}"
    if event.probability is not None:
        words += f" ({event.probability:.2f})"
    return drawn(shown.rgb(), mask, one_line(words, 120))


def shown_at(recording: Recording, ms: int) -> ShownPicture | None:
    """The newest picture captured at `ms` or before. Raises NotThereError if it is gone."""
    decoder, found = Decoder(), None
    pictures = recording.pictures(WallClock(ms))
    for picture in pictures:
        if picture.width * picture.height > MAX_PIXELS:
            return None
        for shown in decoder.push(picture):
            if shown.picture.captured_at_ms > ms:
                return found or shown
            found = shown
    return next(iter(decoder.flush()[-1:]), found)


def mask_of(settings: KafkaSettings, event: Event) -> FrameMask | None:
    """The keep mask of the newest frame of the window that opened the event, if it is still retained."""
    if event.window is None:
        return None
    with PartitionReader(settings, settings.topics.masks, event.stream) as history:
        for masks in history.of_stream(event.stream, event.written_at_ms - _EARLIER_MS, decode_masks):
            if (masks.epoch, masks.window) == (event.epoch, event.window) and masks.frames:
                return masks.frames[-1]
    return None


def drawn(rgb: npt.NDArray[np.uint8], mask: FrameMask | None, caption: str) -> bytes:
    """(height, width, 3) uint8 as JPEG, with dropped tokens darkened, and a caption below."""
    image = Image.fromarray(rgb)
    if image.width > _WIDTH:
        image = image.resize((_WIDTH, max(1, image.height * _WIDTH // image.width)), Image.Resampling.BILINEAR)
    if mask is not None and not mask.keep.all():
        light = np.where(mask.keep, 255, int(255 * _DIMMED)).astype(np.uint8)
        shade = Image.fromarray(light).resize(image.size, Image.Resampling.NEAREST)
        image = Image.composite(image, Image.new("RGB", image.size), shade)
    font = ImageFont.load_default(max(12, image.width // 50))
    _, top, _, bottom = font.getbbox(caption)
    bar = int(bottom - top) + 16
    out = Image.new("RGB", (image.width, image.height + bar), (20, 20, 20))
    out.paste(image)
    ImageDraw.Draw(out).text((8, image.height + 8 - top), caption, (240, 240, 240), font)
    data = io.BytesIO()
    out.save(data, "JPEG", quality=85)
    return data.getvalue()
