"""The words of the prompt that a causal language model is asked with, and its answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import utils
from emotion import outputs

KOREAN = {  # the eight emotions, as the task names them
    **{"joy": "기쁨", "anticipation": "기대", "trust": "신뢰", "surprise": "놀람"},
    **{"disgust": "혐오", "fear": "공포", "anger": "분노", "sadness": "슬픔"},
}
PROMPTS: dict[str, dict[str, Any]] = {  # in the layout that KULLM was tuned with
    "ko": {
        "prefix": (
            "명령어와 입력을 읽고 알맞은 응답을 쓰세요.\n\n### 명령어:\n"
            "입력의 글쓴이가 대상에게 보이는 감정을 고르세요: {}. "
            "감정이 없으면 {}이라고 답하세요.\n\n### 입력:\n"
        ),
        "target": "\n대상: ",
        "response": "\n\n### 응답:",
        "behind": ("\n", " "),
        "or": ", ",
        "none": ("없음", "해당 없음"),
        "answers": KOREAN | {"surprise": "깜짝"},  # a single token of that model
    },
    "en": {
        "prefix": (
            "Read the instruction and the input, then write the response.\n\n### Instruction:\n"
            "Which emotion does the writer of the input show towards the target: {}? "
            "If there is no emotion, answer {}.\n\n### Input:\n"
        ),
        "target": "\nTarget: ",
        "response": "\n\n### Response:",
        "behind": (" ", "\n"),
        "or": " or ",
        "none": ("none", "nothing"),
        "answers": {},
    },
}


def make_strings(
    language: str,
    labels: Sequence[str],
    tokenizer: Any = None,
    given: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The words of a prompt: "prefix", "target", "response", and "answers", the last for none.

    Answers stand in a line of their own, or behind a space: as they take fewer tokens of the
    tokenizer.

    Args:
        given: answers of labels, instead of those that the eight emotions have here, and of the
            labels themselves.
    """
    words = PROMPTS[language]
    known = words["answers"] | (given or {})
    answers = [known.get(label, label) for label in labels]
    none = next((word for word in words["none"] if word not in answers), None)
    if none is None:
        told = f"{' and '.join(words['none'])} are answers of labels, and one has to mean none"
        raise utils.InputError(f"{told}; give others with --answers")
    listed = words["or"].join([", ".join(answers[:-1])] * (len(answers) > 1) + answers[-1:])
    answers.append(none)

    def tokens(behind: str) -> int:
        asked = [behind.strip("\n") + answer for answer in answers]
        return sum(map(len, tokenizer(asked, add_special_tokens=False)["input_ids"]))

    behind = min(words["behind"], key=tokens) if tokenizer else words["behind"][0]
    space, line = behind.strip("\n"), behind.strip(" ")
    return {
        "prefix": words["prefix"].format(listed, none),
        "target": words["target"],
        "response": words["response"] + line,
        "answers": [space + answer for answer in answers],
    }


def read_answers(path: Path | None, labels: Sequence[str]) -> dict[str, str]:
    """The answers of a JSON file, from labels to words.

    Raises:
        utils.InputError: it is no such file, or names what is no label.
    """
    if path is None:
        return {}
    answers = outputs.read_json(path)
    words = [None] if answers is None else answers.values()
    if not all(isinstance(each, str) and each.strip() for each in words):
        told = 'is no JSON object of words, as {"joy": "기쁨"}'
        raise utils.InputError(f"--answers {path}: {told}; write one")
    if unknown := sorted(answers.keys() - set(labels)):
        told = f"{unknown[0]!r} is no label; these are {', '.join(labels)}"
        raise utils.InputError(f"--answers {path}: {told}")
    return {label: answer.strip() for label, answer in answers.items()}
