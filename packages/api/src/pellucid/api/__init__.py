"""Language models and encoders behind an API.

Requests run side by side under one policy: retries of what can succeed again, rate limits, budgets
in tokens and money, a cache that processes share. Provider SDKs are extras, imported when used.
"""

from pellucid.api._errors import (
    AuthenticationError,
    BatchError,
    CacheError,
    RequestError,
    ResponseError,
    SpendingLimitError,
)
from pellucid.api._gemini import EncoderGeminiModel
from pellucid.api._litellm import LiteLLMModel
from pellucid.api._openai import EncoderOpenAIModel
from pellucid.api._pass_on import PassOnModel
from pellucid.api._policy import RetryPolicy
from pellucid.api._spending import RequestStats
from pellucid.api._tiktoken import OpenAITokenizer
from pellucid.api._voyage import EncoderVoyageModel

__all__ = [
    "AuthenticationError",
    "BatchError",
    "CacheError",
    "EncoderGeminiModel",
    "EncoderOpenAIModel",
    "EncoderVoyageModel",
    "LiteLLMModel",
    "OpenAITokenizer",
    "PassOnModel",
    "RequestError",
    "RequestStats",
    "ResponseError",
    "RetryPolicy",
    "SpendingLimitError",
]
