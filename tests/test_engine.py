"""Handing out blocks: deaths, retries, bad items, sick stores; toy tasks in real processes."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from geomatch.engine import Engine, FailedItem, LocalEngine, Work, create_engine
from geomatch.engine.run import BRAKE, grouped, in_blocks
from geomatch.errors import GeomatchError, StoreError

sys.path.append(str(Path(__file__).parent / "helpers"))
from toy_tasks import Toy

ITEMS = list(range(12))
DOUBLED = {item: 2 * item for item in ITEMS}


@pytest.fixture(params=[1, 2])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with LocalEngine(request.param) as made:
        yield made


def results(work: Work, task: Toy, items: Sequence[int] = ITEMS, block: int = 3) -> dict[int, Any]:
    return dict(work.results(task, in_blocks(items, block), "toys", "toy"))


def count(folder: Path, what: str) -> int:
    return len(list(folder.glob(f"{what}-*")))


def test_every_item_comes_back_once(engine: Engine, tmp_path: Path) -> None:
    work = Work(engine, progress=False)
    found = list(work.results(Toy(tmp_path), in_blocks([*ITEMS, -1], 4), "toys", "toy"))
    assert dict(found) == {**DOUBLED, -1: FailedItem("negative")}
    assert len(found) == 13
    assert work.retries == 0
    assert list(work.results(Toy(tmp_path), [], "toys", "toy")) == []


def test_models_are_loaded_once_per_worker(engine: Engine, tmp_path: Path) -> None:
    work = Work(engine, progress=False)
    task = Toy(tmp_path, seconds=0.02)
    assert results(work, task, block=1) == results(work, task, block=2) == DOUBLED
    assert count(tmp_path, "started") <= (2 if engine.workers == 1 else engine.workers)


def test_an_exception_is_tried_again(engine: Engine, tmp_path: Path) -> None:
    work = Work(engine, progress=False)
    assert results(work, Toy(tmp_path, raises_once=4)) == DOUBLED
    assert work.retries == 1


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        work = Work(engine, progress=False)
        assert results(work, Toy(tmp_path, kills_once=4)) == DOUBLED
        assert work.retries == 1


def test_an_item_that_kills_takes_no_other_with_it(tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        work = Work(engine, progress=False)
        found = results(work, Toy(tmp_path, kills=7))
    lost = found.pop(7)
    assert not lost
    assert "died" in lost.reason
    assert found == {item: value for item, value in DOUBLED.items() if item != 7}


def test_an_item_that_kills_spares_the_command_by_default(tmp_path: Path) -> None:
    """Without a number of workers, too, nothing is done in this process that could end it."""
    if LocalEngine().workers == 1:
        pytest.skip("a single core works in this process")
    with LocalEngine() as engine:
        found = results(Work(engine, progress=False), Toy(tmp_path, kills=1), range(2), 2)
    assert found[0] == 0
    assert not found[1]


def test_a_worker_that_dies_while_it_is_idle(tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        work = Work(engine, progress=False)
        assert results(work, Toy(tmp_path)) == DOUBLED
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        assert results(work, Toy(tmp_path)) == DOUBLED


def test_what_workers_cannot_read_is_said(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Own(Toy):
        pass

    with LocalEngine(2) as engine, pytest.raises(Exception, match=r"[Cc]an't"):
        results(Work(engine, progress=False), Own(tmp_path))


def test_workers_end_with_the_command(tmp_path: Path) -> None:
    """Killed so that it cannot say goodbye."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from toy_tasks import Toy\nfrom pathlib import Path\n"
        "from geomatch.engine import LocalEngine, Work\n"
        "if __name__ == '__main__':\n"
        "    with LocalEngine(2) as engine:\n"
        "        task = Toy(Path(sys.argv[2]), seconds=0.2)\n"
        "        list(Work(engine, False).results(task, [[n] for n in range(500)], 'toys', 'toy'))\n"
    )
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, tmp_path / "script.py", Path(__file__).parent / "helpers", tmp_path]
    with subprocess.Popen(command) as process:
        for _ in range(600):
            if count(tmp_path, "tried") > 2:
                break
            time.sleep(0.05)
        process.kill()
    time.sleep(1.0)
    before = count(tmp_path, "tried")
    assert before > 2
    time.sleep(1.0)
    assert count(tmp_path, "tried") == before


def test_a_sick_store_ends_the_run_soon(engine: Engine, tmp_path: Path) -> None:
    work = Work(engine, progress=False)
    with pytest.raises(StoreError, match=r"the disk is full; not done: \d+ toys.*give the same command"):
        results(work, Toy(tmp_path, store_fails=True), range(1000), 1)
    assert count(tmp_path, "tried") <= BRAKE + 2 * engine.workers


def test_a_few_failures_of_the_store_are_named(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not done: 2 toys at least \(0, 1\)"):
        results(Work(engine, progress=False), Toy(tmp_path, store_fails=True), range(2), 2)


def test_what_cannot_begin_is_said_at_once(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(GeomatchError, match=r"^the weights are missing$"):
        results(Work(engine, progress=False), Toy(tmp_path, no_start=True))


def test_who_stops_listening_ends_the_workers(tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        listening = Work(engine, progress=False).results(
            Toy(tmp_path, seconds=0.2), in_blocks(range(200), 1), "toys", "toy"
        )
        next(iter(listening))
        assert len(multiprocessing.active_children()) >= 2
        listening.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
    time.sleep(0.5)
    before = count(tmp_path, "tried")
    time.sleep(0.5)
    assert count(tmp_path, "tried") == before


def test_bits_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """In this process, too, work is done on one thread, and other code has its threads back."""
    before = torch.get_num_threads()
    seen = []
    for _ in Work(LocalEngine(1), progress=False).results(Toy(tmp_path), [[1]], "toys", "toy"):
        seen.append(torch.get_num_threads())
    assert seen == [1]
    assert torch.get_num_threads() == before


def test_engines_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose local or ray"):
        create_engine("slurm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="are for the engine 'ray'"):
        create_engine("local", ray_address="here:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GeomatchError, match=r"geomatch-dift\[cluster\]"), create_engine("ray"):
        pass


def test_losses_are_grouped_by_reason() -> None:
    lost = {f"{k}.jpg": f"{k}.jpg: no such file" for k in range(7)} | {"x.png": "negative"}
    assert grouped(lost) == [
        "7 x no such file: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, and 2 more",
        "1 x negative: x.png",
    ]
