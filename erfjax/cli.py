"""The command line: `erfjax growth`, `reproduce NAME`, `report TARGET`, `context TARGET`, `doctor`.

Options are read here and handed on; everything is computed by the functions that Python users call. What a user got wrong
(an `ErfjaxError`, a file that cannot be read or written) ends with one line and exit status 1, not with a traceback; a wrong
option ends with status 2.
"""

import contextlib
import inspect
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from erfjax import __version__
from erfjax.errors import ErfjaxError
from erfjax.files import Begun
from erfjax.reports import options as read
from erfjax.reports.words import TASKS


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Errors made on purpose, and files that cannot be read or written, in one line."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        raise click.ClickException(f"{error.filename}: {error.strerror}." if named else str(error)) from error
    except ErfjaxError as error:
        raise click.ClickException(str(error)) from error


def _told(study: Callable[..., Any], say: Callable[[str], None], log: Path | None) -> dict[str, Any]:
    """Lines in place of a bar for a study that has one, where they are kept or nobody looks at a terminal."""
    lines = log is not None or not sys.stderr.isatty()
    return {"progress": say} if lines and "progress" in inspect.signature(study).parameters else {}


BEGUN = "unfinished.json"  # in the folder of a run of all studies, while it runs
OUTPUT = click.option(
    "--output", help="Which output of a TARGET that returns several: keys and numbers, such as hidden_states/2."
)
LOG = click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), help="File that what is being done is added to."
)


def _teller(log: Path | None, quiet: bool = False) -> Callable[[str], None]:
    """Says what is being done on stderr, and adds it to a file with the time of day."""

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)
        if log is not None:
            with log.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    with _explained():
        _folder(log and log.parent)
    return say


