"""Every `codecflow` command in README, docs/ and CONTRIBUTING can be parsed by the command line, with its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from codecflow.cli.app import build
from codecflow.monitoring.server import Health
from codecflow.tools.docs import ROOT

PAGES = sorted(
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "training").glob("*.md"),
        *(ROOT / "evaluation").glob("*/*.md"),
        *(ROOT / "docs").rglob("*.md"),
    )
    if path.parent.name not in ("reference", "decisions")
)
UsageError = typer.BadParameter.__bases__[0]  # typer includes it under a name that depends on its version
ROOT_COMMAND: Any = typer.main.get_command(build())


def shell_lines(text: str) -> Iterator[str]:
    """The lines of all code blocks, fenced or indented, with those that end in a backslash joined."""
    fenced = re.findall(r"^( *)```(?:sh|bash|console|text)?\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    without = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = "\n".join(re.findall(r"(?:(?<=\n\n)|^)((?: {4}.*\n)+)", without))
    for block in (*(body for _, body in fenced), indented):
        yield from (line.strip() for line in block.replace("\\\n", " ").split("\n"))


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `codecflow` command: in code blocks, after $ or a pipe, and between backquotes in prose."""
    pieces = [piece for line in shell_lines(text) for piece in re.split(r" \| | && ", line.removeprefix("$ "))]
    pieces += re.findall(
        r"(?<!`)`(codecflow [a-z][^`]*)`", re.sub(r"\s+", " ", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    )
    for piece in pieces:
        found = re.match(
            r"(?:\.venv/bin/|docker compose run .* producer (?=produce))?(codecflow |(?=produce @))(.*)", piece
        )
        if found and not re.match(r"[a-z-]+: ", found[2]):  # `codecflow: what happened` is an error, no command
            yield shlex.split(found[2], comments=True)


def parse(words: list[str]) -> None:
    """Parses `words` with the command line; a name without arguments, as in prose, only has to exist."""
    command, words = ROOT_COMMAND, [word for word in words if word != "..."]
    name = "codecflow"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    if words and words not in (["--help"], ["-h"]):
        context = command.make_context(name, _filled(command, words), resilient_parsing=False)
        context.close()


def _filled(command: Any, words: list[str]) -> list[str]:
    """`words`, completed with arguments, values and required options that prose omits, and numbers for words such as
    SECONDS."""
    given = [re.sub(r"^(N|R|SECONDS|PORT|GIB)$", "1", word) for word in words]
    flags = {word for p in command.params if p.param_type_name == "option" and p.is_flag for word in p.opts}

    def takes_value(word: str) -> bool:
        return re.match(r"--?[a-zA-Z]", word) is not None and "=" not in word and word not in flags

    if takes_value(given[-1]):
        given.append("1")
    for parameter in command.params:
        if parameter.required and parameter.param_type_name == "option" and not set(parameter.opts) & set(given):
            given += [parameter.opts[0], "x"]
    values = [
        word
        for before, word in zip(["", *given], given, strict=False)
        if not takes_value(before) and not re.match(r"--?[a-zA-Z]", word)
    ]
    missing = sum(p.required for p in command.params if p.param_type_name == "argument") - len(values)
    return [*given, *["x"] * missing]


@pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_commands_can_be_given(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        try:
            parse(words)
        except (UsageError, AssertionError) as error:
            message = error.format_message() if isinstance(error, UsageError) else str(error)
            pytest.fail(f"{page.relative_to(ROOT)}: codecflow {shlex.join(words)}: {message}")


def test_there_are_commands_to_check() -> None:
    assert len(list(commands((ROOT / "README.md").read_text(encoding="utf-8")))) >= 15


def test_no_command_shows_a_password() -> None:
    """Whoever may list the machine's processes reads command lines."""
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            assert not any(re.search(r"://[^/@]*:[^/@]*@|password=", word) for word in words), (page, words)


def test_a_wrong_option_would_be_found() -> None:
    (words,) = commands("Try\n\n    codecflow ask gate 'A?' --yesno\n\nand see.")
    with pytest.raises(Exception, match="yesno"):
        parse(words)


def test_manifests_name_commands_and_probes_that_exist() -> None:
    text = (ROOT / "docs" / "how-to" / "containers.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    for service in (service for block in blocks for service in block.get("services", {}).values()):
        parse(list(service["command"]))
    manifests = [block for block in blocks if "kind" in block]
    assert len(manifests) >= 2
    for manifest in manifests:
        pod = manifest["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            parse(list(container["args"]))
            assert f"0.0.0.0:{container['ports'][0]['containerPort']}" in container["args"]
            for probe in (container[key] for key in container if key.endswith("Probe")):
                Health().answer(probe["httpGet"]["path"])  # KeyError if the path is not a probe
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
