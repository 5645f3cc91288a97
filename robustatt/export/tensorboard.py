"""A sweep as TensorBoard event files: a run for each model under each attack, the radius on the step axis."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from robustatt.export import Export
from robustatt.files import write_whole
from robustatt.report.markdown import plain_table

FILE = "events.out.tfevents.0.robustatt"


def write(run: Export, folder: Path) -> str:
    """Write ``folder/MODEL/ATTACK/`` and, with facts and figures, ``folder/about/``; a second time replaces them."""
    runs: dict[Path, list[Event]] = {}
    for series in run.series:
        events = runs.setdefault(folder / series.model / series.attack, [])
        for step, value in series.points:
            events.append(Event(step=step, summary=Summary(value=[Summary.Value(tag=series.measure, simple_value=value)])))
    runs[folder / "about"] = [_text(run), *_figures(run)]
    for place, events in runs.items():
        write_whole(place / FILE, _records([Event(file_version="brain.Event:2"), *events]))
    return f"{len(runs)} runs; one step is {run.step_unit}. Next: tensorboard --logdir {folder}"


def _records(events: Iterable[Event]) -> bytes:
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _text(run: Export) -> Event:
    """What was run, as a table in Markdown."""
    rows = [("step", run.step_unit), *run.facts.items()]
    lines = [
        f"**{run.title}**",
        "",
        *plain_table(["fact", "value"], rows),
    ]
    metadata = create_summary_metadata(display_name="", description="")
    tensor = make_tensor_proto("\n".join(lines).encode())
    return Event(step=0, summary=Summary(value=[Summary.Value(tag="sweep", metadata=metadata, tensor=tensor)]))


def _figures(run: Export) -> list[Event]:
    """The report's figures, if it was made."""
    return [
        Event(
            step=0,
            summary=Summary(
                value=[Summary.Value(tag=f"figures/{path.stem}", image=Summary.Image(encoded_image_string=path.read_bytes()))]
            ),
        )
        for path in run.files
        if path.suffix == ".png"
    ]
