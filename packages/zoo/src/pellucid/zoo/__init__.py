"""Tiny trained models that come with the package.

`load` returns a model and its tokenizer without any download, the same ones every time. `questions`
gives some questions that the model was trained to answer, with the right answers, and `names` and
`path` say which models there are and where their files lie.
"""

from pellucid.zoo._models import load, names, path
from pellucid.zoo._questions import Question, questions

__all__ = ["Question", "load", "names", "path", "questions"]
