"""Command-line options: parse argv into a settings dataclass; reject errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from imitact.core.errors import BadInput, nearest
from imitact.core.field_texts import field_texts
from imitact.core.ranges import Range

T = TypeVar("T")


class HelpShown(Exception):
    """The help was printed, as the command line requested."""


@dataclass(frozen=True)
class Option:
    """One option, or one positional argument, of a verb.

    Attributes:
        name: as typed: "--train.lr", or "DATA" where it is positional.
        owner: the dataclass that has the field.
        field: the field.
        hint: the field's type, without its marks.
        range: the values that a number may have; None where it has no range, or is no number.
        group: name of the field of the verb's dataclass that holds `owner`; "" for its own fields.
    """

    name: str
    owner: type
    field: dataclasses.Field[Any]
    hint: Any
    group: str = ""
    range: Range | None = None

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every form in which the option can be typed."""
        if self.hint is not bool:
            return (self.name,)
        prefix, _, last = self.name[2:].rpartition(".")
        return self.name, f"--{prefix}{'.' if prefix else ''}no-{last}"


def options(kind: type, prefix: str = "", group: str = "") -> list[Option]:
    """Return every option of a dataclass of settings, nested ones included, in order.

    A nested dataclass has a prefix in its options' names, and a group.
    """
    from tyro.conf import OmitArgPrefixes, Positional

    found: list[Option] = []
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, marks = _without_marks(hints[field.name])
        dashed = field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            inner = prefix if marks & _marks(OmitArgPrefixes) else f"{prefix}{dashed}."
            found += options(hint, inner, group or field.name)
        else:
            is_positional = marks & _marks(Positional)
            own = [mark for mark in marks if hasattr(mark, "metavar")]  # of tyro.conf.arg
            if is_positional:
                name = next((mark.metavar for mark in own if mark.metavar), dashed.upper())
            else:
                named = next((mark.name for mark in own if mark.name), dashed)
                name = f"--{prefix}{named}"
            known = next((mark for mark in marks if isinstance(mark, Range)), None)
            found.append(Option(name, kind, field, hint, group, known))
    return found


def _without_marks(hint: Any) -> tuple[Any, set[Any]]:
    """Return a type without the marks of `Annotated`, and the marks."""
    marks: set[Any] = set()
    while typing.get_origin(hint) is typing.Annotated:
        hint, *more = typing.get_args(hint)
        marks |= set(more)
    return hint, marks


def _marks(form: Any) -> set[Any]:
    return set(typing.get_args(form[int])[1:])


def values_of(argv: Sequence[str], name: str) -> list[str]:
    """Return the words given to an option in a command line: up to the next option."""
    for at, word in enumerate(argv, 1):
        given, equals, value = word.partition("=")
        if given.replace("_", "-") != name:
            continue
        if equals:
            return [value]
        return [*itertools.takewhile(lambda word: not word.startswith("--"), argv[at:])]
    return []


def parse(prog: str, settings: type[T] | T, argv: Sequence[str]) -> T:
    """Parse the words after a verb into a dataclass, or into one with the defaults of an instance.

    Raises:
        HelpShown: the command line contains --help.
        BadInput: an option is unknown, given twice, missing or has a value that it cannot have.
    """
    import tyro

    is_type = isinstance(settings, type)
    kind: type[T] = settings if is_type else type(settings)
    known = options(kind)
    _check_names(argv, known, prog)
    _check_numbers(argv, known)
    _check_texts(argv, known)
    for owner in {kind, *(option.owner for option in known)}:
        _join_lines_of_help(owner)
    box = io.StringIO()
    try:
        # Suppressed: stdout, which takes the help, is full or has no reader any more.
        lost = [OSError] if {"-h", "--help"} & {*argv} else []
        with contextlib.redirect_stderr(box), contextlib.suppress(*lost):
            if is_type:
                parsed = tyro.cli(kind, prog=prog, args=[*argv])
            else:
                parsed = tyro.cli(kind, default=settings, prog=prog, args=[*argv])
            _check_positional(parsed, known, argv)
            return parsed
    except SystemExit as ended:
        if ended.code in (0, None):
            raise HelpShown from None
        text = _explained(box.getvalue(), known, argv)
        raise BadInput(f"{text} ({prog} --help lists all options)") from None
    raise HelpShown


def _check_positional(settings: Any, known: Sequence[Option], argv: Sequence[str]) -> None:
    """Refuse a list of positional arguments that is empty."""
    for option in known:
        if not option.name.startswith("--") and getattr(settings, option.field.name) == ():
            raise BadInput(_missing([option.name], known, argv))


def _check_numbers(argv: Sequence[str], known: Sequence[Option]) -> None:
    """Refuse numbers that are out of their range; words that are no numbers are left to tyro."""
    for option in known:
        if option.range is not None:
            for word in values_of(argv, option.name):
                with contextlib.suppress(ValueError):
                    if float(word) not in option.range:
                        raise BadInput(f"{option.name} is {word}; it must be {option.range}")


