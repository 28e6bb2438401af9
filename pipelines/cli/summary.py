"""What is printed at the end of a run."""

from collections.abc import Iterator, Sequence

from flux_tasks.units import credits, measured_duration, price
from pipelines.cli.terminal import print_error, print_line
from pipelines.data.manifest import FINE, ManifestRow, errors_of
from pipelines.run.run import Run
from pipelines.run.summary import Summary

_NAMED = 10  # items in a line


def print_summary(run: Run) -> None:
    """Print how the run went: items, jobs and credits, what did not end well, and where the results are."""
    summary = run.summary
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(summary.counts.items()))
    time = measured_duration(summary.seconds)
    print_line(f"{summary.name}: {summary.items} of {summary.total} items in {time}: {counts}")
    if summary.shards:
        left = "" if summary.shards_begun == summary.shards else f", {summary.shards_begun} of them begun"
        print_line(f"shards: {summary.shards} on {summary.shards_on}{left}")
    collected = f", {summary.collected} collected from an earlier run" if summary.collected else ""
    cost = price(summary.cost) + summary.beyond_cost
    preview = summary.is_preview
    loose_ends = summary.uncertain or summary.uncollected
    if not (summary.jobs or summary.collected or summary.stopped or loose_ends):
        stored = f": {summary.cached} results came from the store" if summary.cached else ""
        print_line(f"no job was made and nothing was paid{stored}")
    elif preview:
        print_line(f"jobs: {summary.jobs} made here, nothing was paid; BFL would charge {cost}{collected}")
    else:
        print_line(f"jobs: {summary.jobs} paid, {cost}{collected}; {summary.cached} results from the store")
    if summary.duplicates:
        is_one = summary.duplicates == 1
        print_line(
            f"duplicates: {summary.duplicates:,} {'item was' if is_one else 'items were'} left out; see the manifest"
        )
    for line in summary.sample.lines() if summary.sample is not None else ():
        print_line(line)
    if summary.uncollected:
        print_line(f"not collected yet: {summary.uncollected} jobs that are paid for; run again to collect them")
    if summary.uncertain:
        what = f"{summary.uncertain} submissions without an answer"
        print_line(f"may have been paid for: {what}; see flux-pipelines store held")
    if preview and (summary.jobs or summary.cached or summary.collected):
        print_line(f"local preview: made on this machine by {summary.engine}, not by FLUX")
    failed_rows = run.failed_rows()
    failures = ("  " + line.replace("\n", "\n    ") for line in _failures(failed_rows))
    warnings = [f"  warning: {warning}" for warning in summary.warned]
    if summary.warnings > len(warnings):
        warnings.append(f"  … and {summary.warnings - len(warnings):,} more warnings; see the manifest")
    for line in (*_by_tool(summary), *warnings, *failures):
        print_line(line)
    more = sum(n for outcome, n in summary.counts.items() if outcome not in FINE) - len(failed_rows)
    if more > 0:
        print_line(f"  … and {more:,} more; see the manifest")
    if summary.stopped:
        print_error(f"stopped: {summary.stopped}")
    if set(summary.counts) & FINE:
        print_line(f"results:  {', '.join(dict.fromkeys(output.root for output in run.recipe.outputs))}")
        places = [target.path for output in run.recipe.outputs for target in output.annotations]
        if places and not summary.stopped:
            print_line(f"labels:   {', '.join(dict.fromkeys(places))}")
    print_line(f"manifest: {summary.manifest}")
    if summary.report:
        print_line(f"report:   {summary.report}")


def _failures(rows: Sequence[ManifestRow]) -> Iterator[str]:
    """Yield a line for each error; items that were held for the same reason share one."""
    held: dict[str, list[str]] = {}
    for row in rows:
        for error in errors_of(row):
            if row["outcome"] == "held" and error["kind"] != "SubmissionUncertain":
                reason = str(error["message"]).removeprefix("not begun, because the run was stopped: ")
                held.setdefault(reason, []).append(str(row["item"]))
            else:
                yield f"{row['outcome']}: {row['item']}: {error['step']}: {error['message']}"
    for reason, items in held.items():
        names = list(dict.fromkeys(items))
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
        yield f"held: {shown}: {reason}"


def _by_tool(summary: Summary) -> Iterator[str]:
    """Yield a line for each tool of BFL: how many jobs, what they cost, and what was expected."""
    if summary.is_preview:
        return
    for name, total in sorted(summary.tools.items()):
        cost = f"{credits(total.cost)} credits" if total.is_priced else "an unknown cost"
        known = total.jobs - total.unestimated
        of_them = f" for {known} of them" if total.unestimated else ""
        expected = f"expected {credits(total.estimate)}{of_them}" if known else "no price was known"
        yield f"  {name}: {total.jobs} jobs, {cost} ({expected})"
