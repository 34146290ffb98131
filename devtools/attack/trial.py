"""One attempt in a process of its own: what became of it, and what it took."""
from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PROCESSOR_SECONDS = 2.0
MEGABYTES = 500
WALL_SECONDS = 60  # of a process that waits for something; busy machines need some
REFUSALS = (ValueError, FileNotFoundError)
SPARE = 3 * 2 ** 30  # bytes of address space beyond what the process has: a bomb ends there
ROOT = Path(__file__).absolute().parents[2]
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove", "os.rename", "os.mkdir",
             "os.rmdir", "os.chmod", "os.truncate", "os.symlink", "os.link", "subprocess.Popen", "socket.connect",
             "shutil.", "urllib.", "ftplib.", "webbrowser.", "pty.")


class Outcome(NamedTuple):
    """What became of one attempt.

    error: the kind of the error, None if the file was accepted.
    breaches: what it did beyond reading its own folder.
    """
    error: str | None
    message: str
    seconds: float
    megabytes: float
    breaches: list[str]

    def find_escape(self, name: str) -> str | None:
        """What is wrong with the attempt; None for a file that was accepted or refused in words that hold its name."""
        if self.breaches:
            return f"touched {self.breaches[0]}"
        if self.seconds > PROCESSOR_SECONDS:
            return f"took {self.seconds:.1f} s of processor time"
        if self.megabytes > MEGABYTES:
            return f"took {self.megabytes:.0f} MB"
        if self.error and self.error not in (kind.__name__ for kind in REFUSALS):
            return f"raised {self.error}"
        if self.error and (name not in self.message or "allocate memory" in self.message):
            return "does not name the file, or ran out of memory"
        return None


def attempt(call: Callable[[], object], folder: Path) -> Outcome:
    """Runs a call in a copy of this process that may read `folder` and the programs, and nothing else."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        report(call, folder, writing)
    os.close(writing)
    answer = collect(reading)
    os.close(reading)
    if not answer.endswith("\n"):
        os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if answer.endswith("\n"):
        return Outcome(**json.loads(answer))
    return Outcome("crash", f"ended with status {status}", usage.ru_utime + usage.ru_stime, 0.0, [])


def collect(reading: int) -> str:
    """What the child writes, until it ends or waits too long."""
    end = time.monotonic() + WALL_SECONDS
    found = b""
    while time.monotonic() < end:
        ready, _, _ = select.select([reading], [], [], 1.0)
        part = os.read(reading, 2 ** 16) if ready else b""
        found += part
        if ready and not part:
            break
    return found.decode()


def report(call: Callable[[], object], folder: Path, writing: int) -> None:
    """In the child: runs the call under the limits, writes its outcome, and ends the process."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        breaches = watch(folder)
        limit()
        before = measure_memory()
        start = time.process_time()
        error, message = run(call)
        taken = {"seconds": time.process_time() - start, "megabytes": measure_memory() - before}
        answer = {"error": error, "message": message, **taken, "breaches": breaches[:3]}
        os.write(writing, (json.dumps(answer) + "\n").encode())
    finally:
        os._exit(0)


def run(call: Callable[[], object]) -> tuple[str | None, str]:
    """The kind and the words of the error that a call ends with."""
    try:
        call()
    except BaseException as error:
        told = "allocate memory" if ran_out(error) else ""
        kind = next((kind for kind in REFUSALS if isinstance(error, kind)), type(error))
        return kind.__name__, f"{str(error)[:2000]} {told}"
    return None, ""


def ran_out(error: BaseException | None) -> bool:
    """Whether memory ran out below an error."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def measure_memory() -> float:
    """The most megabytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + SPARE, held + SPARE))
    seconds = int(PROCESSOR_SECONDS * 4)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def watch(folder: Path) -> list[str]:
    """A list to which each forbidden event is added: files outside of the folder and the programs, and FORBIDDEN."""
    breaches = []
    readable = tuple(map(str, (folder, ROOT, os.environ.get("COMFYUI_PATH", ROOT), sys.prefix, sys.base_prefix,
                               sysconfig.get_paths()["stdlib"], "/proc", "/sys", "/dev/null", "/dev/urandom", "/etc")))

    def look(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            is_named = isinstance(path, (str, bytes, os.PathLike))
            if is_named and (writes or not os.path.abspath(os.fsdecode(path)).startswith(readable)):
                breaches.append(f"{event} {path}")
        elif event.startswith(FORBIDDEN):
            breaches.append(f"{event} {arguments}"[:200])
    sys.addaudithook(look)
    return breaches