def _check_texts(argv: Sequence[str], known: Sequence[Option]) -> None:
    """Refuse texts that no file can store: bytes that are not UTF-8. Paths may have any."""
    for option in known:
        for word in values_of(argv, option.name) if "Path" not in str(option.hint) else ():
            if any("\ud800" <= c <= "\udfff" for c in word):
                raise BadInput(f"{option.name} has bytes that are no UTF-8 text: {word!a}")


def _join_lines_of_help(kind: type) -> None:
    """Let tyro wrap the help of each field as one paragraph; it keeps line breaks of the source."""
    texts = field_texts(kind)
    for field in dataclasses.fields(kind):
        if field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})


def _check_names(argv: Sequence[str], known: Sequence[Option], prog: str) -> None:
    """Refuse options that do not exist, and those that are given twice."""
    owners = {form: option for option in known for form in option.spellings}
    seen: dict[str, str] = {}
    for word in argv:
        given = word.partition("=")[0]
        if not given.startswith("--") or given in ("--", "--help"):
            continue
        form = given.replace("_", "-")
        if form not in owners:
            same = [name for name in owners if name.rpartition(".")[2] == form.lstrip("-")]
            meant = same[0] if same else nearest(form, owners)
            question = f". Did you mean {meant}?" if meant else f" ({prog} --help lists all)"
            raise BadInput(f"there is no option {given}{question}")
        name = owners[form].name
        if name in seen:
            both = given if seen[name] == given else f"{seen[name]} and {given}"
            raise BadInput(f"{both} given twice; give the option once")
        seen[name] = given


def named_as_typed(text: str, known: Sequence[Option], argv: Sequence[str]) -> str:
    """Return a message with the options that were given named as typed.

    A settings dataclass does not know under which prefix it is on the command line: its message
    says "crf is 99" or 'crop "top"', and the options are --video.crf and --model.crop.
    """
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    for option in known:
        if option.name in given:
            field = rf"(?<!no )(?<!the )(?<![\w.-])(\w+\.)*{option.field.name}"
            text = re.sub(rf'{field}(?= (is|are|must|has) | ")', option.name, text)
    return text


def _explained(box: str, known: Sequence[Option], argv: Sequence[str]) -> str:
    """Return the error in a box of tyro as one line, with options as typed."""
    plain = re.sub("[─│╭╮╰╯|+]|--+(?![a-z])", " ", box)  # its frame, in UTF-8 or in ASCII
    title, _, rest = plain.strip().partition("\n")
    text = " ".join(rest.split())
    if title.strip() == "Required options":
        missing = re.findall(r"^ +(--\S+|[A-Z][A-Z_]*)(?= |$)", rest, flags=re.MULTILINE)
        return _missing(missing, known, argv)
    if found := re.match(r"Unrecognized options: (\S+)", text):
        return f"{found[1].rstrip(',')} is not expected here"
    options = {option.name: option for option in known}
    found = re.search(r"(?:argument '|Error parsing )(--[\w.-]+)", text)
    if found is None or found[1] not in options:
        return f"{title.strip()}: {text.partition('For full helptext')[0]}"
    name, choices = found[1], _choices(options[found[1]].hint)
    values = values_of(argv, name)
    value = next((v for v in values if v not in choices), values[0] if values else "")
    if "Missing value" in text:
        return f"{name} needs a value: {_expected(options[name].hint)}"
    meant = nearest(value, choices)
    question = f". Did you mean {meant}?" if meant else ""
    return f'{name} is "{value}"; expected {_expected(options[name].hint)}{question}'


def _missing(names: Sequence[str], known: Sequence[Option], argv: Sequence[str]) -> str:
    """Return the refusal of a command line without these options or arguments."""
    message = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    lists = [o.name for o in known if len(values_of(argv, o.name)) > 1]
    if lists and not all(name.startswith("--") for name in names):
        message += f"; give it before {lists[-1]}, which takes all words that follow it"
    return message


def _choices(hint: Any) -> list[str]:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [str(part) for part in parts]
    return [choice for part in parts for choice in _choices(part)]


def _expected(hint: Any) -> str:
    """Return in words what values an option takes."""
    if choices := _choices(hint):
        return ", ".join(choices)
    words = {int: "an integer", float: "a number", str: "text", Path: "a path"}
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if kind in words]
    return words[kinds[0]] if kinds else "another value"


def shallow_dict(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name; nested dataclasses stay as they are."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def require_path(path: Path, what: str) -> None:
    """Refuse a path at which there is nothing, before anything heavy is imported."""
    if not path.exists():
        raise BadInput(f"{path}: there is no such {what}")


def require_paths(paths: Sequence[Path], what: str) -> None:
    """Refuse paths at which there is nothing."""
    for path in paths:
        require_path(path, what)
