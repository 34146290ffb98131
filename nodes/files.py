"""Model files of the loaders, found through the host's folders."""
from __future__ import annotations

import folder_paths

from ..mdit.shared.text_files import shorten

ENDINGS = (".safetensors",)


def add_folder(name: str, *paths, endings: tuple[str, ...] = ENDINGS) -> None:
    """Makes the host search these paths, too, for files of a folder name."""
    for path in paths:
        folder_paths.add_model_folder_path(name, str(path))
    folder_paths.folder_names_and_paths[name][1].update(endings)


def list_files(*folders: str, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """The files with these endings in the folders, each name once."""
    names = []
    for folder in folders:
        names += folder_paths.get_filename_list(folder)
    return list(dict.fromkeys(name for name in names if name.endswith(endings)))


def check_file(name: str | None, source: str, *folders: str, endings: tuple[str, ...] = ENDINGS) -> bool | str:
    """Whether a folder has the file that the input `source` names, for `validate_inputs` of a loader, else an error.

    The host's own check compares separators, so it refuses graphs that were saved on another system.
    name: None if another node provides it, and then `find_file` looks.
    """
    if name is None or not set(spell_alike(name)).isdisjoint(list_files(*folders, endings=endings)):
        return True
    return describe_absence(name, source, *folders)


def find_file(name: str, source: str, *folders: str, endings: tuple[str, ...] = ENDINGS) -> str:
    """Path of the file that the input `source` names, with separators of any system.

    A link brings any value past the input's list. The host finds nothing outside of its folders.
    Raises FileNotFoundError if no folder has the file, or if its ending is none of `endings`.
    """
    spellings = spell_alike(name) if isinstance(name, str) and name.endswith(endings) else ()
    for folder in folders:
        for spelling in spellings:
            path = folder_paths.get_full_path(folder, spelling)
            if path:
                return path
    raise FileNotFoundError(describe_absence(name, source, *folders))


def spell_alike(name: str) -> tuple[str, str, str]:
    """A file's name as it is, and with the separators of Linux and of Windows."""
    return name, name.replace("\\", "/"), name.replace("/", "\\")


def describe_absence(name: str, source: str, *folders: str) -> str:
    searched = " and ".join(f"'{folder}'" for folder in folders)
    return (f"{source}: there is no file '{shorten(name)}' in the folders {searched}. Put the file there, then refresh "
            "the browser")
