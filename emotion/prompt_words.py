"""The words of the prompt that a causal language model is asked with, and its answers."""

from collections.abc import Sequence
from typing import Any

KOREAN = {  # the eight emotions, as the task names them
    **{"joy": "기쁨", "anticipation": "기대", "trust": "신뢰", "surprise": "놀람"},
    **{"disgust": "혐오", "fear": "공포", "anger": "분노", "sadness": "슬픔"},
}
PROMPTS: dict[str, dict[str, Any]] = {  # in the layout that KULLM was tuned with
    "ko": {
        "prefix": (
            "명령어와 입력을 읽고 알맞은 응답을 쓰세요.\n\n### 명령어:\n"
            "입력의 글쓴이가 대상에게 보이는 감정을 고르세요: {}. "
            "감정이 없으면 없음이라고 답하세요.\n\n### 입력:\n"
        ),
        "target": "\n대상: ",
        "response": "\n\n### 응답:\n",
        "before an answer": "",
        "or": ", ",
        "none": "없음",
        "answers": KOREAN | {"surprise": "깜짝"},  # a single token of that model
    },
    "en": {
        "prefix": (
            "Read the instruction and the input, then write the response.\n\n### Instruction:\n"
            "Which emotion does the writer of the input show towards the target: {}? "
            "If there is no emotion, answer none.\n\n### Input:\n"
        ),
        "target": "\nTarget: ",
        "response": "\n\n### Response:",
        "before an answer": " ",
        "or": " or ",
        "none": "none",
        "answers": {},
    },
}


def make_strings(language: str, labels: Sequence[str]) -> dict[str, Any]:
    """The words of a prompt: "prefix", "target", "response", and "answers", the last for none."""
    words = PROMPTS[language]
    answers = [words["answers"].get(label, label) for label in labels]
    listed = words["or"].join([", ".join(answers[:-1])] * (len(answers) > 1) + answers[-1:])
    return {
        "prefix": words["prefix"].format(listed),
        "target": words["target"],
        "response": words["response"],
        "answers": [words["before an answer"] + each for each in (*answers, words["none"])],
    }
