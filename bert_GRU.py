"""Fine-tune an encoder to tell which of eight emotions a Korean sentence shows towards its target.

As bert_plain.py, with a bidirectional GRU over the encoder's token representations, joined with
that of [CLS]: `emotion.modeling.GRUClassifier`.

    python bert_GRU.py               klue/roberta-large on the national corpus, on one GPU
    python bert_GRU.py --sample      a tiny model on the sample corpus: offline, on a CPU
    python bert_GRU.py --model-ckpt-path outputs/bert_GRU/best --test-file FILE --output-dir DIR
                                     predict a file with a trained checkpoint
"""

import argparse
from collections.abc import Sequence

import bert_plain
from emotion import cli
from emotion.run import Run


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or predict with what was trained."""

    parser = bert_plain.argument_parser("bert_GRU", __doc__)

    def recipe(args: argparse.Namespace, run: Run) -> None:
        if args.model_ckpt_path:
            bert_plain.predict(args, run, parser, ("GRUClassifier",))
        else:
            bert_plain.train(args, run, head="gru")

    cli.run_script(parser, recipe, argv)


if __name__ == "__main__":
    main()
