"""Links in the directory of a model, which others made: none of its files may lie elsewhere.

What a link leads to would be taken for a part of the model, and be copied into exports of it.
"""

import os
from pathlib import Path

from jaxsft.errors import ConversionError

_TEMPLATES = "additional_chat_templates"  # the one folder of a model that transformers reads
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"  # of huggingface_hub's cache


def refuse_leading_out(directory: Path) -> None:
    """Refuses a model's directory of which a file is a link to one outside.

    The directory may itself be reached by a link, its links may lead to each other, and those of
    the hub's cache lead from snapshots/REVISION to its blobs.

    Raises:
        ConversionError: the link, where it leads to, and what to do.
    """
    files = [*directory.iterdir()]
    if (directory / _TEMPLATES).is_dir():
        files += [directory / _TEMPLATES, *(directory / _TEMPLATES).iterdir()]
    for path in sorted(files):
        if leads_out(path, directory) and (path.name == _TEMPLATES or not path.is_dir()):
            target = os.readlink(path) if path.is_symlink() else os.path.realpath(path)
            raise ConversionError(
                f"{path}: is a link to {target}, outside {directory}; a model's files must lie in"
                f" its directory: if all that its links lead to is part of it, name a copy made"
                f" with `cp -rL {directory} NEW`"
            )


def leads_out(path: Path, directory: Path) -> bool:
    """Whether a file of a model lies outside its directory; a broken link may lead out too."""
    root = os.path.realpath(directory)
    inside = [root]
    above = os.path.dirname(root)
    if os.path.basename(above) == _SNAPSHOTS:
        # As it stands: were blobs a link itself, its target could be anything.
        inside.append(os.path.join(os.path.dirname(above), _BLOBS))
    target = os.path.realpath(path)
    return not any(target.startswith(os.path.join(part, "")) for part in inside)