def _folder(path: Path | None) -> None:
    """Makes the folder for results, before minutes are spent on what goes there."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="erfjax")
def main() -> None:
    """Theoretical and effective receptive fields of any JAX function.

    The exit status is 0 if all went well, 1 if something was refused or failed (the last line says what), 2 for a wrong option.
    """


OWN = ("activations", "weights", "kernel", "width", "image")  # options of the stacks that are read without a TARGET
GIVEN = ("shape", "layout", "out_layout", "channels", "measure", "predict")  # options of a TARGET


@main.command()
@click.argument("target", required=False, shell_complete=read.files)
@click.option("--depths", default="5,10,20,40", callback=read.integers, show_default=True, help="Numbers of layers.")
@click.option("--samples", default=128, show_default=True, help="Draws of weights and input, at the largest depth.")
@click.option(
    "--statistic",
    default="square",
    show_default=True,
    type=click.Choice(["square", "rms", "abs", "relu"]),
    help="Of the gradient of random networks.",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the figure and the data.")
@click.option(
    "--shape", callback=read.integers, help="TARGET: shape of the input, such as 1,128,128,3; its values are noise."
)
@click.option("--layout", default="NHWC", show_default=True, help="TARGET: one letter per axis of the input.")
@click.option("--out-layout", help="TARGET: the same for the output; like the input by default.")
@click.option("--channels", default="sum", show_default=True, help="TARGET: sum, frobenius, random-signs or a number.")
@click.option("--measure", default="luo", show_default=True, help="TARGET: which size, such as luo, sigma or fwhm.")
@click.option("--predict", callback=read.integers, help="TARGET: further depths, read in closed form only.")
@click.option("--activations", default="linear,relu", callback=read.words("linear", "relu"), show_default=True)
@click.option("--weights", default="uniform,random", callback=read.words("uniform", "random"), show_default=True)
@click.option("--kernel", default=3, show_default=True, help="Taps along each axis of the kernel.")
@click.option("--width", default=32, show_default=True, help="Channels of the random networks.")
@click.option(
    "--image", type=click.Path(path_type=Path), help="Photograph to crop inputs from; matplotlib's by default."
)
@click.pass_context
def growth(context: click.Context, target: str | None, out: Path | None, **options: Any) -> None:
    """The growth laws: closed form against measurement, by depth.

    TARGET is package.module:family or file.py:family, a function n -> network, where a network is a function of an array (its
    weights are drawn anew for the measurement) or a stack of erfjax.layers. Without TARGET: stacks of convolutions on crops of a
    photograph.
    """
    default = click.core.ParameterSource.DEFAULT
    for option in GIVEN if target is None else OWN:
        if context.get_parameter_source(option) is not default:
            said = "needs a TARGET" if target is None else "describes the stacks that are read without a TARGET"
            raise click.BadParameter(
                f"--{option.replace('_', '-')} {said}: erfjax growth models.py:family --shape 1,64,64,3"
            )
    with _explained():
        _folder(out)
        if target is None:
            from erfjax.studies import growth as study

            _show(study(**{name: value for name, value in options.items() if name not in GIVEN}), out)
        else:
            _show(_growth_of(target, **{name: value for name, value in options.items() if name not in OWN}), out)


def _growth_of(
    target: str, shape: tuple[int, ...] | None, seed: int, channels: Any, predict: Any, **options: Any
) -> Any:
    """The growth laws of a family that is named on the command line, on Gaussian noise."""
    import jax

    from erfjax.growth_laws import growth as laws
    from erfjax.reports import load_target

    if not shape:
        raise click.BadParameter("a family needs --shape, the shape of its input, such as --shape 1,128,128,3")
    network, noise = jax.random.split(jax.random.key(seed))
    return laws(
        load_target(target),
        x=jax.random.normal(noise, (max(shape[0], 8), *shape[1:]) if options["layout"].startswith("N") else shape),
        key=network,
        channels=int(channels) if channels.isdigit() else channels,
        predict=predict or (),
        name=target.rsplit(":", 1)[-1],
        **options,
    )


@main.command()
@click.argument("name", shell_complete=read.studies)
@click.option(
    "--out",
    default=Path("results"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for figures and data.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=read.settings,
    help="An argument of the study, such as --set seeds=5 or --set data=cifar10; may be repeated.",
)
@LOG
def reproduce(name: str, out: Path, settings: dict[str, Any], log: Path | None) -> None:
    """Run the study NAME, or all of them with their defaults; the page index.html shows what the folder holds.

    If one of all studies fails, the others still run; the page and the exit status say so. A run of all studies that was
    interrupted goes on where it stopped, when it is started again with the same folder and version.
    """
    from erfjax.gallery import gallery
    from erfjax.studies import BY_NAME

    if name != "all" and name not in BY_NAME:
        raise click.BadParameter(f"there is no study {name!r}: choose {', '.join([*BY_NAME, 'all'])}")
    if name == "all" and settings:
        raise click.BadParameter("--set goes with one study: name it in place of all")
    chosen = list(BY_NAME) if name == "all" else [name]
    try:
        inspect.signature(BY_NAME[chosen[0]]).bind(**settings)
    except TypeError as error:
        raise click.BadParameter(f"{name} does not take these settings: {error}") from error
    with _explained():
        _folder(out)
    failed: dict[str, str] = {}
    say, begun = _teller(log), Begun(out / BEGUN if name == "all" else None)
    for i, study in enumerate(chosen, 1):
        if study in begun.done:
            say(f"study {i} of {len(chosen)}: {study} was done before the interruption")
            continue
        say(f"study {i} of {len(chosen)}: {study}")
        try:
            with _explained():
                _show(BY_NAME[study](**{**_told(BY_NAME[study], say, log), **settings}), out / study)
            begun.add(study)
        except Exception as error:
            if name != "all":
                raise
            failed[study] = error.message if isinstance(error, click.ClickException) else traceback.format_exc()
            say(f"{study} failed: {failed[study]}")
    begun.finish()
    with _explained():
        click.echo(f"all studies so far: {gallery(out, failed)}")
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(chosen)} studies failed: {', '.join(failed)}")


@main.command()
@click.argument("target", shell_complete=read.files)
@click.option("--shape", required=True, callback=read.integers, help="Shape of the input, such as 1,224,224,3.")
@click.option(
    "--layout", default="NHWC", show_default=True, help="One letter per axis: N batch, C channels, D H W L space."
)
@click.option("--out-layout", help="The same for the output, such as NLC for tokens; like the input by default.")
@click.option("--unit", callback=read.integers, help="Index of the output unit, such as 3,3; the centre by default.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Photograph to crop the inputs from; may be repeated. Without one they are noise.",
)
@click.option("--samples", default=32, show_default=True, help="How many inputs to measure with.")
@click.option("--seed", default=0, show_default=True, help="Of crops and noise.")
@click.option(
    "--channels", default="sum", show_default=True, help="Output channels: sum, frobenius, random-signs or a number."
)
@click.option("--task", type=click.Choice(TASKS), help="What the model is for; the advice is about that.")
@click.option(
    "--objects", callback=read.integers, help="Sizes of objects or anchors, such as 16,32,64, for --task detect."
)
@click.option(
    "--image-size", callback=read.integers, help="Image to give advice for, such as 224,224; the input by default."
)
@click.option(
    "--layers",
    help="Layers to measure too: (parts of) names such as conv1,block2; all; none. By default those that widen the field.",
)
@click.option(
    "--account", is_flag=True, help="Say what the measured field is made of: weights, their coherence, gates."
)
@click.option(
    "--unknown",
    default="refuse",
    show_default=True,
    type=click.Choice(["refuse", "everything"]),
    help="What a primitive without a rule may see of its operands.",
)
@click.option("--dtype", default="float32", show_default=True, help="Of the input; int32 for tokens.")
@OUTPUT
@click.option("--quiet", is_flag=True, help="Do not say on stderr what is being done.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write.")
@LOG
@click.pass_context
def report(
    context: click.Context, target: str, out: Path | None, quiet: bool, log: Path | None, **options: Any
) -> None:
    """What a unit of TARGET sees, in three readings side by side: theoretical, in closed form, measured.

    TARGET is package.module:function or file.py:function, a function from an array to an array; file.py:make() is the function
    that `make` returns. A reading that is not possible is left out, and the report says why.
    """
    from erfjax.reports import report as make

    if options["objects"] and options["task"] != "detect":
        raise click.BadParameter("--objects are compared with the field for --task detect: add it")
    x = _input(options.pop("shape"), options.pop("dtype"))
    channels, layers = options.pop("channels"), options.pop("layers")
    with _explained():
        _folder(out and out.parent)
        made = make(
            _target(target, options.pop("output")),
            x,
            channels=int(channels) if channels.isdigit() else channels,
            objects=options.pop("objects") or (),
            layers=layers and layers.split(","),
            name=target,
            command=_line(context),
            progress=_teller(log, quiet) if log is not None else not quiet,
            **options,
        )
        click.echo(str(made))
        if out is not None:
            click.echo(f"\nwritten: {made.save(out)}")


def _target(name: str, output: str | None) -> Callable[..., Any]:
    """The function of a TARGET, to one of its outputs."""
    from erfjax.reports import load_target, output_of

    f = load_target(name)
    return f if output is None else output_of(f, output)


def _input(shape: tuple[int, ...], dtype: str) -> Any:
    """Shape and dtype of an input."""
    import jax

    try:
        return jax.ShapeDtypeStruct(shape, dtype)
    except TypeError as error:
        raise click.BadParameter(f"--dtype {dtype!r} is no dtype, such as float32 or int32") from error


def _line(context: click.Context) -> str:
    """The command line that was given, with the options that were set."""
    words, values = ["erfjax", str(context.info_name)], context.params
    default = click.core.ParameterSource.DEFAULT
    for parameter in context.command.params:
        value = values.get(str(parameter.name))
        if context.get_parameter_source(str(parameter.name)) is default or value is None:
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(parameter.opts[0])
        else:
            each = [",".join(map(str, value))] if isinstance(value, tuple) and not parameter.multiple else value
            for one in each if isinstance(each, list | tuple) else [each]:
                words += [parameter.opts[0], str(one)]
    return shlex.join(words)


@main.command()
def doctor() -> None:
    """Versions, devices, precision, optional packages, compilation cache."""
    from erfjax.reports.doctor import doctor as look

    try:
        click.echo(str(look()))
    except RuntimeError as error:
        raise click.ClickException(f"JAX finds no device: {error}") from error


@main.command()
@click.argument("target", shell_complete=read.files)
@click.option("--shape", required=True, callback=read.integers, help="Shape of the input, such as 1,2048,64.")
@click.option(
    "--layout", default="NLC", show_default=True, help="One letter per axis: N batch, C channels, D H W L space."
)
@click.option("--out-layout", help="The same for the output; like the input by default.")
@click.option("--axis", help="Letter of the sequence axis; L, or the only one, by default.")
@click.option("--rate", type=float, help="Positions per second, to have times in milliseconds.")
@click.option("--chunk", type=int, help="Positions per chunk: also print how the model is streamed.")
@click.option("--dtype", default="float32", show_default=True, help="Of the input; int32 for tokens.")
@OUTPUT
def context(
    target: str, shape: tuple[int, ...], chunk: int | None, dtype: str, output: str | None, **options: Any
) -> None:
    """Whether TARGET is causal, how far it looks back and ahead, and what makes it look ahead; or that it sees nothing."""
    from erfjax.decisions.streaming import context as look

    x = _input(shape, dtype)
    with _explained():
        found = look(_target(target, output), x, **options)
        click.echo(str(found))
        if chunk is not None:
            click.echo(f"\n{found.plan(chunk)}")


def _show(result: Any, out: Path | None) -> None:
    """A study's result on the terminal, and in a folder."""
    click.echo(str(result))
    if out is not None:
        click.echo(f"\nwritten: {result.save(out)}")
