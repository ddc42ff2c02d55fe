"""Pictures with notifications; e-mail and chat through apprise to real SMTP and HTTP servers."""

from __future__ import annotations

import base64
import email
import email.policy
import io
import socketserver
import threading
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from PIL import Image

from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import event_id
from codecflow.notify import picture, service
from codecflow.storage import open_storage
from codecflow.subscriber.evidence import evidence_name
from tests.page.camera import publish
from tests.recorder.test_recorder import camera, event
from tests.subscriber.example_results import RESULT, commit

from .running import HttpServer, read, running, send, until


class MailServer(socketserver.ThreadingTCPServer):
    """The SMTP subset that a client needs. Temporarily refuses the first mail."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.mails: list[bytes] = []
        self.refusals = 1
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Mail(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline():
            command = line[:4].upper()
            if command == b"DATA":
                if self.server.refusals:
                    self.server.refusals -= 1
                    self._say("451 not now")
                    continue
                self._say("354 go on")
                lines = []
                while (one := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(one.removeprefix(b"."))
                self.server.mails.append(b"".join(lines))
            self._say("221 bye" if command == b"QUIT" else "250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def size_of(jpeg: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.size


def test_a_picture_goes_with_the_words(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(picture, "RECORDER_WITHIN_S", 0.2)
    monkeypatch.setattr("apprise.NotifyBase.throttle", lambda *_, **__: None)  # seconds between two messages
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    opened = replace(event(pictures, "opened", 15), label="ja, 門")
    said = replace(RESULT, stream="gate", epoch=opened.epoch, window=0)
    text = replace(said, question="look", type="text", answer="Eine Frau 👩 an der Tür.", p_yes=None)
    commit(kafka_settings, [said, text, replace(text, window=1, answer="Nobody.")])
    gone = replace(opened, id=event_id("gone"), began_at_ms=5_000, at_ms=6_000)
    evidence = open_storage(str(tmp_path / "evidence"))
    recorded = io.BytesIO()
    Image.new("RGB", (30, 20)).save(recorded, "JPEG")
    second = replace(opened, id=event_id("second"))
    evidence.write(f"{evidence_name(second)}.jpg", recorded.getvalue())
    hook, chat, mail = HttpServer(), HttpServer(), MailServer()
    config = read(
        tmp_path,
        f'evidence = "{tmp_path / "evidence"}"\n'
        f'[[webhook]]\nname = "hook"\nurl = "{hook.url}"\npicture = true\ntext = "$label: $words"\n'
        f'[[apprise]]\nname = "chat"\nurl = "mmost://{chat.address}/abcdefghijklmnopqrstuvwxyz"\npicture = true\n'
        'text = "$question: $label"\n'
        f'[[apprise]]\nname = "mail"\npicture = true\ntext = "$question: $label"\n'
        f'url = "mailto://127.0.0.1:{mail.server_address[1]}?mode=insecure&from=cams@example.org&to=me@example.org"\n',
    )
    with running(kafka_settings, config.sinks, evidence) as one:
        send(kafka_settings, opened, second, gone)
        until(lambda: len(hook.bodies) == 3 and len(mail.mails) == 3 and len(chat.bodies) == 3, one.said)
    mail.shutdown()
    mail.server_close()
    documents = [orjson.loads(body) for body in hook.bodies]
    assert [d["text"] for d in documents] == ["ja, 門: Eine Frau 👩 an der Tür."] * 3
    sizes = [size_of(base64.b64decode(d["picture"]["base64"])) for d in documents if "picture" in d]
    assert sizes[0][0] == 96  # cut from packets
    assert sizes[1] == (30, 20)  # the recorder's
    assert len(sizes) == 2
    assert any(f"event {gone.id} of stream 'gate' is sent without its picture" in line for line in one.said)
    message = email.message_from_bytes(mail.mails[1], policy=email.policy.default)
    assert message["Subject"] == "gate: person opened"
    body = message.get_body()
    assert body is not None
    assert "person: ja, 門" in body.get_content()
    (attached,) = message.iter_attachments()
    assert attached.get_content_type() == "image/jpeg"
    assert size_of(attached.get_content()) == (30, 20)
    assert "person: ja, 門" in orjson.loads(chat.bodies[0])["text"]
    assert any(
        "sink 'mail' (E-Mail at 127.0.0.1): it was refused, or there was no answer; retrying" in line
        for line in one.said
    )
    assert "abcdefgh" not in "".join(one.said)
    hook.close()
    chat.close()
