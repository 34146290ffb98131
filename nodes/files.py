"""Model files of the loaders, found through the host's folders."""
from __future__ import annotations

import folder_paths

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


def find_file(name: str, source: str, *folders: str) -> str:
    """Path of the file that the input `source` names. Raises FileNotFoundError if no folder has the file."""
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path:
            return path
    searched = " and ".join(f"'{folder}'" for folder in folders)
    raise FileNotFoundError(f"{source}: there is no file '{name}' in the folders {searched}. Put the file there, then "
                            "refresh the browser")
