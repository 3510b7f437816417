"""What the manual tells one to type or to copy, looked at without running it."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from test_docs import DOCS, NAMES, PAGES

from evonas.__main__ import main
from evonas.recipe import reading
from evonas.recipe.registry import Registry
from evonas.runs.assemble import Parts

CLUSTER = (DOCS / "cluster.md").read_text()
ANY = "digits_evo"  # stands for recipes that are the reader's own


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```(?:{language})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def jobs() -> list[dict[str, Any]]:
    """Kubernetes' jobs of the page."""
    return [job for block in blocks(CLUSTER, "yaml") for job in yaml.safe_load_all(block)]


def commands(lines: Iterable[str]) -> Iterator[list[str]]:
    """The words after ``evonas`` of all lines that call it, by themselves or through another."""
    for line in lines:
        if found := re.match(r"\s*(?:exec |srun .*?)?evonas (.*)", line):
            words = shlex.split(found[1], comments=True)
            yield [word for word in words if word not in ("…", "&")]


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command that evonas reads from its words, and what it is given."""
    name, *rest = itertools.dropwhile(lambda word: word.startswith("--"), words)
    command = main.commands.get(name)
    if command is None:
        raise click.UsageError(f"there is no command {name}")
    return name, command.make_context(name, rest).params


def check(words: Sequence[str]) -> None:
    """The words are a command of evonas, and what they set is what a recipe may say."""
    try:
        name, given = parsed(words)
    except click.ClickException as error:
        raise AssertionError(f"evonas {' '.join(words)}: {error.format_message()}") from error
    if name in ("run", "sweep"):
        known = reading.shipped()
        bind(known.get(given["path"].stem, known[ANY]), given["overrides"])


def bind(recipe: Path, overrides: Sequence[str]) -> None:
    """Have the options of what the pages of clusters are about looked at."""
    parts = Parts(reading.load(recipe, overrides), Registry())
    assert parts["executor"].dump()
    assert parts["tracking"].dump()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_can_be_typed(page: Path) -> None:
    for block in blocks(page.read_text(), "bash|"):
        for words in commands(block.splitlines()):
            check(words)


def test_sections_of_the_cluster_page_are_a_recipes() -> None:
    sections = re.findall(r"`({name: [^`]*})`", CLUSTER)
    assert len(sections) >= 4
    for section in sections:
        bind(reading.shipped()[ANY], [f"executor={section}"])


def test_scripts_of_the_cluster_page_are_whole() -> None:
    scripts = blocks(CLUSTER, "bash")
    assert sum(script.startswith("#!/bin/bash\n") for script in scripts) == 2
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_jobs_of_the_cluster_page_begin_what_is_there() -> None:
    called = set()
    for job in jobs():
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        pod = job["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            program, *words = container["command"]
            called.add(program)
            if program == "evonas":
                check(words)
            else:  # a script that the page shows
                assert any(f"# {words[0]}\n" in script for script in blocks(CLUSTER, "bash"))
    assert called == {"bash", "evonas"}
