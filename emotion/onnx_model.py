"""An encoder's checkpoint as ONNX: written, quantised, and called as the model that it was."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

import utils
from emotion import process
from emotion.checkpoint import INSTALL
from emotion.modeling import GRUClassifier

FILE = "model.onnx"
KINDS = ("fp32", "int8")


class OnnxClassifier:
    """An exported encoder, called as a model of transformers is.

    Raises:
        utils.InputError: onnxruntime is not installed, or does not read the file.
    """

    def __init__(self, path: Path, config: Any) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise utils.InputError(f"{path}: needs onnxruntime; {INSTALL}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            given = str(path / FILE), options
            self.session = onnxruntime.InferenceSession(*given, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each
            told = f"cannot be loaded: {process.cause(error)}"
            raise utils.InputError(f"{path / FILE}: {told}") from None
        self.config, self.precision = config, "fp32"  # what is not int8
        self.device = torch.device("cpu")

    def __call__(self, **inputs: torch.Tensor) -> SequenceClassifierOutput:
        """Logits [batch, labels]."""
        wanted = {each.name: inputs[each.name].cpu() for each in self.session.get_inputs()}
        given = {name: each.numpy() for name, each in wanted.items()}
        [logits] = self.session.run(None, given)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def to(self, device: torch.device) -> "OnnxClassifier":
        """The same: it runs on the CPU."""
        return self

    def eval(self) -> "OnnxClassifier":
        """The same: it does not train."""
        return self

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """None that can be looked at."""
        return iter(())


class MaskedGRU(nn.Module):
    """A bidirectional GRU that reads padded lines as one reads packed ones.

    ONNX has no packed sequences. Each direction of each layer is a GRU of its own; backwards, a
    line is turned within its length, and its padding stays behind it.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.directions = nn.ModuleList()
        for layer in layers:
            for suffix in ("", "_reverse"):
                kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                own = {f"{kind}_l0": getattr(layer, f"{kind}_l0{suffix}") for kind in kinds}
                one = nn.GRU(layer.input_size, layer.hidden_size, batch_first=True)
                one.load_state_dict(own)
                self.directions.append(one)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """[batch, length, size] to the final states [batch, layers * directions * hidden]."""
        place = torch.arange(hidden.shape[1], device=hidden.device)
        turned = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)

        def turn(states: torch.Tensor) -> torch.Tensor:
            return states.gather(1, turned[..., None].expand(-1, -1, states.shape[-1]))

        finals = []
        for number in range(0, len(self.directions), 2):
            onward, _ = self.directions[number](hidden)
            backward, _ = self.directions[number + 1](turn(hidden))
            for states in (onward, backward):
                last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[-1])
                finals.append(states.gather(1, last)[:, 0])
            hidden = torch.cat([onward, turn(backward)], dim=-1)
        return torch.cat(finals, dim=-1)


class Exported(nn.Module):
    """What is exported of a classifier: from its inputs to its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.gru = MaskedGRU(model.gru) if isinstance(model, GRUClassifier) else None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [batch, labels]."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self.gru is None:
            return self.model(**inputs).logits
        hidden = self.model.encoder(**inputs).last_hidden_state
        final = self.gru(hidden, attention_mask.sum(1))
        return self.model.classifier(torch.cat([hidden[:, 0], final], dim=-1))


def write(model: Any, inputs: dict[str, torch.Tensor], directory: Path) -> None:
    """Write an encoder in float32 to `directory/fp32/model.onnx`, and in int8 to `int8`.

    Weights of products are quantised one channel at a time, their inputs as they come (dynamic
    quantisation).

    Args:
        model: in evaluation mode, on the CPU.
        inputs: of a batch of two lines and two tokens at least, to trace with; both sizes are left
            open.

    Raises:
        utils.InputError: onnx is not installed, or the model cannot be exported.
    """
    try:
        from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic
    except ImportError:
        raise utils.InputError(f"ONNX needs onnx and onnxruntime; {INSTALL}") from None
    exact, small = (directory / kind / FILE for kind in KINDS)
    logging.disable(logging.WARNING)  # both libraries speak of what is not to be mended here
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        torch.onnx.export(
            Exported(model).eval(),
            kwargs=inputs,
            f=exact,
            dynamic_shapes={name: sizes for name in inputs},
            input_names=list(inputs),
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch, FILE)
            quant_pre_process(exact, plain, skip_symbolic_shape=True)
            quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
    except OSError:  # as of a full disk
        raise
    except Exception as error:  # each layer fails in its own way
        told = f"{type(model).__name__} cannot be exported ({process.cause(error)})"
        raise utils.InputError(f"{told}; take another checkpoint") from error
    finally:
        logging.disable(logging.NOTSET)


def copy_beside(checkpoint: Path, directory: Path) -> None:
    """Copy the files of a checkpoint but for its weights, its code and its card."""
    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".py", ".md"):
            shutil.copy2(file, directory / file.name)
