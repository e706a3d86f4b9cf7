"""The command line `edc`: what each command takes and says of itself; the work is done in `engine.commands`.

Nothing but typer is imported until a command needs it, so that `edc list` answers at once.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import RunError, UserError

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
app = typer.Typer(name="edc", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=HELP)

WrongUse = typer.BadParameter.__mro__[1]  # click's UsageError, which typer keeps in different places from version to version

ProjectsOption = Annotated[
    Path | None, typer.Option("--projects", metavar="DIR", help="The projects folder; else $EDC_PROJECTS, else ./projects.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the facts as JSON, for programs.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the project; may be given again.")
]
UntilOption = Annotated[str, typer.Option("--until", metavar="STAGE", help="Stop after this stage: squeeze … evaluate.")]
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Run in the background; hanging up does not end it.")]
NowOption = Annotated[bool, typer.Option("--now", help="Start at once, even where another run has the device.")]
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="A project's name, or the path of its TOML file.")]
ProjectsArgument = Annotated[list[str], typer.Argument(metavar="PROJECT", help="Names of projects, or paths of their TOML files.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, its id or the id's beginning, or a project for its latest run.")
]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN", help="Runs, each as its folder, its id, the id's beginning, or its project.")
]


@app.callback(invoke_without_command=True)
def edc(context: typer.Context, projects: ProjectsOption = None) -> None:
    """Condense image datasets into a few synthetic images per class, and measure what a network learns from them.

    \b
    A first try, in three minutes and without a GPU:
      edc run projects/quickstart.toml
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name; its file will be NAME.toml.")],
    dataset: Annotated[str, typer.Option(metavar="D", help="What to condense; `edc datasets` lists the choices.")] = "digits",
    method: Annotated[str, typer.Option(metavar="M", help="How to condense it; `edc methods` lists the choices.")] = "edc",
    ipc: Annotated[int, typer.Option(metavar="N", help="Images per class of the condensed set.")] = 10,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images lie; needed for --dataset folder.")] = None,
    projects: ProjectsOption = None,
) -> None:
    """Write a new, commented project file.

    \b
    Examples:
      edc new first --dataset cifar10 --method edc --ipc 10
      edc new mine --dataset folder --root /data/flowers --ipc 1
    """
    from engine.commands.plan import new_project

    new_project(_folder(context, projects), name, dataset=dataset, method=method, ipc=ipc, root=root)


