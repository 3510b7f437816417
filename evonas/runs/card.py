"""The card of a network: what it is, what it was measured on, what it cannot do, how to load it.

After Mitchell and others, Model cards for model reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evonas import __version__
from evonas.recipe.schema import Recipe
from evonas.runs.scores import Confusion
from evonas.runs.session import Session
from evonas.training import devices
from evonas.trial import figure

FILE = "MODEL_CARD.md"
_COSTS = {
    "params": "parameters",
    "flops": "FLOPs an image, two per multiply-add",
    "peak_memory": "live activations, bytes an image",
    "latency": "latency in the search, ms",
}
_LIMITS = """\
- It knows these classes alone, and says one of them of any picture whatever.
- Its accuracy holds for pictures like those of the data set. Others (another camera, place,
  light, time) may be harder; try some of your own with `evonas predict`.
- The interval says what chance does in a test split of this size. It does not say what another
  training or another data set would give.
- Its probabilities were not calibrated: a class given 0.9 need not be right nine times in ten.
- Who appears in the data and who does not, evonas cannot know. Look before you rely on it.
"""


def text(
    session: Session,
    folder: Path,
    about: Mapping[str, Any],
    counts: Confusion | None,
    milliseconds: float,
) -> str:
    """The card, in Markdown.

    Args:
        session: The run's.
        folder: Where the network is.
        about: Its description (see ``export.description``).
        counts: On the test split; None if there is none.
        milliseconds: That one image takes now, on the device of the run.
    """
    recipe, data = session.assembly.recipe, session.assembly.evaluator.context.data
    form = about["preprocessing"]
    size = f"{form['width']}×{form['height']} pixels, {'grey' if form['mode'] == 'L' else 'RGB'}"
    device = session.assembly.evaluator.context.device
    where = f"{device}, threads: {devices.threads()}" if device == "cpu" else device
    speed = ("latency of one image", f"{milliseconds:.3g} ms where it was trained ({where})")
    parts = [
        f"# {recipe.name}\n",
        f"Says which of {len(about['classes'])} classes a picture is of. Found and trained by "
        f"evonas {__version__}; trial {about['trial']} of the search.\n",
        f"## Data\n\n{data}.\n",
        f"## Network\n\n{_table(('', ''), [*_network_rows(recipe, about, folder, size), speed])}",
        f"## Accuracy\n\n{_accuracy(session, about, counts)}",
        f"## Limits\n\n{_LIMITS}",
        f"## How to use it\n\n{_use(session, folder, about)}",
    ]
    return "\n".join(parts)


def _network_rows(
    recipe: Recipe, about: Mapping[str, Any], folder: Path, size: str
) -> list[tuple[str, str]]:
    metrics = about["metrics"]
    choices = ", ".join(f"{name} = {value}" for name, value in about["choices"].items())
    rows = [
        ("recipe", recipe.name),
        ("search space", about["space"]),
        ("choices", choices),
        ("input", f"{size}, 0…255; {about['preprocessing']['cut']}, bicubic"),
    ]
    rows += [(title, figure(metrics[name])) for name, title in _COSTS.items() if name in metrics]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".pt2", ".safetensors"))
    rows += [(f"size of {path.name}", f"{path.stat().st_size:,} bytes") for path in files]
    return rows


def _accuracy(session: Session, about: Mapping[str, Any], counts: Confusion | None) -> str:
    metrics, trainings = about["metrics"], len(about["seeds"])
    rows = [
        (name, f"{value:.4f}" + (f", mean of {trainings} trainings" if trainings > 1 else ""))
        for name, value in metrics.items()
        if name.startswith("val_") and not name.endswith("_std")
    ]
    if counts is None:
        untested = "Not measured on test images, which only a run's winner meets.\n"
        return f"{untested}\n{_table(('on the validation split', ''), rows)}"
    low, high = counts.interval
    own = f"{counts.accuracy:.4f}, 95 % interval {low:.3f} to {high:.3f} (Wilson)"
    said = [
        f"On the test split, which nothing was chosen by: {own}, {counts.right:,} of "
        f"{counts.images:,} images.\n"
    ]
    if session.assembly.evaluator.context.flip and "test_accuracy" in metrics:
        score = metrics["test_accuracy"]
        said.append(f"With every image and its mirror image together: {score:.4f}.\n")
    elif trainings > 1 and "test_accuracy" in metrics:
        mean, std = metrics["test_accuracy"], metrics.get("test_accuracy_std", 0.0)
        said.append(f"Mean of {trainings} trainings, of which it is one: {mean:.4f} ± {std:.4f}.\n")
    others = [
        (name, f"{value:.4f}")
        for name, value in metrics.items()
        if name.startswith("test_") and not name.endswith(("test_accuracy", "_std"))
    ]
    if others:
        said.append(_table(("on the test split", ""), others))
    said.append(_table(("on the validation split, which chose it", ""), rows))
    header, *lines = counts.rows()
    said.append(_table(header, lines))
    if matrix := counts.matrix():
        said.append("A line a class, a column a guess:\n")
        said.append(_table(matrix[0], matrix[1:]))
    else:
        said.append("The confusion matrix is in `test.json`.\n")
    return "\n".join(said)


def _use(session: Session, folder: Path, about: Mapping[str, Any]) -> str:
    run, name = session.folder.name, folder.relative_to(session.folder)
    trial = "" if name == Path("incumbent") else f" --trial {about['trial']}"
    program = (
        """\
Without evonas, with torch alone:

```python
import torch

inside = {"evonas.json": ""}
network = torch.export.load("network.pt2", extra_files=inside).module()
logits = network(images)  # (N, channels, height, width), uint8 or float32, values 0…255
```

It is in inference mode; `.eval()` is neither needed nor supported. `inside["evonas.json"]` is
`architecture.json`: class names, and in `preprocessing` how a picture becomes an image.
"""
        if (folder / "network.pt2").exists()
        else "torch.export could not write the network as a program; evonas alone loads it.\n"
    )
    return f"""\
With evonas:

```
evonas predict {run}/{name} PICTURE…   # classes and probabilities
evonas export {run}{trial} --format onnx   # for any runtime
```

{program}"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: str) -> str:
    """A class may be called anything."""
    return " ".join(value.replace("|", "\\|").split())
