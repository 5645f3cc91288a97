"""`robustatt doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from robustatt.cli._options import (
    Channels,
    ClassNames,
    DataRoot,
    Download,
    InputSize,
    LabelColumn,
    ModelOption,
    Normalize,
)
from robustatt.cli._terminal import announce, print_table


def doctor(
    model: Annotated[str, typer.Option(help="The model to look at. See `robustatt models`.")],
    data: Annotated[str, typer.Option(help="A data set or path. See `robustatt data`.")] = "digits",
    weights: Annotated[str | None, typer.Option(help="Weights file. [default: the bundled one]")] = None,
    normalize: Normalize = None,
    model_option: ModelOption = None,
    attention: Annotated[
        str, typer.Option(metavar="auto|none|PATTERN", help="Which maps are read: see `robustatt sweep --help`.")
    ] = "auto",
    input_size: InputSize = None,
    data_root: DataRoot = None,
    download: Download = False,
    label_column: LabelColumn = None,
    class_names: ClassNames = None,
    channels: Channels = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also attack the model and check that the results are consistent (minutes).")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Say in a minute whether an evaluation will mean anything.

    Prints one line a check, with what to do where something is wrong. Always exits 0: the findings are advice,
    and `robustatt check` is the command that fails.
    """
    from robustatt.doctor.table import DoctorRequest, run_doctor
    from robustatt.plan import model_entries
    from robustatt.plan.entries import attending

    entries = attending(model_entries([model], [weights] if weights else [], normalize, model_option or []), [attention])
    announce(entries)
    request = DoctorRequest(
        entries[0],
        data,
        data_root,
        download,
        label_column,
        input_size,
        device,
        class_names,
        channels,
    )
    findings = run_doctor(request, deep=deep)
    print_table(["", "check", "finding", "what to do"], [[it.mark, it.check, it.finding, it.advice] for it in findings])
    wrong = list(dict.fromkeys(it.check for it in findings if not it.fine))
    print(f"To look into first: {', '.join(wrong)}." if wrong else "Nothing found that would spoil an evaluation.")
