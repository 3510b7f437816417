"""What people get wrong in a search space: one line that names cause, file and line, and no trace.

The table is of the first hour that a newcomer had with evonas. Every mistake is brought to
``evonas check`` and to ``evonas run``, under a limit, so that networks are counted as well.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_helper import evonas
from click.testing import Result

RECIPE = """
name: tiny
dataset: {name: digits, validation: 0.2}
space: mine
strategy: {name: random}
evaluation: {name: train, epochs: 1, batch_size: 512}
constraints: {params: {max: 1000000}}
budget: {trials: 2}
executor: {name: serial, device: cpu}
tracking: {name: console}
"""
GOOD = """
from torch import nn

from evonas import Categorical, Integer, SearchSpace


class Net(SearchSpace):
    '''One convolution.'''

    def __init__(self):
        self.domains = {"width": Integer(4, 16, step=4), "kernel": Categorical((3, 5, 7))}

    def build(self, architecture, task):
        c = architecture.choices
        return nn.Sequential(
            nn.Conv2d(task.channels, c["width"], c["kernel"], padding="same"),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(c["width"], task.classes),
        )
"""
CHOICES = "        c = architecture.choices\n"


@dataclass(frozen=True)
class Mistake:
    """What is written instead of what in the good space, and what is said of it.

    The two codes are those of check and run; the sentence is a pattern that both say, or run alone
    says otherwise.
    """

    old: str
    new: str
    says: str
    check: int = 6
    run: int = 6
    run_says: str | None = None


MISTAKES = {
    "wrong number of logits": Mistake(
        "task.classes)",
        "task.classes + 1)",
        r"must give logits of shape \(2, 10\), not \(2, 11\) \(.*mine\.py, line 13\)",
    ),
    "typo in a choice": Mistake(
        'c["kernel"]', 'c["kernal"]', r"raises KeyError: 'kernal' \(.*mine\.py, line 16\)"
    ),
    "build raises for some": Mistake(
        CHOICES,
        CHOICES + "        if c['kernel'] != 3:\n            raise ValueError('not done yet')\n",
        r"raises ValueError: not done yet \(.*mine\.py, line 16\)",
        run_says=r"ValueError: not done yet \(.*mine\.py, line 16\)",
    ),
    "another network each time": Mistake(
        CHOICES,
        "        import random\n"
        "        c = {**architecture.choices, 'width': random.randint(1, 999)}\n",
        r"gives a different network each time \(.*mine\.py, line 13\)",
    ),
    "huge": Mistake(  # up to 840 GB
        CHOICES + "        return nn.Sequential(\n            nn.Conv2d(task.channels",
        "        c = {**architecture.choices, 'width': 4096 * architecture.choices['width']}\n"
        "        return nn.Sequential(\n"
        "            nn.Conv2d(task.channels, c['width'], 1),\n"
        "            nn.Conv2d(c['width']",
        "",
        check=0,
        run=2,
        run_says="found nothing in space 'mine' with params at most 1,000,000",
    ),
    "missing import": Mistake(
        "from torch import nn\n",
        "\n",
        r"NameError: name 'nn' is not defined \(.*mine\.py, line 15\)",
    ),
    "syntax error": Mistake(
        "def __init__(self):", "def __init__(self)", r"mine\.py: SyntaxError: .*line 10"
    ),
    "two classes": Mistake(
        "class Net(",
        "class Other(SearchSpace):\n    def build(self, a, t): ...\nclass Net(",
        r"mine\.py: .* exactly one concrete SearchSpace, found Other, Net",
    ),
    "print in build": Mistake(CHOICES, CHOICES + "        print('building')\n", "", check=0, run=0),
    "no build": Mistake(
        "def build(",
        "def bulid(",
        r"Net is abstract, for it has no method 'build'\. Did you mean 'bulid'\?",
    ),
    "no return": Mistake(
        "return nn.Sequential(",
        "net = nn.Sequential(",
        r"returns NoneType, not a torch module; end it with return \(.*mine\.py, line 13\)",
    ),
    "list for a Categorical": Mistake(
        "Categorical((3, 5, 7))",
        "[3, 5, 7]",
        r"'kernel' is \[3, 5, 7\]; it must be a Categorical",
        run_says=r"'kernel' is \[3, 5, 7\]",
    ),
    "three channels": Mistake(
        "nn.Conv2d(task.channels",
        "nn.Conv2d(3",
        "to have 3 channels, but got 1 channels",
    ),
    "absent package": Mistake(
        "from torch import nn\n",
        "import timmm\nfrom torch import nn\n",
        r"mine\.py: ModuleNotFoundError: No module named 'timmm'",
    ),
    "integer the wrong way round": Mistake(
        "Integer(4, 16, step=4)",
        "Integer(4, 1)",
        r"ValueError: Integer: low 4 is greater than high 1 \(.*mine\.py, line 11\)",
    ),
    "impossible rule": Mistake(
        "    def build",
        '        self.rules = {"it is black and white": lambda c: False}\n\n    def build',
        "it must hold that it is black and white",
        check=2,
        run=2,
    ),
    "condition for no choice": Mistake(
        "    def build",
        '        self.conditions = {"kernal": lambda c: True}\n\n    def build',
        "'kernal' is no choice of the space",
    ),
    "softmax at the end": Mistake(
        "task.classes),\n",
        "task.classes), nn.Softmax(1),\n",
        r"gives probabilities, not logits; leave out the softmax \(.*mine\.py, line 13\)",
    ),
    "no base class": Mistake("(SearchSpace):", ":", "found none: Net does not extend SearchSpace"),
    "argument without default": Mistake(
        "__init__(self)", "__init__(self, depth: int)", r"space\.depth: is missing", check=2, run=2
    ),
    "argument without annotation": Mistake(
        "__init__(self)", "__init__(self, depth=3)", r"option 'depth' of Net has no annotation"
    ),
    "argument that is called as the component is": Mistake(
        "__init__(self)", "__init__(self, name: str = 'x')", r"option 'name' of Net needs another"
    ),
    "leaves": Mistake(
        CHOICES,
        CHOICES + "        raise SystemExit(3)\n",
        r"raises SystemExit: 3 \(.*mine\.py, line 15\)",
    ),
    "forward of its own that raises": Mistake(
        "        return nn.Sequential(\n",
        "        class Odd(nn.Module):\n"
        "            def forward(self, x):\n"
        "                return x.no_such_thing\n\n"
        "        return nn.Sequential(\n            Odd(),\n",
        r"AttributeError: 'Tensor' object has no attribute 'no_such_thing' \(.*mine\.py, line 17\)",
    ),
}


def write(text: str, path: str = "plugins/spaces/mine.py") -> None:
    Path("r.yaml").write_text(RECIPE)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def said(result: Result, code: int, pattern: str) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert re.search(pattern, result.output), result.output
    assert "Traceback" not in result.output
    if code != 0:
        complaint = [line for line in result.stderr.splitlines() if line.startswith("evonas: ")]
        assert len(complaint) == 1 or "FAILED" in result.stdout, result.output


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_mistake_is_one_line(name: str, command: str) -> None:
    mistake = MISTAKES[name]
    assert mistake.old in GOOD
    write(GOOD.replace(mistake.old, mistake.new))
    if command == "check":
        said(evonas("check", "space", "mine"), mistake.check, mistake.says)
    else:
        pattern = mistake.says if mistake.run_says is None else mistake.run_says
        said(evonas("run", "r.yaml", "--run-dir", "run"), mistake.run, pattern)


def test_the_good_space_is_good() -> None:
    write(GOOD)
    said(evonas("check", "space", "mine", "--recipe", "r.yaml"), 0, r"mine: ok \(at 1x8x8\)")
    said(evonas("run", "r.yaml", "--run-dir", "run"), 0, "finished")


def test_the_name_of_a_built_in() -> None:
    write(GOOD, "plugins/spaces/resnet.py")
    for command in (["check", "space", "resnet"], ["run", "r.yaml", "--set", "space=resnet"]):
        said(evonas(*command), 6, "space 'resnet' is there twice: built-in and .*resnet.py")


@pytest.mark.parametrize("path", ["plugins/mine.py", "plugins/space/mine.py"])
def test_a_file_in_the_wrong_folder(path: str) -> None:
    write(GOOD, path)
    for command in (["check", "space", "mine"], ["run", "r.yaml"]):
        said(
            evonas(*command),
            2,
            f"unknown space 'mine'. {path} is not looked at: move it to plugins/spaces/mine.py",
        )


POOLS = """
from torch import nn