@app.command()
def check(
    context: typer.Context,
    project: ProjectArgument,
    set_: SetOption = None,
    until: UntilOption = "evaluate",
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Check a project and show what running it would do.

    Lists its steps, their work and bytes, what can be reused, and which values differ from the method's. Nothing is run.

    \b
    Example:
      edc check quickstart --set condense.ipc=5
    """
    from engine.commands.plan import check_project
    from engine.commands.request import project_path

    check_project(project_path(_folder(context, projects), project), set_ or [], until=until, as_json=as_json)


@app.command()
def run(
    context: typer.Context,
    project: ProjectsArgument,
    set_: SetOption = None,
    until: UntilOption = "evaluate",
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything anew: resume nothing, reuse nothing.")] = False,
    detach: DetachOption = False,
    now: NowOption = False,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Run projects, or go on with runs of them that were interrupted.

    Finished stages are reused wherever their settings and data are the same. Ctrl-C once stops with a checkpoint, twice at once.
    Runs that want the same device wait for each other; $EDC_CPU_RUNS says how many the CPU takes at once (1).
    The exit status is 0 when done, 1 when failed, 2 when something was asked for wrongly, 75 when stopped and resumable.

    \b
    Examples:
      edc run quickstart
      edc run quickstart --set evaluate.zeta=1.5 --set evaluate.seeds=0,1
      edc run projects/cifar10-edc-ipc10.toml --detach
    """
    from engine.commands.request import project_path
    from engine.commands.run import run_projects

    paths = [project_path(_folder(context, projects), name) for name in project]
    raise typer.Exit(run_projects(paths, set_ or [], until=until, fresh=fresh, detach=detach, now=now, as_json=as_json))


@app.command()
def sweep(
    context: typer.Context,
    project: ProjectArgument,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="SECTION.KEY=A,B,…", help="Values of a key, lists in brackets; again for a grid of several keys."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help='Take only points of this name, "cifar10-*"; again for more.')
    ] = None,
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the grid and what its points share; write and run nothing.")] = False,
    detach: DetachOption = False,
    now: NowOption = False,
    form: Annotated[str, typer.Option("--format", metavar="F", help="How to print the results: table, csv, markdown or json.")] = "table",
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Run a project at every point of a grid, into one table.

    Each point is a project file of its own beside PROJECT. What points share is computed once; points that are done are not run again,
    so the same command goes on after an interruption. A file may hold its own grid in a table [sweep]: projects/table3-smoothing.toml.

    \b
    Examples:
      edc sweep quickstart --over evaluate.zeta=1,1.5,2,2.5,3
      edc sweep quickstart --over condense.ipc=1,5 --over "observers.labels=[resnet18-w16],[wrn-16-1]" --dry-run
      edc sweep projects/table3-smoothing.toml --detach
      edc sweep projects/table1.toml --only "cifar10-ipc10-*"
    """
    from engine.commands.request import project_path
    from engine.commands.sweep import sweep_command

    path = project_path(_folder(context, projects), project)
    form = "json" if as_json else form
    raise typer.Exit(sweep_command(path, over or [], set_ or [], only=only or [], dry_run=dry_run, detach=detach, now=now, form=form))


@app.command()
def evaluate(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder <class>/<images>, a run, or a .safetensors, .pt or .npz file.")],
    dataset: Annotated[str | None, typer.Option(metavar="D", help="The dataset that the images are condensed from.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the dataset lies; needed for --dataset folder.")] = None,
    name: Annotated[str | None, typer.Option(metavar="N", help="The name of the project that is written; else external-PATH.")] = None,
    soft_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Soft labels of the images, a row each: .pt, .npy, .npz or .safetensors.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Evaluate as this project does, its data and controls included; else as EDC.")
    ] = None,
    set_: SetOption = None,
    detach: DetachOption = False,
    now: NowOption = False,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Evaluate images that come from elsewhere.

    They become a project, whose run trains students on them and on its controls. Folders may be named by class, by the class's number
    from 0, or <number>_<class>; soft labels may be logits or probabilities. What was found out about the files is said, and what can be
    read in two ways is refused. The command may be repeated.

    \b
    Examples:
      edc evaluate mine/ --dataset cifar10
      edc evaluate images_best.pt --like cifar10-edc-ipc10 --name mtt-ipc10
      edc evaluate mine.pt --dataset cifar10 --soft-labels mine.pt --set evaluate.seeds=0
    """
    from engine.commands.evaluate import evaluate_command

    status = evaluate_command(
        path,
        _folder(context, projects),
        name=name,
        dataset=dataset,
        root=root,
        soft_labels=soft_labels,
        like=like,
        overrides=set_ or [],
        detach=detach,
        now=now,
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False, projects: ProjectsOption = None) -> None:
    """List all runs, newest first, with what has become of them.

    \b
    Example:
      edc list
    """
    from engine.commands.runs import list_command

    list_command(_folder(context, projects, must_exist=True), as_json=as_json)


@app.command()
def show(context: typer.Context, run: RunArgument, as_json: JsonOption = False, projects: ProjectsOption = None) -> None:
    """Show what a run has found.

    Prints its state, its accuracies beside those of its controls, sizes, times and files.

    \b
    Examples:
      edc show quickstart
      edc show 20261122-15 --json
    """
    from engine.commands.runs import named_run, show_command

    show_command(named_run(_folder(context, projects), run), as_json=as_json)


@app.command()
def tail(context: typer.Context, run: RunArgument, as_json: JsonOption = False, projects: ProjectsOption = None) -> None:
    """Watch a run until it ends.

    The exit status is the run's, as `edc run` gives it. Ctrl-C ends the watching, not the run.
    With --json, each event and each line of metrics is a JSON object on a line of its own.

    \b
    Examples:
      edc tail quickstart
      edc tail quickstart --json | jq 'select(.event == "metrics")'
    """
    from engine.commands.runs import named_run, tail_command

    raise typer.Exit(tail_command(named_run(_folder(context, projects), run), as_json=as_json))


