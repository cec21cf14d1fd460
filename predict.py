"""Tell which emotions texts show, with a checkpoint of any script.

    python predict.py CHECKPOINT "오늘 공연 너무 좋았다" ["..."] [--target 공연]
                                     a table on the screen; in a pipe, JSON Lines
    python predict.py CHECKPOINT --input FILE [--output FILE]
                                     .jsonl (corpus form), .csv, .tsv, or .txt (a text a line)
    ... | python predict.py CHECKPOINT
                                     a text a line from standard input; JSON Lines come out
    python predict.py CHECKPOINT --serve [PORT]
                                     a page to try it on, in a browser

CHECKPOINT is best/ of a run, a run's output directory, that of ensemble.py, or a hub id. In Python:

    from predict import load
    classify = load("outputs/bert_plain/best")
    classify(["오늘 공연 너무 좋았다"])        a list of {"text", "target", "emotions", "scores"}
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import utils
from emotion import cli, process, tables, texts


def argument_parser() -> cli.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser("predict.py", __doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a directory or a hub id")
    told = "a sentence; behind -- where it begins with -"
    parser.add_argument("texts", metavar="TEXT", nargs="*", help=told)
    parser.add_argument("--target", metavar="TEXT", help="what the sentences are about")
    files = parser.add_argument_group("files")
    files.add_argument("--input", metavar="FILE", type=Path, help="texts to read")
    told = "where predictions go, in the form of the input; default: standard output"
    files.add_argument("--output", metavar="FILE", type=Path, help=told)
    told = "of the input; default: by its ending"
    files.add_argument("--format", choices=texts.FORMATS, help=told)
    told = f"of a table; default: {', '.join(texts.TEXT_COLUMNS)}, whichever is there"
    files.add_argument("--text-column", metavar="NAME", type=tables.column, help=told)
    told = "of a table; default: none"
    files.add_argument("--target-column", metavar="NAME", type=tables.column, help=told)
    cli.add_threshold(parser)
    cli.add_precision(parser)
    told = "texts scored at once; default: 48, or with an adapter as many as fill 4,096 tokens"
    cli.count(parser, "--batch-size", None, told)
    page = parser.add_argument_group("page")
    told = "show a page, and a programming interface, on this port; default: %(const)s"
    port = cli.number(int, 1, 65535)
    page.add_argument("--serve", metavar="PORT", nargs="?", type=port, const=7860, help=told)
    told = "the address that it listens at; default: 127.0.0.1, this machine alone"
    page.add_argument("--host", metavar="ADDRESS", help=told)
    return parser


def load(
    checkpoint: str | Path,
    threshold: str | float = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
) -> Callable[..., list[dict[str, Any]]]:
    """Load a checkpoint; returns a function from texts to their emotions.

    The function takes `texts`, and `targets`, for each text a string, {"form", "begin", "end"}
    where it is to be marked in the text, or None. It gives for each {"text", "target",
    "emotions": the labels present, "scores": {label: probability}}; a text without a visible
    character shows none, and its scores are None.

    Raises:
        utils.InputError: it is no checkpoint, or cannot be loaded.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        told = f"batch_size: is {batch_size!r}; give a whole number from 1 on, or None"
        raise utils.InputError(told)
    process.quiet_libraries()
    from emotion import classifier

    found = classifier.load(checkpoint, threshold, precision, batch_size)

    def classify(
        texts: Sequence[str], targets: Sequence[str | dict[str, Any] | None] | None = None
    ) -> list[dict[str, Any]]:
        if isinstance(texts, str) or isinstance(targets, str):
            raise utils.InputError("texts and targets are lists; give [text], and targets=[target]")
        targets = [None] * len(texts) if targets is None else targets
        if len(texts) != len(targets):
            told = f"texts are {len(texts)}, and targets {len(targets)}; give one for each, or None"
            raise utils.InputError(told)
        for each, kinds in ((texts, str), (targets, str | dict | None)):
            if odd := [one for one in each if not isinstance(one, kinds)]:
                raise utils.InputError(f"{odd[0]!r} is no text, and no target; give strings")
        about = [{"form": each} if isinstance(each, str) else each for each in targets]
        rows: list[utils.Row] = [
            {"input": {"form": text, "target": target}}
            for text, target in zip(texts, about, strict=True)
        ]
        seen = [number for number, text in enumerate(texts) if utils.normalise_text(text)]
        results: list[dict[str, Any]] = [
            {"text": text, "target": target.get("form") if isinstance(target, dict) else None}
            | {"emotions": [], "scores": dict.fromkeys(found.labels)}
            for text, target in zip(texts, about, strict=True)
        ]
        scores = found.score_rows([rows[n] for n in seen], lambda lines: None) if seen else []
        for number, of_row in zip(seen, scores, strict=True):
            present = zip(found.labels, found.rule(of_row), strict=True)
            results[number]["emotions"] = [name for name, is_there in present if is_there]
            results[number]["scores"].update(zip(found.labels, of_row.tolist(), strict=True))
        return results

    return classify


def predict(args: Any) -> None:
    """Read texts, classify them window by window, and write what was found as it comes; or show a
    page.
    """
    given = args.checkpoint, args.threshold, args.precision, args.batch_size
    if args.serve:
        texts.check_nothing_to_read(args)
        from emotion import page

        host = args.host or "127.0.0.1"
        return page.serve(lambda: load(*given), Path(args.checkpoint).name, host, args.serve)
    if args.host:
        raise utils.InputError("--host: is the address of a page; give --serve too")
    source, classify = texts.open_source(args), load(*given)
    with texts.open_sink(args, source) as write:
        for window in source.windows():
            write(window, classify(window.texts, window.targets))


def main(argv: Sequence[str] | None = None) -> None:
    """Predict."""
    cli.run_tool(argument_parser(), predict, argv)


if __name__ == "__main__":
    main()
