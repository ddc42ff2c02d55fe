"""The Python API matches the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import codecflow
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Question

from .example_results import commit, windows


def test_questions_and_answers(kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECFLOW_BOOTSTRAP_SERVERS", kafka_settings.bootstrap_servers)
    monkeypatch.setenv("CODECFLOW_TOPIC_PREFIX", kafka_settings.topic_prefix)
    asked = codecflow.ask("gate", "How is the weather?", choices=["dry", "wet"], question_id="weather")
    assert asked.questions == (Question("weather", "How is the weather?", "choice", ("dry", "wet")),)
    with codecflow.subscribe("gate", timeout_s=120) as answers:
        commit(kafka_settings, windows("gate", 2))
        assert [next(answers), next(answers)] == windows("gate", 2)


def test_importing_it_imports_neither_kafka_nor_torch() -> None:
    code = "import codecflow, sys; print(sorted({'torch', 'av', 'confluent_kafka', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
