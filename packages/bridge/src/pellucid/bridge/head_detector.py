"""The head detector under the names that users of TransformerLens know.

`detect_head` scores every head of a model against a pattern; three patterns have names.
"""

from pellucid.bridge._analysis._head_detector import (
    HEAD_NAMES,
    detect_head,
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)

__all__ = [
    "HEAD_NAMES",
    "detect_head",
    "get_duplicate_token_head_detection_pattern",
    "get_induction_head_detection_pattern",
    "get_previous_token_head_detection_pattern",
]