from evonas import Integer, SearchSpace


class Net(SearchSpace):
    '''Halves the images at every layer: three times at most, if they have eight pixels.'''

    def __init__(self):
        self.domains = {"layers": Integer(1, 6)}

    def build(self, architecture, task):
        layers, channels = [], task.channels
        for _ in range(architecture.choices["layers"]):
            layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.MaxPool2d(2)]
            channels = 8
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, task.classes)
        )
"""
MANY = ["--set", "budget.trials=12", "--set", "strategy=grid"]


@pytest.mark.parametrize("limit", [[], ["--set", "constraints={}"]], ids=["limit", "no limit"])
def test_networks_that_are_impossible_at_this_size_are_left_out(limit: list[str]) -> None:
    write(POOLS)
    found = evonas("run", "r.yaml", "--run-dir", "run", *MANY, *limit)
    said(found, 0, r"the space is exhausted: .* \(3 complete;")
    assert "failed" not in found.output
    if limit:  # a limit says it by what it accepts
        assert "left out: networks that take no image of this size; for example" in found.output
        assert "of 1x8x8 images" in found.output


def test_a_space_may_say_so_itself() -> None:
    line = "        layers, channels = [], task.channels\n"
    refusal = '            raise InvalidArchitecture("too small")\n'
    text = POOLS.replace("Integer, Search", "Integer, InvalidArchitecture, Search")
    write(text.replace(line, f"        if architecture.choices['layers'] > 2:\n{refusal}{line}"))
    found = evonas("run", "r.yaml", "--run-dir", "run", *MANY)
    said(found, 0, r"the space is exhausted: .* \(2 complete;")


def test_the_check_is_of_the_size_that_is_meant() -> None:
    write(POOLS)
    small = r"forward: {'layers': [456]} raises RuntimeError: .*, of 1x8x8 images"
    said(evonas("check", "space", "mine", "--input", "3x64x64"), 0, r"ok \(at 3x64x64\)")
    said(evonas("check", "space", "mine", "--input", "1x8x8"), 6, small)
    said(evonas("check", "space", "mine", "--recipe", "r.yaml"), 6, small)
    said(evonas("check", "space", "mine", "--input", "8"), 2, "CHANNELSxHEIGHTxWIDTH")
    said(evonas("check", "strategy", "random", "--input", "3x8x8"), 2, "are for spaces")


RARE = GOOD.replace(
    CHOICES,
    CHOICES + "        if c['kernel'] == 5 and c['width'] == 8:\n            raise KeyError(8)\n",
)


def test_a_fault_in_mid_search_is_one_line_and_the_run_goes_on_when_it_is_mended() -> None:
    write(RARE)
    fault = r"cannot count {'width': 8, 'kernel': 5}: KeyError: 8 \(.*mine\.py, line 16\)"
    said(evonas("run", "r.yaml", "--run-dir", "run", *MANY), 6, fault)
    said(evonas("resume", "run"), 6, fault)
    write(GOOD)
    sys.modules.pop("evonas_plugins.spaces.mine")  # as in a new process
    said(evonas("resume", "run"), 0, "12 complete")


@pytest.mark.parametrize("name", ["My-Net", "MyNet"])
def test_a_file_may_have_any_name(name: str) -> None:
    write(GOOD, f"plugins/spaces/{name}.py")
    said(evonas("check", "space", name), 0, f"space {name}: ok")
    said(evonas("run", "r.yaml", "--set", f"space={name}", "--run-dir", "run"), 0, "finished")
