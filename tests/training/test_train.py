"""Training on banks: a resumed run gives the result of an uninterrupted one, and two processes that of a single one."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codecflow.folders import cache_dir
from codecflow.tools.demo_model.assemble import read_trained_part
from codecflow.tools.demo_model.checkpoint import cached_checkpoint

LENGTHS = (1, 1, 4, 4, 8, 16)
STEPS = 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of noise in which a person is in the first half of every clip."""
    import bank

    folder, n = tmp_path_factory.mktemp("scenes"), sum(LENGTHS)
    rng = np.random.default_rng(0)
    bank.begin(folder, n)
    for name in bank.SHAPES:
        values = np.load(folder / f"{name}.npy", mmap_mode="r+")
        values[:] = rng.integers(0, 2 if name == "keep" else 250, values.shape)
    facts = bank.nothing_known(n)
    facts["known"][:] = facts["complete"][:] = True
    clips, at = [], 0
    for i, length in enumerate(LENGTHS):
        facts["seen"][at : at + (length + 1) // 2, 0] = 1
        clips.append({"name": f"clip-{i}", "start": at, "length": length, "real": False})
        at += length
    bank.finish(folder, facts, clips)
    return folder


def _arguments(scenes: Path, out: Path, part: Path) -> list[str]:
    few = f"--steps {STEPS} --parts 2 --scale 0.004 --early 1000 --workers 0 --report 1"
    return ["--scenes", str(scenes), str(scenes), "--out", str(out), "--begin-with", str(part), *few.split()]


def shallow(cache: Path, _: None) -> tuple[Any, Any]:
    """The demo model with every kind of layer, but few of each, and its tokenizer: from the files that other tests need too,
    as assembling it takes half a minute."""
    from transformers import AutoTokenizer, InternVLForConditionalGeneration

    files = cached_checkpoint(cache)
    model: Any = InternVLForConditionalGeneration.from_pretrained(files, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(files)
    del model.model.language_model.layers[3:]
    del model.model.vision_tower.encoder.layer[:6]
    return model, tokenizer


@pytest.fixture(scope="module")
def assembled() -> tuple[Any, Any]:
    return shallow(cache_dir(), None)


@pytest.fixture(scope="module")
def part(assembled: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained part with nonzero low-rank products."""
    from model import Learner

    learner = Learner(copy.deepcopy(assembled[0]))
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, values in learner.parts().items():
            if name.endswith(".b"):
                values.copy_(torch.randn(values.shape, generator=random) / 100)
    path: Path = tmp_path_factory.mktemp("part") / "trained.safetensors"
    learner.export(path, 224)
    return path


@pytest.fixture(scope="module")
def make(
    assembled: tuple[Any, Any], scenes: Path, part: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Makes a trainer of this process, in a folder of that name, that checks after each step whether to continue."""
    import train

    folder = tmp_path_factory.mktemp("trained")
    before, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads would vary on a busy machine, and with it the rounding of sums
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "AGREE", 1)
        patch.setattr(train, "assemble", lambda *_: copy.deepcopy(assembled))

        def trainer(name: str, *more: str) -> Any:
            patch.setattr(sys, "argv", ["train.py", *_arguments(scenes, folder / name, part), *more])
            return train.Trainer(train.arguments())

        yield trainer
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, before)


def _weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer._trained().items()}


@pytest.fixture(scope="module")
def learnt(make: Any) -> dict[str, torch.Tensor]:
    """The result of one process without interruption."""
    trainer = make("whole")
    before = _weights(trainer)
    assert trainer.run()
    after = _weights(trainer)
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 0.9 * len(before)
    return after


def test_a_run_that_sigterm_ended_goes_on_as_if_it_had_not(
    make: Any, learnt: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = make("stopped")
    learn = begun.learn

    def once(drafts: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return learn(drafts)

    monkeypatch.setattr(begun, "learn", once)
    assert not begun.run()
    assert begun.step == 1
    again = make("stopped")
    assert again.step == 1
    assert again.run()
    for name, value in _weights(again).items():
        torch.testing.assert_close(value, learnt[name], rtol=0, atol=1e-6, msg=name)


def test_a_run_begins_with_a_trained_part_and_otherwise_alike_whatever_its_seed(make: Any, part: Path) -> None:
    tensors = read_trained_part(part).tensors
    for name, value in make("begun").learner.parts().items():
        torch.testing.assert_close(value.to(torch.bfloat16), tensors[name], rtol=0, atol=0)
    one, other = (_weights(make(f"seed-{seed}", "--begin-with", "", "--seed", seed)) for seed in "12")
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.slowest
def test_two_processes_learn_what_one_learns(
    learnt: dict[str, torch.Tensor], scenes: Path, part: Path, tmp_path: Path
) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = tmp_path / "shallow.py"
    script.write_text(
        "import train\nfrom tests.training.test_train import shallow\ntrain.assemble = shallow\ntrain.main()\n"
    )
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "training"), *filter(None, [os.environ.get("PYTHONPATH")])])
    pair = subprocess.run(
        [sys.executable, *launch, str(script), *_arguments(scenes, tmp_path, part)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert pair.returncode == 0, pair.stderr
    assert pair.stdout.count(f"step {STEPS} ") == 1  # only the first process prints
    for name, value in torch.load(tmp_path / "resume.pt")["weights"].items():
        torch.testing.assert_close(value, learnt[name], rtol=0, atol=1e-5, msg=name)


def test_processes_that_a_step_cannot_be_shared_by_are_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="3 processes cannot share the 2 batches of a step evenly"):
        make("three")


@pytest.mark.usefixtures("make")
def test_what_is_not_there_is_reported_in_one_line(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train

    gone = tmp_path / "gone"
    for wrong, said in (
        (_arguments(scenes, tmp_path, gone), rf"train.py: trained part {gone}: cannot be read"),
        ([*_arguments(gone, tmp_path, gone), "--begin-with", ""], rf"train.py: .*No such file .*'{gone}/clips.json'"),
        ([*_arguments(scenes, tmp_path, gone), "--held-out", str(gone)], rf"train.py: .*'{gone}/clips.json'"),
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *wrong])
        with pytest.raises(SystemExit, match=said):
            train.main()
