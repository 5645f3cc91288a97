"""The documentation cannot rot: what README and help say exists, and what exists is said."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from paths import ROOT

from robustatt import cli

README = (ROOT / "README.md").read_text()
BLOCKS = [text for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if not language]
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("robustatt ")]


def program() -> typer.core.TyperGroup:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


def test_every_command_in_the_readme_exists_with_its_options() -> None:
    assert len(OURS) >= 5
    for command, *arguments in OURS:
        known = {name for parameter in program().commands[command].params for name in parameter.opts}
        for argument in arguments:
            if argument.startswith("-"):
                assert argument in known, f"robustatt {command} {argument}"


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    for name, command in program().commands.items():
        assert command.help, f"{name} has no help"
        assert re.search(rf"`(robustatt )?{name}\b", README), f"{name} is not in the README"
        for parameter in command.params:
            assert getattr(parameter, "help", None) or name == "help", f"{name} {parameter.name} has no help"


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^make ([a-z0-9-]+)|`make ([a-z0-9-]+)`", README, re.M))
    assert {name for pair in named for name in pair if name} <= targets


def test_links_and_pictures_of_the_readme_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/adding.md", "CONTRIBUTING.md"])
def test_files_that_the_docs_name_are_there(page: str) -> None:
    text = re.sub(r"```diff.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    named = set(re.findall(r"`([\w./]+\.(?:py|md|toml))`", text)) | set(re.findall(r"\]\((?!http)([^)#]+)\)", text))
    assert named
    every = {
        path.as_posix()
        for folder in ("robustatt", "tests", "docs", "attacks", "benchmarks")
        for path in (ROOT / folder).rglob("*.*")
    }
    for name in named - {"attack/NAME.py", "attacks/NAME.toml", "my_attack.py", "plan.toml"}:
        assert any(path.endswith(f"/{name.removeprefix('../')}") for path in every) or (ROOT / name).exists(), name


def test_no_path_of_one_machine_and_no_registry_address() -> None:
    for path in [
        *ROOT.glob("*.md"),
        ROOT / "pyproject.toml",
        ROOT / "constraints.txt",
        ROOT / "Makefile",
        *ROOT.glob("reports/*/*.md"),
    ]:
        text = path.read_text()
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", text), path
        assert "https://pypi" not in text, path


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports" / "digits").mkdir(parents=True)
    (tmp_path / "reports" / "digits" / "plan.toml").write_text((ROOT / "reports" / "digits" / "plan.toml").read_text())
    for arguments in OURS:
        assert cli.main(list(arguments)) == 0, arguments
