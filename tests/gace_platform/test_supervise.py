import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gace_platform.cluster.supervise import KILLS_BORNE, LAUNCHER, run_supervised


def supervise(tmp_path, program, **options):
    options.setdefault("cancelled", lambda: False)
    return run_supervised(
        [sys.executable, "-c", program], str(tmp_path / "work"), str(tmp_path / "log"), **options
    )


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_success_reports_its_core_seconds(tmp_path):
    ended = supervise(tmp_path, "x = sum(range(8_000_000))")
    assert (ended.status, ended.exit_code, ended.attempts) == ("completed", 0, 1)
    assert 0.05 < ended.core_seconds <= ended.wall_seconds + 0.1


def test_a_failure_is_retried_and_its_last_words_are_kept(tmp_path):
    ended = supervise(tmp_path, "import sys; sys.exit('out of luck')", retries=2)
    assert (ended.status, ended.exit_code, ended.attempts) == ("failed", 1, 3)
    assert ended.error_tail == "out of luck"


def test_a_second_attempt_may_succeed(tmp_path):
    program = "import pathlib, sys; p = pathlib.Path('once'); new = not p.exists(); p.touch(); sys.exit(new)"
    ended = supervise(tmp_path, program, retries=1)
    assert (ended.status, ended.attempts) == ("completed", 2)


def dying(number, times):
    """A program that dies by a signal so many times, and then succeeds."""
    return (
        "import os, pathlib\n"
        "log = pathlib.Path('deaths'); deaths = len(log.read_text()) if log.exists() else 0\n"
        f"if deaths < {times}:\n"
        f"    log.write_text('x' * (deaths + 1)); os.kill(os.getpid(), {int(number)})"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_kills_are_not_failures(tmp_path, number):
    ended = supervise(tmp_path, dying(number, 3), retries=0)
    assert (ended.status, ended.attempts, ended.lost) == ("completed", 4, False)


def test_what_is_killed_again_and_again_is_lost_at_last(tmp_path):
    ended = supervise(tmp_path, dying(signal.SIGKILL, 100), retries=0)
    assert (ended.status, ended.exit_code, ended.lost) == ("failed", -signal.SIGKILL, True)
    assert ended.attempts == KILLS_BORNE


def test_a_crash_is_a_failure_of_the_programs_own(tmp_path):
    ended = supervise(tmp_path, dying(signal.SIGSEGV, 100), retries=1)
    assert (ended.status, ended.attempts, ended.lost) == ("failed", 2, False)


def test_a_training_that_saved_its_state_when_asked_to_end_was_killed_too(tmp_path):
    # gace ends so: SIGTERM becomes a KeyboardInterrupt, and that a word and exit code 1
    program = (
        "import gace.cli, pathlib\n"
        "def invoke(context):\n"
        "    if not pathlib.Path('once').exists():\n"
        "        pathlib.Path('once').touch(); raise KeyboardInterrupt('state saved')\n"
        "gace.cli.gace.invoke = invoke; gace.cli.main(['doctor'])"
    )
    assert supervise(tmp_path, program, retries=0).status == "completed"


def test_wrong_input_is_not_retried(tmp_path):
    ended = supervise(tmp_path, "import sys; sys.exit(2)", retries=5)
    assert (ended.status, ended.attempts) == ("failed", 1)


def test_a_missing_program_is_a_failure_with_its_name(tmp_path):
    ended = run_supervised(["no-such-program"], str(tmp_path), str(tmp_path / "log"), cancelled=lambda: False)
    assert ended.exit_code == 127
    assert "no-such-program" in ended.error_tail


def test_the_environment_reaches_the_subprocess(tmp_path):
    program = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert supervise(tmp_path, program, env={"OMP_NUM_THREADS": "3"}).error_tail == "3"


def test_cancellation_ends_the_whole_group(tmp_path):
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('pid.tmp').write_text(str(child.pid)); pathlib.Path('pid.tmp').rename('pid')\n"
        "time.sleep(600)"
    )
    pid = tmp_path / "work" / "pid"
    ended = supervise(tmp_path, program, cancelled=pid.exists)
    assert ended.status == "cancelled"
    assert wait_for(lambda: not running(int(pid.read_text())))


def test_two_supervisors_never_share_a_folder(tmp_path):
    program = (
        "import os, time\n"
        "descriptor = os.open('busy', os.O_CREAT | os.O_EXCL)\n"
        "time.sleep(0.3)\n"
        "os.unlink('busy')"
    )
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(supervise(tmp_path, program, retries=0).status))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["completed"] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_the_subprocess_dies_with_its_supervisor(tmp_path):
    program = (
        "import subprocess, sys, os, time\n"
        f"command = [sys.executable, '-I', '-S', {str(LAUNCHER)!r}, str(os.getpid()), 'sleep', '600']\n"
        "child = subprocess.Popen(command)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(supervisor.stdout.readline())
    command_line = Path(f"/proc/{child}/cmdline")
    assert wait_for(lambda: command_line.read_bytes().startswith(b"sleep"))
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    assert wait_for(lambda: not running(child))
