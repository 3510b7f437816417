"""The contract of a data set, and the way from a recipe's section to its three splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from evonas.errors import DataError, OptionError, RecipeError
from evonas.recipe.options import Part, bind
from evonas.recipe.registry import Registry, blamed
from evonas.recipe.schema import DatasetSection
from evonas.training.data import Arrays, Data, Labels, split, stratified


class Dataset(ABC):
    """A source of images.

    Options are the annotated arguments of the constructor. Four of them are keys that every
    recipe's ``dataset`` section has, with the section's defaults: a source that asks for them by
    name is given them, and none need do so.

    - ``path: Path``: the folder or file to read, absolute.
    - ``size: int | None``: pixels a side. Images of another size are scaled afterwards, so only a
      source that decodes or draws its images asks for it, to spare the detour.
    - ``test: Share``: of the images to hold out (``held_out``) where there is no test split.
    - ``seed: int``: of whatever is random, the held-out images among it.
    """

    @abstractmethod
    def read(self) -> Arrays:
        """Read all images; equal options give equal arrays.

        Returns:
            Training and test images, and validation images if the source has some of its own; else
            they are split off the training images. uint8, NHWC or NHW, of one shape; labels count
            from 0.

        Raises:
            DataError: If something is missing or broken, in one line that says what to do.
            OSError: If the system says no.
        """


def load(section: DatasetSection, part: Part | None = None) -> Data:
    """Read a data set and split it.

    Args:
        section: Of a recipe. Any built-in name also reads an ``.npz`` given as the path.
        part: What makes the data set; default: what the section names, plugins' apart.

    Raises:
        UnknownComponent: If there is no data set of that name.
        RecipeError: If an option is wrong.
        DataError: If it is missing, broken or does not fit, in one line.
    """
    part, name = part or bind(Registry(), "dataset", section, "dataset"), f"dataset {section.name}"
    if section.path.suffix == ".npz" and part.cls.__module__.startswith("evonas."):
        npz = section.model_copy(update={"name": "npz"})
        part = bind(Registry(), "dataset", npz, "dataset")
    with blamed(part.cls, "cannot be read"):
        try:
            arrays: Arrays = part().read()
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        except OSError as error:  # a folder that may not be read, a name that is too long
            raise DataError(f"{name}: {error.filename}: {error.strerror}") from error
        except OptionError as error:
            raise RecipeError(f"{part.path}.{error}") from error
    data = split(arrays, section.validation, section.seed, name)
    if section.size is None or data.task.input_shape[1:] == (section.size, section.size):
        return data
    return data.resized(section.size)


def held_out(
    labels: Labels, share: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Labels, Labels]:
    """Indices of the training images and of the test images, each class in proportion.

    Args:
        labels: Of all images.
        share: Of them that are test images.
        seed: Of the choice.
        classes: Their names, for the error.

    Raises:
        DataError: If there are too few images.
    """
    what = "dataset.test: cannot hold out a test split"
    return stratified(labels, share, seed, what, classes)


def line(error: BaseException) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())
