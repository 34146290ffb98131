"""Model files in the folders of the host, for the loaders of the pack."""
from __future__ import annotations

import folder_paths

ENDINGS = (".safetensors",)


def add_folder(name: str, *paths, endings: tuple[str, ...] = ENDINGS) -> None:
    """Adds directories, and endings of file names, to a folder of the host."""
    for path in paths:
        folder_paths.add_model_folder_path(name, str(path))
    folder_paths.folder_names_and_paths[name][1].update(endings)


def names_in(*folders: str, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    names = [name for folder in folders for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys(name for name in names if name.endswith(endings)))


def path_of(name: str, source: str, *folders: str) -> str:
    """The path of the file that the input `source` names; FileNotFoundError if no folder has the file."""
    path = next(filter(None, (folder_paths.get_full_path(folder, name) for folder in folders)), None)
    if path is None:
        listed = " and ".join(f"'{folder}'" for folder in folders)
        raise FileNotFoundError(f"{source}: no file '{name}' in the folders {listed}: put the file there and refresh "
                                "the browser")
    return path
