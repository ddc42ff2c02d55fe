"""Two modules of one name mean the same kind of thing: who knows one of them knows what to expect of the other."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "services" / "codecflow"

KINDS = {
    "app": "an application put together from its parts",
    "config": "what people configure in the package, and its checks",
    "figures": "the state of a service, for probes and metrics",
    "metrics": "figures as Prometheus metrics, and the list of all of them",
    "options": "how a service is run, as its command's options say",
    "picture": "the picture that shows an event",
    "questions": "the current questions of streams",
    "results": "records of codecflow.results: written in messages/, followed in subscriber/",
    "run": "one run, from its beginning to its end",
    "service": "the main loop of a service",
    "settings": "settings of a part, checked when it is created",
    "summary": "figures of a run so far, for its status line",
    "watch": "what is followed while a run lasts",
    "zones": "zones of streams",
}
"""Names of more than one module, and what each of them is."""


def test_modules_of_one_name_are_of_one_kind() -> None:
    places = defaultdict(list)
    for module in PACKAGE.rglob("*.py"):
        folder = module.parent.relative_to(PACKAGE).as_posix()
        if folder == "cli":
            continue  # each is named after its command
        if folder == "vlm/tiny":
            continue  # each is named after its family
        places[module.stem].append(folder)
    repeated = {name: folders for name, folders in places.items() if len(folders) > 1 and not name.startswith("__")}
    unknown = {name: folders for name, folders in repeated.items() if name not in KINDS}
    assert not unknown, "rename one of them, or say here what both are"
    assert set(KINDS) - set(repeated) <= {"app"}, "names that are no longer repeated"
