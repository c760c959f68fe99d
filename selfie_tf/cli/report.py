"""Makes one HTML page of a run, finished or not, or of a comparison of finetuning runs.

    selfie-tf report --workdir=runs/classifier
    selfie-tf report --runs=pretrained=runs/a,scratch=runs/b --output=runs/comparison.html

Every run makes its own page when it ends. This command makes it anew, or that of an older run. The
page is one file, which opens from disk without a network.
"""

import os

from absl import flags

from selfie_tf.cli.common import Arguments, Command, define_data_dir, define_runs, labelled_runs
from selfie_tf.errors import UserError, first_line


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("workdir", "", "Folder of the run; or give --runs.", flag_values=values)
    define_runs(values, "of finetuning, to compare; those with the same label are averaged")
    flags.DEFINE_string(
        "output",
        "",
        "HTML file to write; empty: report.html in --workdir. Required with --runs.",
        flag_values=values,
    )
    define_data_dir(values)


def run(arguments: Arguments) -> None:
    """Makes the page, and prints its path."""
    values = arguments.flags
    workdir, output = (os.path.expanduser(path) for path in (values.workdir, values.output))
    if bool(workdir) == bool(values.runs):
        given = "both were given" if workdir else "give one of them"
        raise UserError(f"--workdir or --runs: {given}")
    if values.runs and not output:
        raise UserError("--output is missing: give a file, as in --output=comparison.html")
    runs = labelled_runs(values.runs) if values.runs else []
    from selfie_tf.evaluation.compare import make_comparison_page
    from selfie_tf.evaluation.images import prepare_output, write_output
    from selfie_tf.training.report import make_report
    from selfie_tf.training.run import REPORT

    if output:
        prepare_output("output", output)
    try:
        if runs:
            content = make_comparison_page(runs)
        else:
            content = make_report(workdir, os.path.expanduser(values.data_dir))
    except UserError:
        raise
    except Exception as error:  # of whatever kind, where a file lacks what a run writes there
        raise UserError(
            f"{workdir or ', '.join(path for _, path in runs)}: the page cannot be made "
            f"({type(error).__name__}: {first_line(error)}), so a file of the run must be damaged; "
            "bring it back (--debug shows what was read)"
        ) from error
    output = output or os.path.join(workdir, REPORT)
    write_output("output", output, content)
    print(f"report: {output}")


COMMAND = Command("report", __doc__, define, run, needs_workdir=False)
