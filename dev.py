"""Set up, try, develop, test and measure the pack. Needs Python alone: what is missing is fetched once and kept.

    python dev.py demo [--mask FILE] [--prompt TEXT] [--seed N] [--out FILE.png]
    python dev.py serve [--port N]
    python dev.py test [PYTEST ARGUMENTS]
    python dev.py check
    python dev.py renew
    python dev.py new-node NODE_ID [--file FILE]
    python dev.py render FOLDER [ARGUMENTS]
    python dev.py train CONFIG [KEY=VALUE ...]
    python dev.py evaluate [ARGUMENTS]
    python dev.py bench NAME [ARGUMENTS]
    python dev.py attack NAME [ARGUMENTS]
    python dev.py run -- COMMAND [ARGUMENTS]
    python dev.py host

Everything that is fetched lies in one folder: $MDITFACE_HOME, or else the user's cache folder. A failure is one
sentence on stderr and exit code 2.
"""
import argparse
import errno
import os
import shutil
import socket
import sys
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parent
if str(ROOT) not in sys.path:  # python -I leaves it out
    sys.path.insert(0, str(ROOT))

from devtools.environment import OLDEST, Problem, find_cached_host, call, install_chromium, say, set_up

PYTHONS = ((3, 10), (3, 13))
MODULES = {  # commands whose arguments all go to a module
    "attack": "devtools.attack",
    "renew": "devtools.renew",
    "new-node": "devtools.new_node",
    "render": "mdit.render",
    "train": "mdit.recipes.train",
    "evaluate": "mdit.evaluation.evaluate",
}


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


def test(options) -> int:
    environment, host = set_up(with_tests=True)
    install_chromium(environment.cache)
    return call([environment.python, "-m", "pytest", *options.arguments], environment, host)


def check(_options) -> int:
    environment, host = set_up(with_tests=True, with_checks=True)
    oldest = find_cached_host(environment.cache, OLDEST)
    return call([environment.python, "-m", "devtools.check", oldest], environment, host)


def start_module(options) -> int:
    environment, host = set_up(with_tests=True)
    if options.command == "renew":
        install_chromium(environment.cache)
    return call([environment.python, "-m", MODULES[options.command], *options.arguments], environment, host)


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


def print_host(_options) -> int:
    print(set_up(with_torch=False)[1])
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dev.py", description="Set up, try, develop, test and measure the pack.")
    commands = top.add_subparsers(dest="command", required=True)

    one = commands.add_parser("demo", help="draw one face with the real server")
    one.add_argument("--mask", help="label map that the face follows (default: the bundled one)")
    one.add_argument("--prompt", help="description of the face (default: that of the bundled graph)")
    one.add_argument("--seed", type=int, default=0, help="noise seed (default: 0)")
    one.add_argument("--out", default="demo.png", help="image file to write (default: demo.png)")
    one.set_defaults(action=demo)

    one = commands.add_parser("serve", help="start ComfyUI with the pack for a browser")
    one.add_argument("--port", type=int, default=8188, help="port on this machine (default: 8188)")
    one.set_defaults(action=serve)

    one = commands.add_parser("bench", help="measure; the last line is one JSON object")
    one.add_argument("name", metavar="NAME", help="a module of the bench folder")
    one.set_defaults(action=bench)

    for name, action, text in (
        ("test", test, "run every test; all arguments go to pytest"),
        ("check", check, "run the registry's tools on the archive"),
        ("renew", start_module, "write the files that follow from the nodes; name what is missing"),
        ("new-node", start_module, "write help page, translation and test skeletons of a new node"),
        ("attack", start_module, "attack readers, inputs, cache, server or training; the last line is JSON"),
        ("render", start_module, "render faces with label maps and captions"),
        ("train", start_module, "train a model as a YAML file says"),
        ("evaluate", start_module, "measure a trained model on held-out faces"),
        ("run", run, "run a command inside the environment"),
        ("host", print_host, "print the folder of ComfyUI"),
    ):
        commands.add_parser(name, help=text).set_defaults(action=action)
    return top


def main(argv: list) -> int:
    low, high = PYTHONS
    if not low <= sys.version_info[:2] <= high:
        say("dev.py: this is Python %d.%d, but %d.%d to %d.%d is needed: start dev.py with one of those"
            % (sys.version_info[:2] + low + high))
        return 2
    passing = {"test": 1, "run": 1, "bench": 2, **dict.fromkeys(MODULES, 1)}  # the first arguments are for dev.py
    own = passing.get(argv[0] if argv else "", len(argv))
    options = parser().parse_args(argv[:own])
    options.arguments = argv[own:]
    try:
        return options.action(options)
    except Problem as problem:
        say("dev.py: %s" % problem)
    except OSError as error:
        say("dev.py: %s" % ("the disk is full" if error.errno == errno.ENOSPC
                          else "%s: %s" % (error.filename, error.strerror)))
    except KeyboardInterrupt:
        say("dev.py: stopped; run the same command again to resume")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