@app.command()
def stop(
    context: typer.Context,
    run: RunsArgument,
    kill: Annotated[bool, typer.Option("--kill", help="End it at once, without a checkpoint.")] = False,
    grace: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Kill what has not stopped by then.")] = 60.0,
    projects: ProjectsOption = None,
) -> None:
    """Stop runs with a checkpoint, from which `edc resume` goes on.

    Shows how long they still have. Ctrl-C ends the waiting, not the stopping.

    \b
    Examples:
      edc stop quickstart
      edc stop quickstart --grace 600
    """
    from engine.commands.runs import named_run, stop_command

    folder = _folder(context, projects)
    stop_command([named_run(folder, text) for text in run], kill=kill, grace=grace)


@app.command()
def resume(
    context: typer.Context,
    run: RunArgument,
    detach: DetachOption = False,
    now: NowOption = False,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Go on with a run from its last checkpoint.

    The run may have been stopped or killed, or have failed.

    \b
    Example:
      edc resume quickstart --detach
    """
    from engine.commands.run import resume_run
    from engine.commands.runs import named_run

    raise typer.Exit(resume_run(named_run(_folder(context, projects), run), detach=detach, now=now, as_json=as_json))


@app.command()
def remove(
    context: typer.Context,
    run: RunsArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    projects: ProjectsOption = None,
) -> None:
    """Delete runs with everything in their folders. Finished stages stay in the cache for other runs.

    \b
    Example:
      edc remove 20261122-153012-k3f9
    """
    from engine.commands.runs import named_run, remove_command

    folder = _folder(context, projects)
    remove_command([named_run(folder, text) for text in run], yes=yes)


@app.command()
def compare(
    context: typer.Context,
    run: RunsArgument,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="RUN", help="Show signed differences to this run, whose column comes first.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every setting and measurement, not only settings that differ.")] = False,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, csv, markdown, latex or json.")] = "table",
    matrix: Annotated[bool, typer.Option("--matrix", help="Show accuracies alone, as students by runs (cross-architecture).")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw loss and accuracy curves to a .svg or .png.")] = None,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Compare runs side by side.

    Shows in which settings they differ, accuracies as mean ± deviation over seeds, times, sizes, and the gap to published figures.
    Runs that differ only in their seeds share a column.

    \b
    Examples:
      edc compare quickstart 20261122-15
      edc compare small large --baseline small --plot curves.svg
      edc compare small large --format latex > table.tex
    """
    from engine.commands.compare import compare_command
    from engine.commands.runs import named_run

    folder = _folder(context, projects)
    against = None if baseline is None else named_run(folder, baseline)
    runs = [named_run(folder, text) for text in run]
    compare_command(runs, baseline=against, every=every, form="json" if as_json else form, plot=plot, matrix=matrix)


@app.command()
def verify(context: typer.Context, run: RunArgument, as_json: JsonOption = False, projects: ProjectsOption = None) -> None:
    """Ask whether something is wrong with a run's number.

    Measures its observers again, looks for permuted classes, loss terms that dominate, averages that are too long, labels that teach
    without images, and settings that differ from the published ones; what random real images reach is held against it.
    The exit status is 0 when nothing is wrong, 1 when something is.

    \b
    Examples:
      edc verify quickstart
      edc verify 20261122-15 --json
    """
    from engine.commands.runs import named_run
    from engine.commands.verify import verify_command

    raise typer.Exit(verify_command(named_run(_folder(context, projects), run), as_json=as_json))


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(metavar="METHOD", help="What to compare; a single one is shown whole.")] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Compare the steps from G-VBSM to EDC, config-a to config-g.")] = False,
    dataset: Annotated[str, typer.Option(metavar="D", help="On which dataset, here or in the papers only.")] = "cifar10",
    ipc: Annotated[int, typer.Option(metavar="N", help="At how many images per class.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """List the methods of condensation, and in what they differ.

    Values depend on dataset and images per class. A single method is shown with all of its values.

    \b
    Examples:
      edc methods
      edc methods sre2l edc --dataset imagenet-1k
      edc methods --ladder
      edc methods edc
    """
    from engine.commands.methods import methods_command

    methods_command(names or [], ladder=ladder, dataset=dataset, ipc=ipc, as_json=as_json)


@app.command()
def datasets(
    fetch: Annotated[str | None, typer.Option(metavar="NAME", help="Download this dataset into the data root.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the datasets and where they lie, or download one.

    \b
    Examples:
      edc datasets
      edc datasets --fetch cifar10
    """
    from engine.commands.choices import datasets_command, fetch_command

    if fetch is None:
        datasets_command(as_json=as_json)
    else:
        fetch_command(fetch)


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the networks that can be observers and students.

    \b
    Example:
      edc models
    """
    from engine.commands.choices import models_command

    models_command(as_json=as_json)


cache_app = typer.Typer(invoke_without_command=True, context_settings=HELP)
app.add_typer(cache_app, name="cache")


@cache_app.callback()
def cache(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Show every entry and the runs that refer to it.")] = False,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Show what the stage cache holds and for whom, or clean it.

    Every finished stage is kept once in projects/.cache and hard-linked into the runs that share it.

    \b
    Examples:
      edc cache --all
      edc cache clean --dry-run
    """
    from engine.commands.cache import cache_command

    if context.invoked_subcommand is None:
        cache_command(_folder(context, projects, must_exist=True), every=every, as_json=as_json)


@cache_app.command()
def clean(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: JsonOption = False,
    projects: ProjectsOption = None,
) -> None:
    """Remove what no run of the projects folder refers to. Runs keep what they have.

    \b
    Example:
      edc cache clean --dry-run
    """
    from engine.commands.cache import clean_command

    clean_command(_folder(context, projects, must_exist=True), yes=yes, dry_run=dry_run, as_json=as_json)


@app.command()
def bench(
    only: Annotated[str, typer.Option(metavar="A,B", help="What to measure; everything if not given.")] = "",
    models: Annotated[str, typer.Option(metavar="A,B", help="Networks in place of the usual ones.")] = "",
    precisions: Annotated[str, typer.Option(metavar="A,B", help="Of float32, bfloat16 and, on a GPU, float16.")] = "",
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(metavar="N", min=0, help="CPU threads; 0 means all cores.")] = 0,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds whose median is taken.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="A small network, to see that everything works.")] = False,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Put the table between its two marks in a Markdown file.")] = None,
) -> None:
    """Measure the stages on this machine against the bare network.

    Shows for each stage how many times the bare forward pass, forward and backward pass, or training step it takes, beside what it may
    take; the memory of synthesis; whether auto precision is the fastest; and how soon a run trains whose other stages are all there.
    Parts for --only: synthesise, statistics, relabel, evaluate, memory, precision, warm-start. No dataset is needed. The exit status is 1
    where a limit is not met. It takes some ten minutes on one CPU core.

    \b
    Examples:
      edc bench
      edc bench --only evaluate --models resnet18 --repeats 9
      edc bench --json > speed.json
    """
    from engine.commands.bench import bench_command

    words = [[word.strip() for word in text.split(",") if word.strip()] for text in (only, models, precisions)]
    status = bench_command(
        only=words[0],
        models=words[1],
        precisions=words[2],
        device=device,
        threads=threads,
        repeats=repeats,
        quick=quick,
        as_json=as_json,
        as_markdown=as_markdown,
        write=write,
    )
    raise typer.Exit(status)


