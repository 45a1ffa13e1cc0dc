"""A split whose pictures are read and decoded when they are wanted: for data sets too large for memory.

Found by name (`training.split`), so that it is part of the code of those jobs alone that stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from shrinkflow.data import streaming, views
from shrinkflow.data.dataset import Dataset
from shrinkflow.errors import UserError
from shrinkflow.recipe import Recipe
from shrinkflow.seeds import Purpose, numpy_generator, torch_generator
from shrinkflow.training import Split

# Pictures per step of an evaluation. A constant, as in `training`, and smaller: these are larger.
_EVALUATION_BATCH = 100
# Batches that may lie decoded in memory while the network is busy with one.
_BATCHES_AHEAD = 2

_Draw = tuple[int, Purpose, int]
"""(seed, purpose, epoch): with the place of a picture in its epoch, what its augmentation depends on."""


class Streamed(Split):
    """The pictures of one split in their files, and their labels, int64 [n], on the device.

    Every draw of a picture depends on (seed, epoch, place in the epoch's order): not on the thread that reads
    it, nor on the size of a batch.
    """

    def _place(self, dataset: Dataset, indices: npt.NDArray[np.int64]) -> None:
        assert dataset.files is not None
        if dataset.files.folder is None:
            raise UserError(f"the pictures of '{dataset.name}' are in a folder; name it with --folder")
        if not dataset.files.folder.is_dir():
            raise UserError(
                f"there is no folder {dataset.files.folder}, in which the pictures of '{dataset.name}' were"
            )
        self._files, self._indices, self._shape = dataset.files, indices, dataset.shape
        self._threads = streaming.workers(torch.get_num_threads())

    def in_order(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all pictures and labels, in order: for evaluation."""
        return self._batches(torch.arange(len(self)).split(_EVALUATION_BATCH))

    def shuffled(self, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield one epoch of augmented batches; see `Split.shuffled`."""
        if recipe.crop:
            raise UserError(
                "'crop' pads pictures of one size, but these are streamed; set 'resized_crop' instead"
            )
        order = torch.randperm(len(self), generator=torch_generator(seed, Purpose.ORDER, epoch))
        batches = [chosen for chosen in order.split(recipe.batch_size) if len(chosen) > 1]
        return self._batches(batches, recipe.resized_crop, recipe.flip, (seed, Purpose.AUGMENTATION, epoch))

    def drawn(
        self, generator: torch.Generator, batches: int, batch_size: int, crop: int = 0, flip: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield `batches` batches drawn without replacement; where `crop` is not 0, it is a resized crop."""
        order = torch.randperm(len(self), generator=generator)[: batches * batch_size]
        seed = int(torch.randint(2**63 - 1, (), generator=generator)) if crop or flip else 0
        return self._batches(order.split(batch_size), crop > 0, flip, (seed, Purpose.AUGMENTATION, 0))

    def _batches(
        self,
        batches: Sequence[torch.Tensor],
        crop: bool = False,
        flip: bool = False,
        draw: _Draw = (0, Purpose.AUGMENTATION, 0),
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield batches of these places in the split, augmented or not."""
        channels, height, width = self._shape

        def see(item: tuple[int, int]) -> npt.NDArray[np.uint8]:
            place, index = item
            picture = streaming.picture(self._files, int(self._indices[index]), channels)
            if not crop and not flip:
                return views.pixels(views.centre(picture, self._files.resize, height, width))
            generator = numpy_generator(*draw, place)
            if crop:
                picture = views.resized_crop(picture, height, width, generator)
            else:
                picture = views.centre(picture, self._files.resize, height, width)
            if flip and generator.integers(2):
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return views.pixels(picture)

        places: Iterable[int] = (index for chosen in batches for index in chosen.tolist())
        largest = max(map(len, batches), default=0)
        pictures = streaming.in_order(see, enumerate(places), self._threads, _BATCHES_AHEAD * largest)
        for chosen in batches:
            images = torch.from_numpy(np.stack(list(islice(pictures, len(chosen)))))
            yield self.inputs(images.to(self.device)), self.labels[chosen.to(self.device)]
