"""Fine-tune an encoder to tell which of eight emotions a Korean sentence shows towards its target.

As bert_plain.py, with a bidirectional GRU over the encoder's token representations, joined with that of [CLS].

    python bert_GRU.py                   klue/roberta-large on the national corpus, on one GPU
    python bert_GRU.py --sample          a tiny model on the sample corpus: offline, on a CPU, two minutes
    python bert_GRU.py --model-ckpt-path outputs/bert_GRU/best --test-file FILE --output-dir DIR
                                         predict a file with a trained checkpoint
"""

import utils

parser = utils.bert_argument_parser(__doc__, "bert_GRU", head_lr=1e-3)

if __name__ == "__main__":  # a wrong argument or file is told before the seconds that the imports below take
    args, corpora = utils.parse_arguments(parser, lambda args: utils.check_encoder(args, ("GRUClassifier",)))

import torch
from torch import nn

import bert_plain


class GRUClassifier(bert_plain.EncoderClassifier):
    """A 2-layer bidirectional GRU over the encoder's last hidden states.

    The final states of every layer and direction stand beside the [CLS] representation, before three fully-connected
    layers of the feature width, twice that and twice that.
    """

    def __init__(self, config):
        super().__init__(config)
        self.gru = nn.GRU(config.hidden_size, 512, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True)
        width = config.hidden_size + 4 * 512
        self.classifier = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * width, config.num_labels),
        )
        self.post_init()

    def pool(self, hidden, attention_mask):
        """[batch, length, hidden] to [batch, hidden + 4 * 512]; packing keeps the GRU from reading padding."""
        lengths = attention_mask.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
        _, final = self.gru(packed)  # [layers * directions, batch, 512]
        return torch.cat([hidden[:, 0], final.transpose(0, 1).flatten(1)], dim=-1)


if __name__ == "__main__":
    with utils.errors_for_people(parser, args):
        bert_plain.main(args, corpora, GRUClassifier)
