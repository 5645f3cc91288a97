"""What a sweep found, in Python: records, summary, curves, plots; of this run or of a folder that a sweep left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustatt.engine.adversarial import AdversarialExamples, saved_in
from robustatt.engine.evidence import read_folder
from robustatt.engine.sweep import SweepOutcome
from robustatt.eps import parse_radius, radius_values
from robustatt.errors import InputError, did_you_mean, warn_caller
from robustatt.health.warning import HealthWarning
from robustatt.results.by_class import class_points
from robustatt.results.chains import part_tables
from robustatt.results.outcomes import curves_of
from robustatt.results.summary import curve_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from robustatt.results.images import SavedRows


class Result:
    """What a sweep found. `records` has a row for each model, attack, radius and example; see the README for columns.

    `eps_value` beside the text `eps` is the radius as a number in the scale of pixels in [0, 1], for plots to scale.
    `transfer_records` has the rows of examples that were crafted on surrogates, with a column `surrogate`; they are in no curve.
    """

    def __init__(self, outcome: SweepOutcome, saved: Callable[[], SavedRows | None] = lambda: None) -> None:
        self._saved = saved
        self.records: pd.DataFrame = outcome.records.assign(eps_value=radius_values(outcome.records["eps"]))
        self.transfer_records: pd.DataFrame = outcome.transfer.assign(eps_value=radius_values(outcome.transfer["eps"]))
        self.typed_summary = outcome.summary
        self.summary: dict[str, Any] = outcome.summary.as_dict()

    @property
    def health(self) -> list[HealthWarning]:
        """Reasons to doubt the numbers, each with code, message, model and attack; empty when none were found."""
        return [HealthWarning.from_dict(entry) for entry in self.summary["health"]]

    def curve(self, attack: str, model: str | None = None) -> pd.DataFrame:
        """The curve of one attack: eps (text such as "8/255"), accuracy, ci_low, ci_high, worst_case_accuracy, fooling_rate, n,
        eps_value (the radius as a number in the scale of pixels in [0, 1]).

        `model` may be left out when there was only one. Raises InputError for a name that was not evaluated.
        """
        curve = curve_frame(self.typed_summary, self._model(attack, model), attack)
        return curve.assign(eps_value=radius_values(curve["eps"]))

    def _model(self, attack: str, model: str | None) -> str:
        """The model that is meant, which may be left out if there is one; InputError for names that were not evaluated."""
        models = [entry.name for entry in self.typed_summary.plan.models]
        attacks = [entry.name for entry in self.typed_summary.plan.attacks]
        if model is None and len(models) > 1:
            raise InputError(f"several models were evaluated: say which. Known: {', '.join(models)}")
        model = models[0] if model is None else model
        for kind, name, known in (("model", model, models), ("attack", attack, attacks)):
            if name not in known:
                raise InputError(f"{kind} {name!r} was not evaluated: {did_you_mean(name, known)}")
        return model

    def adversarial(self, attack: str, eps: str | None = None, model: str | None = None) -> AdversarialExamples:
        """The images that a sweep with `save_images` kept, as the model saw them, by example.

        For `eps`, such as "8/255": of each example the image saved at that radius, or else the one at its threshold if that is
        smaller, which lies in the ball too. With None, those at the threshold, the smallest radius at which an example breaks.
        Raises InputError where no images were saved, or for a name or radius that was not evaluated.
        """
        model = self._model(attack, model)
        evaluated = list(self.curve(attack, model)["eps"])
        if eps is not None and parse_radius(str(eps)) not in map(parse_radius, evaluated):
            raise InputError(f"{attack} was not run at {eps}: give one of {', '.join(evaluated[1:])}")
        saved = self._saved()
        if saved is None:
            raise InputError("no images were saved: sweep with save_images=100, or --save-images 100")
        return AdversarialExamples.of(saved.of(model, attack, eps))

    def by_class(self, attack: str, model: str | None = None) -> pd.DataFrame:
        """Accuracy by true class and radius, each class against the others; columns as in `robustatt.results.by_class.ClassPoint`."""
        import pandas as pd

        name = self._model(attack, model)
        return pd.DataFrame([vars(point) for point in class_points(curves_of(self.records)[name, attack])])

    def parts(self, attack: str = "autoattack", model: str | None = None) -> pd.DataFrame:
        """How many examples each part of a chain broke: a row for each radius, a column for each part.

        `model` may be left out when there was only one. Raises InputError for an attack that is not a chain.
        """
        import pandas as pd

        self.curve(attack, model)
        for table in part_tables(self.typed_summary):
            if table.attack == attack and model in (None, table.model):
                return pd.DataFrame({"eps": table.radii, **table.counts})
        raise InputError(f"attack {attack!r} is not a chain of attacks, or none of its parts broke anything")

    def transfer(self, attack: str | None = None, eps: str | None = None) -> pd.DataFrame:
        """Robust accuracy of each model (columns) on the examples that an attack crafted on each surrogate (rows) at a radius.

        By default the first attack, at 8/255 or else the middle of its radii. Raises InputError without surrogates, and for an
        attack or radius that was not crafted.
        """
        from robustatt.results.transfer import matrices, matrix_frame

        return matrix_frame(matrices(self.typed_summary), attack, eps)

    def __repr__(self) -> str:
        plan = self.typed_summary.plan
        models, attacks = (", ".join(entry.name for entry in part) for part in (plan.models, plan.attacks))
        doubts = f", {len(self.health)} reasons to doubt it" if self.health else ""
        of = f" of {plan.rounds.of}" if plan.rounds else ""
        return f"<robustatt.Result: {models} under {attacks}, {plan.data.n}{of} images{doubts}>"

    def _repr_html_(self) -> str:
        """The same with accuracies and health warnings, for a notebook."""
        from robustatt.report.page import result_card

        return result_card(self.typed_summary, repr(self)[1:-1].removeprefix("robustatt.Result: "))

    def plot(self, quantity: str = "accuracy", ax: Axes | None = None) -> Axes:
        """Curves over the radius with 95 % bands, drawn on `ax` or on new axes, which are returned.

        `quantity`: "accuracy" (robust accuracy), "fooling" (network fooling rate) or "drift" (mean Jensen-Shannon
        divergence of the maps under the strongest attack, by level). Raises InputError for any other, or where nothing was measured.
        """
        from robustatt.report.draw import plot

        summary = self.typed_summary.bounded()
        return plot(summary.of_norm(summary.norms()[0]) if summary.norms() else summary, quantity, ax)

    def report(self, directory: str | Path) -> Path:
        """Write figures, tables and report.html into a folder; returns the path of the page."""
        from robustatt.report import write_report

        Path(directory).mkdir(parents=True, exist_ok=True)
        return write_report(Path(directory), self.records, self.typed_summary).html


def load_result(directory: str | Path) -> Result:
    """The result that a sweep left in its folder, with a warning for each thing in it that is not as its sweep left it.

    Raises InputError if it is not a results folder.
    """
    folder = read_folder(Path(directory))
    for finding in folder.findings:
        warn_caller(finding)
    summary = folder.shown()
    return Result(SweepOutcome(folder.records, summary, 0, folder.whole, folder.transfer), partial(saved_in, Path(directory)))