def _folder(context: typer.Context, option: Path | None, *, must_exist: bool = False) -> Path:
    """Return the projects folder: the option after the command, or after one of those that it is a part of, or what stands for it."""
    from engine.runs.store import find_projects_folder

    outer = context.parent
    while option is None and outer is not None:
        option, outer = outer.params.get("projects"), outer.parent
    return find_projects_folder(option, must_exist=must_exist)


def _complain(text: str, status: int) -> int:
    """Print each line of a complaint on standard error and return the exit status."""
    for line in text.splitlines():
        print(f"edc: {line}", file=sys.stderr)
    return status


def main() -> None:
    """Run `edc`: wrong use and failed runs become one line each on standard error, and the exit status says which it was."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal of few characters shows `?`, never a traceback
    try:
        try:
            sys.exit(app(standalone_mode=False))
        finally:
            sys.stdout.flush()
    except WrongUse as error:
        asked = error.ctx.command_path if error.ctx else "edc"
        sys.exit(_complain(f"{error.format_message().rstrip('.')} (`{asked} --help` tells what there is)", 2))
    except typer.Abort:
        sys.exit(_complain("nothing was done", 1))
    except UserError as error:
        sys.exit(_complain(str(error), 2))
    except RunError as error:
        sys.exit(_complain(str(error), 1))
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # Whoever read our output, or the terminal itself, has gone; nothing is left to say, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
