"""The safetensors files that the loaders of the pack offer, through the host's folders."""
from __future__ import annotations

import folder_paths


def add_folder(name: str, *paths) -> None:
    """Lets the host look for safetensors files of a kind in these places, too."""
    for path in paths:
        folder_paths.add_model_folder_path(name, str(path))
    folder_paths.folder_names_and_paths[name][1].add(".safetensors")


def names_in(*folders: str) -> list[str]:
    names = [name for folder in folders for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys(name for name in names if name.endswith(".safetensors")))


def path_of(name: str, source: str, *folders: str) -> str:
    """Where the file is that the input `source` names; FileNotFoundError if it is in none of the folders."""
    path = next(filter(None, (folder_paths.get_full_path(folder, name) for folder in folders)), None)
    if path is None:
        raise FileNotFoundError(f"{source}: no file '{name}' in the folders '{folders[0]}' and '{folders[1]}': put it "
                                "there, then refresh the browser")
    return path
