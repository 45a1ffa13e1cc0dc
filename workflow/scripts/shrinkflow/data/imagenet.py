"""ImageNet (ILSVRC 2012), streamed from the folder it was unpacked to. Russakovsky et al. 2015.

The layout is that of torchvision's ImageNet and ImageFolder: train/<wnid>/*.JPEG, val/<wnid>/*.JPEG. Other
files and folders beside `train` and `val` are passed over. `val` is the test part: the labels of the
published one were kept back. Classes stand in the order of their WordNet ids, as in published weights.
"""

from __future__ import annotations

from pathlib import Path

from shrinkflow.data import SOURCES, imagefolder, members
from shrinkflow.data.dataset import Listing, Source
from shrinkflow.errors import UserError

CLASSES = 1000
PICTURES = {"train": 1_281_167, "val": 50_000}
# Those of all published weights; measured over part of the training pictures, long ago.
NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def find(folder: Path) -> Listing:
    """Find the pictures of ImageNet.

    Raises `UserError` for another layout, an empty class, or a number of classes that is not 1000.
    """
    for part in PICTURES:
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder} has no folder '{part}'; ImageNet is read from train/<wnid>/*.JPEG and "
                "val/<wnid>/*.JPEG"
            )
    sizes, folders = members.listing(folder)
    for part, count in PICTURES.items():
        found = sum(name.startswith(f"{part}/") and name.count("/") == 1 for name in folders)
        if not found and any(name.startswith(f"{part}/") for name in sizes):
            raise UserError(
                f"{folder / part} holds pictures but no class folders, as it was published: sort them into "
                f"{part}/<wnid>/, as torchvision.datasets.ImageNet('{folder}', '{part}') does beside the "
                "published archives"
            )
        if found != CLASSES:
            raise UserError(
                f"{folder / part} has {found} class folders, ImageNet has {CLASSES}: it is not complete, or "
                "another data set; give that as an 'imagefolder'"
            )
        found = sum(name.startswith(f"{part}/") and name.count("/") == 2 for name in sizes)
        if found != count:
            raise UserError(
                f"{folder / part} has {found:,} pictures, ImageNet has {count:,}: it is not complete, or "
                "another data set; give that as an 'imagefolder'"
            )
    kept = [name for name in sizes if name.startswith(("train/", "val/"))]
    inside = {name for name in folders if f"{name}/".startswith(("train/", "val/"))}
    return imagefolder.arrange(folder, kept, inside)


SOURCES.register(
    "imagenet",
    Source(
        (3, 224, 224),
        CLASSES,
        (),
        None,
        (PICTURES["train"], PICTURES["val"]),
        find=find,
        own=("folder",),
        normalisation=NORMALISATION,
    ),
    __name__,
)
