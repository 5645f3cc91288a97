"""What the gate found, as a table, Markdown for a pull request, JUnit XML and GitHub annotations."""

from __future__ import annotations

from robustatt.report.markdown import escape, plain_table
from robustatt.results.gate import CheckResult, point_text


def table(result: CheckResult, every: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table: the points changed beyond noise, or every point; or the plan's changes."""
    if result.verdict == "changed plan":
        return ["field", "reference", "this run"], [[c.field, c.reference, c.run] for c in result.changes]
    heads = ["model", "attack", "eps", "reference", "this run", "change", "lost", "gained", "p (Holm)"]
    heads.append("verdict")
    shown = [p for p in result.points if every or p.verdict in ("regression", "improvement")]
    rows = [
        [
            p.model,
            p.attack,
            p.eps,
            f"{100 * p.reference:.1f} %",
            f"{100 * p.run:.1f} %",
            f"{100 * p.change:+.1f}",
            str(p.lost),
            str(p.gained),
            f"{p.p_holm:.2g}",
            p.verdict,
        ]
        for p in shown
    ]
    return heads, rows


def to_markdown(result: CheckResult) -> str:
    """The result for a pull request: a headline, the changed points, the rule. Names are escaped."""
    heads, rows = table(result)
    mark = {0: "passed", 1: "failed", 2: "not comparable", 3: "not decided"}[result.exit_code]
    lines = [f"### Robustness check {mark}", "", escape(result.headline), ""]
    if rows:
        lines += [*plain_table(heads, rows), ""]
    lines += [f"{escape(line)}." for line in notes(result)] + [""] * bool(result.noted)
    if result.points:
        lines.append(f"<sub>{rule(result)}</sub>")
    return "\n".join(lines) + "\n"


def notes(result: CheckResult) -> list[str]:
    """What changed since the reference without standing in the way of a comparison, a line each."""
    return [f"Compared although changed: {change}" for change in result.noted]


def rule(result: CheckResult) -> str:
    """How the gate decides, and what it is blind to."""
    n = result.points[0].n
    if result.look is not None:
        return (
            f"{n:,} of {result.look.of:,} examples, in random order, are done. A drop of more than {result.max_drop:g} points among "
            "them is a regression if the exact McNemar test says so at the level of this look; the run has passed if the whole run "
            f"would hardly find one at {result.alpha:g}: see docs/gate.md."
        )
    return (
        f"A regression is a drop of more than {result.max_drop:g} points that the exact McNemar test finds "
        f"significant at {result.alpha:g}, after Holm's correction over the {result.tested} of "
        f"{len(result.points)} points where enough examples changed sides to tell. With {n:,} examples, the "
        f"loss of fewer than {result.least} at a point ({100 * result.least / n:.1f} points) never is one."
    )


def to_junit(result: CheckResult) -> str:
    """The result as JUnit XML: one test case a curve point, or one for the plan if it changed."""
    from xml.etree import ElementTree as Xml

    failed = len(result.of("regression"))
    errors = int(result.verdict in ("changed plan", "undecided"))
    suite = Xml.Element("testsuite", name="robustatt check", failures=str(failed), errors=str(errors))
    suite.set("tests", str(max(1, len(result.points))))
    for p in result.points:
        case = Xml.SubElement(suite, "testcase", classname=_xml(f"{p.model}.{p.attack}"), name=p.eps)
        if p.verdict == "regression":
            Xml.SubElement(case, "failure", message=_xml(point_text(p))).text = rule(result)
    if errors:
        case = Xml.SubElement(suite, "testcase", classname="robustatt", name="plan")
        error = Xml.SubElement(case, "error", message=_xml(result.headline))
        error.text = _xml("\n".join(map(str, result.changes)))
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """The text without the control characters that XML cannot hold."""
    return "".join(c for c in text if c >= " " or c in "\t\n").encode("utf-8", "replace").decode()


def to_annotations(result: CheckResult, file: str = "") -> str:
    """The result as GitHub workflow commands, one line each; ``file`` is the reference the notes hang on."""

    def line(level: str, title: str, text: str) -> str:
        where = f"file={_github(file, True)}," if file else ""
        return f"::{level} {where}title={_github(title, True)}::{_github(text)}"

    lines = [line("error", "Robustness regression", point_text(p)) for p in result.of("regression")]
    lines += [line("notice", "Robustness improvement", point_text(p)) for p in result.of("improvement")]
    lines += [line("error", "Robustness check: the plan changed", str(change)) for change in result.changes]
    lines += [line("error", "Robustness check: no verdict", result.headline)] * (result.verdict == "undecided")
    return "\n".join(lines or [line("notice", "Robustness check", result.headline)]) + "\n"


def _github(text: str, in_property: bool = False) -> str:
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")]
    for sign, code in pairs + ([(":", "%3A"), (",", "%2C")] if in_property else []):
        text = text.replace(sign, code)
    return text
