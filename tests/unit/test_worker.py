"""The warm worker: what travels, and that nobody outlives whom he works for."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnicore import errors
from omnicore.runtime import worker
from tests.errors import refused

WORK = """
import os, sys, time
from pathlib import Path
from omnicore import errors
from omnicore.runtime import worker

def threads(pid):
    return [path.read_text().strip() for path in Path(f"/proc/{pid}/task").glob("*/comm")]

def work(request):
    print("to stdout")
    match request["do"]:
        case "facts":
            size = len(request["pad"])
            return {"pid": os.getpid(), "parent": os.getppid(), "cwd": os.getcwd(), "env": os.environ.get("GIVEN"), "size": size}
        case "raise":
            raise getattr(errors, request["kind"])("line 3 is wrong")
        case "bug":
            return {"figure": 1 / 0}
        case "die":
            os.kill(os.getpid(), request["signal"])
        case "sleep":
            Path(request["file"]).write_text(str(os.getpid()))
            time.sleep(60)
        case "torch":
            before = threads(os.getppid())
            import torch
            torch.set_num_threads(2)
            one = torch.randn(400, 400)
            return {"loaded": "trl" in sys.modules, "before": before, "sum": float((one @ one).sum())}

worker.serve_requests(sys.argv[1], work, sys.argv[2:])
"""
CALL = (
    "import sys, json; from omnicore.runtime import worker; worker.call(sys.argv[1],"
    " json.loads(sys.argv[2]))"
)


def start(address, *modules):
    return subprocess.Popen([sys.executable, "-c", WORK, address, *modules], stdin=subprocess.PIPE)


@pytest.fixture
def address(tmp_path):
    return str(tmp_path / "socket")


@pytest.fixture
def served(address):
    process = start(address)
    yield process
    process.kill()
    process.communicate()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def number_in(file):
    assert within(10, lambda: file.exists() and file.read_text())
    return int(file.read_text())


def test_request_runs_in_a_fork_with_its_environment(address, served, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GIVEN", "yes")
    monkeypatch.chdir(tmp_path)
    first = worker.call(address, {"do": "facts", "pad": "x" * 300_000})
    second = worker.call(address, {"do": "facts", "pad": ""})
    assert {k: first[k] for k in ("parent", "cwd", "env", "size")} == {
        "parent": served.pid,
        "cwd": str(tmp_path),
        "env": "yes",
        "size": 300_000,
    }
    assert first["pid"] != second["pid"]
    assert capfd.readouterr().out == "to stdout\n" * 2


@pytest.mark.parametrize("kind", ["OmniError", "DataError", "TrainingError"])
def test_a_users_mistake_comes_back_as_it_was_raised(address, served, kind, capfd):
    with pytest.raises(errors.OmniError, match="line 3 is wrong") as caught:
        worker.call(address, {"do": "raise", "kind": kind})
    assert type(caught.value).__name__ == kind
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_leaves_its_traceback_and_is_no_omni_error(address, served, capfd):
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        worker.call(address, {"do": "bug"})
    assert "in work\nZeroDivisionError" in capfd.readouterr().err


def test_a_killed_step_is_named_as_killed_and_the_worker_lives(address, served):
    with refused(errors.OmniError, "step-killed"):
        worker.call(address, {"do": "die", "signal": signal.SIGKILL})
    assert worker.call(address, {"do": "facts", "pad": ""})["parent"] == served.pid


def test_no_worker_is_told_and_not_waited_for_without_end(address):
    with refused(errors.OmniError, "worker-unreachable", path=address):
        worker.call(address, {"do": "facts"}, patience=0.2)


def test_a_module_that_cannot_be_imported_is_left_out(address):
    process = start(address, "no.such.module", "json")
    assert worker.call(address, {"do": "facts", "pad": ""})["parent"] == process.pid
    process.kill()
    process.communicate()


def test_the_step_dies_with_its_requester(address, served, tmp_path):
    file = tmp_path / "pid"
    requester = subprocess.Popen(
        [sys.executable, "-c", CALL, address, f'{{"do": "sleep", "file": "{file}"}}']
    )
    step = number_in(file)
    requester.kill()
    requester.wait()
    assert within(3, lambda: not alive(step))
    assert served.poll() is None


def test_the_step_dies_with_the_worker_and_the_requester_is_told(address, served, tmp_path):
    file = tmp_path / "pid"
    command = [sys.executable, "-c", CALL, address, f'{{"do": "sleep", "file": "{file}"}}']
    requester = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    step = number_in(file)
    served.kill()
    assert "the step was killed with its worker" in requester.communicate(timeout=10)[1]
    assert within(3, lambda: not alive(step))


def test_worker_and_step_end_with_their_starter(address, tmp_path):
    """By kill -9, so nothing in that process can help."""
    starter = """if True:
        import subprocess, sys, time
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
        print(process.pid, flush=True)
        time.sleep(60)
    """
    runner = subprocess.Popen(
        [sys.executable, "-c", starter, sys.executable, "-c", WORK, address],
        stdout=subprocess.PIPE,
        text=True,
    )
    served = int(runner.stdout.readline())
    file = tmp_path / "pid"
    requester = subprocess.Popen(
        [sys.executable, "-c", CALL, address, f'{{"do": "sleep", "file": "{file}"}}'],
        stderr=subprocess.DEVNULL,
    )
    step = number_in(file)
    runner.kill()
    runner.communicate()
    assert within(3, lambda: not alive(served) and not alive(step))
    assert requester.wait(timeout=10) != 0


def test_the_worker_ends_when_its_stdin_ends(address):
    process = start(address)
    worker.call(address, {"do": "facts", "pad": ""})
    process.stdin.close()
    assert process.wait(timeout=3) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="reads the threads of a process from Linux's /proc"
)
def test_warm_modules_start_no_thread_that_a_fork_would_lose(address):
    """A pool of OpenMP or BLAS threads made before the fork does not exist in the child, which then
    hangs or works alone."""
    pytest.importorskip("trl")
    process = start(address, *worker.MODULES)
    for _ in range(100):
        answer = worker.call(address, {"do": "torch"}, patience=60)
        if answer["loaded"]:
            break
        time.sleep(0.5)
    process.kill()
    process.communicate()
    assert answer["loaded"]
    assert (
        len([name for name in answer["before"] if name != "jemalloc_bg_thd"]) == 1
    )  # pyarrow's allocator handles forks itself
    assert abs(answer["sum"]) < 1e6
