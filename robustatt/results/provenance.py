"""Where a number comes from: versions, hardware, git state, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from robustatt.version import __version__

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "pyarrow", "scikit-learn", "torchattacks", "foolbox")


def versions() -> dict[str, str]:
    """Versions of robustatt, Python and the packages a number depends on, as far as they are installed."""
    found = {"robustatt": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> str:
    """The commit of the checkout this code runs from, with `+changes` if files differ; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return ""
    return said[0] + ("+changes" if said[1] else "")


def command() -> str:
    """The command line as typed, without the folder of the program."""
    import shlex

    arguments = sys.argv if os.path.basename(sys.argv[0]) == "robustatt" else []
    return shlex.join(["robustatt", *arguments[1:]]) if arguments else ""
